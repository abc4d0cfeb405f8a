"""What is added to a prompt: stored notes, files, passages that match it."""
