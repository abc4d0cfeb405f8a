"""Checking a turn's work: run a command, compare failures, look for changed files."""
