"""The records of runs: directories, journals, event logs."""
