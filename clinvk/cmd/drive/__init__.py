"""Run a request or a plan for a command, and show it."""
