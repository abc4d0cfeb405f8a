"""Questions to the person at the terminal."""

from __future__ import annotations

import sys

from clinvk.errors import SessionError
from clinvk.terminal.keyboard import ask_line
from clinvk.terminal.printer import safe


def confirm(question: str) -> bool:
    """Whether a person at the terminal agrees; False if there is no terminal."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return False
    return ask_line(f"{safe(question, sys.stderr)} [y/N] ").strip().lower() in ("y", "yes")


def confirm_deletion(question: str) -> bool:
    """Whether a person agrees to a deletion. Raises `SessionError` where nobody can be asked."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise SessionError("deleting asks first, and there is no terminal", "add --yes")
    return confirm(question)
