"""The records of runs in Redis, for runs that any machine can drive, follow and resume."""
