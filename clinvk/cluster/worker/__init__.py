"""A node of a cluster: takes attempts, runs them here, and reports what happens."""
