"""The interactive prompt: one conversation after another, on a terminal or line by line."""
