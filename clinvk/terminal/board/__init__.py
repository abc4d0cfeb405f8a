"""The live board of a run of many tasks, on a terminal."""
