"""What a check of a turn's work found, and how far the checks of a task have got."""
