"""The events of a turn, folded into its result."""
