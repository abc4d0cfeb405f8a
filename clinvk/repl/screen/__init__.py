"""The prompt on a terminal, with prompt_toolkit."""
