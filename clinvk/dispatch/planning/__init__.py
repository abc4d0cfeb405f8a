"""What is decided about a turn before anything starts."""
