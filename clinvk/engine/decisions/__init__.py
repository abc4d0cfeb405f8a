"""Tasks that choose between candidates."""
