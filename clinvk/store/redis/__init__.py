"""Sessions on a Redis server."""
