"""In which order the tasks of a plan run, and how far."""
