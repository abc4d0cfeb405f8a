"""Turns that continue in another turn: after a rate limit, or to correct an answer."""
