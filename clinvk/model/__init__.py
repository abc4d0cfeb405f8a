"""Data that every part of clinvk speaks of: requests, events, results, sessions, plans."""
