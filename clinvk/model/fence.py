"""Lines around a text in a prompt, which nothing inside the text can imitate."""

from __future__ import annotations

import os


def random_word() -> str:
    """A word that the author of the text cannot know."""
    return os.urandom(8).hex()


def fence(what: str, text: str, word: str) -> str:
    """The text between two lines that say what it is, and hold the word."""
    return f"=== {word}: {what} begins ===\n{text}\n=== {word}: {what} ends ==="
