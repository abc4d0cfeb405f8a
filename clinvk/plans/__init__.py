"""What to run: task files, references, rules."""
