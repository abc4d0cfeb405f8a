"""How a manifest is made ready: read from its file, checked, and changed for a version or a screen."""
