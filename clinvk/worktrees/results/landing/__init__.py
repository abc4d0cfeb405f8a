"""Applying results to a working tree: all of them or none."""
