"""Help, and messages about invalid command lines."""
