"""The turn of a session in the CLI's own screen."""
