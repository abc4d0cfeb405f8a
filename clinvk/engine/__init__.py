"""Runs of plans: which tasks they run, what is recorded of them, and how they are continued."""
