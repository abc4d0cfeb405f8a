"""Data shared by all parts of clinvk: requests, events, results, sessions, plans."""
