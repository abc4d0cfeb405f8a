"""The interactive prompt on the command line."""
