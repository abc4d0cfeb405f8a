"""Commands that set clinvk up, and say what is there."""
