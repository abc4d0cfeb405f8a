"""The order in which the tasks of a plan run, and when they stop."""
