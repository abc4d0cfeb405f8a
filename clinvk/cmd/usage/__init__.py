"""Help, and what is wrong with a command line."""
