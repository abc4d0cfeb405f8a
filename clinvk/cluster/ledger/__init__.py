"""Who runs which attempt: kept in Redis, and decided there."""
