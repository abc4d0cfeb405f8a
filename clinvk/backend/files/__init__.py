"""The files around a CLI: those it is given, its login, and what it leaves behind."""
