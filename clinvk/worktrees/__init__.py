"""Git worktrees in which tasks run, and their results: commits that no branch shows."""
