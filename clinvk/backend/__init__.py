"""One AI CLI, described by a manifest."""
