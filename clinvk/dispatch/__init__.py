"""A request becomes events."""
