"""Rate limits that the workers of a cluster have met, known to all of its workers and runs."""
