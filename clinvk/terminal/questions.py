"""Questions to the user at the terminal."""

from __future__ import annotations

import sys

from clinvk.errors import UsageError
from clinvk.terminal.keyboard import ask_line, ask_line_or_none
from clinvk.terminal.printer import safe


def can_ask() -> bool:
    """Whether there is a terminal to ask on."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def confirm(question: str) -> bool:
    """Whether the user agrees; False without a terminal."""
    if not can_ask():
        return False
    return ask_line(f"{safe(question, sys.stderr)} [y/N] ").strip().lower() in ("y", "yes")


def confirm_or_cancel(question: str) -> bool:
    """Whether the user agrees; Enter means yes. Needs a terminal.

    Ctrl-D and a paste of several lines are not answers: they raise `KeyboardInterrupt`, as Ctrl-C
    does."""
    while True:
        answer = ask_line_or_none(f"{safe(question, sys.stderr)} [Y/n] ")
        if answer is None:
            raise KeyboardInterrupt
        word = answer.strip().lower()
        if word in ("", "y", "yes", "n", "no"):
            return not word.startswith("n")
        question = "Please answer y or n."


def confirm_deletion(question: str) -> bool:
    """Whether the user agrees to a deletion. Raises `UsageError` without a terminal."""
    if not can_ask():
        raise UsageError("refusing to delete without confirmation", "pass --yes")
    return confirm(question)
