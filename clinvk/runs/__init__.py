"""The results of runs: folders, journals, event logs."""
