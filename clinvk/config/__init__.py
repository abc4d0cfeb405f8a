"""The configuration: its schema, its file, and where things are."""
