"""The parts of a command: its options, its prompt and its environment, as a manifest has them."""
