"""Which tasks of a plan run when, and when they stop."""
