"""Start, read and stop programs."""
