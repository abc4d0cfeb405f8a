"""The parts of a task file, each read on its own."""
