"""Stored conversations, from Python."""
