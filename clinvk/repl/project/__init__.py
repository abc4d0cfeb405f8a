"""What the prompt does with the directory of a conversation: its changes, its commands, its notes."""
