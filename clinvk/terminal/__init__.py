"""Output on a terminal; no command-line parsing in here."""
