"""The configuration: its schema, its file, and the paths of other files."""
