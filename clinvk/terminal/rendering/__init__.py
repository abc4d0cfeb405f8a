"""Markdown on a terminal: whole texts, and answers while they stream."""
