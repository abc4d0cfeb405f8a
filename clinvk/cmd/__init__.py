"""The command line: one module per command, which declares its flags and builds a request."""
