"""How turns and runs are shown."""
