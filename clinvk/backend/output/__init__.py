"""What a CLI prints, read by the rules of its manifest."""
