"""The command line: one module a command, each of which declares its flags and hands on."""
