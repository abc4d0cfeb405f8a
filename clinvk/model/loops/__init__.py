"""Loops of a chain, as they have ended."""
