"""For those who write manifests: what is wrong with one, and what it makes of a recording."""
