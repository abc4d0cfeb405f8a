"""Runs tasks on other machines. Celery delivers them; a ledger in Redis decides who runs them."""
