"""What to do with the results of tasks: look at them, apply them, drop them."""
