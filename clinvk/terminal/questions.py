"""Questions to the user at the terminal."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from clinvk.errors import UsageError
from clinvk.terminal.keyboard import ask_line, ask_line_or_none
from clinvk.terminal.printer import Printer, safe


def can_ask() -> bool:
    """Whether there is a terminal to ask on."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def confirm(question: str) -> bool:
    """Whether the user agrees; False without a terminal."""
    if not can_ask():
        return False
    return ask_line(_wrapped(question, "[y/N]")).strip().lower() in ("y", "yes")


def confirm_or_cancel(question: str, *, default: bool = True) -> bool:
    """Whether the user agrees; Enter means `default`. Needs a terminal.

    Ctrl-D and a paste of several lines are not answers: they raise `KeyboardInterrupt`, as Ctrl-C
    does."""
    keys = "[Y/n]" if default else "[y/N]"
    while True:
        answer = ask_line_or_none(_wrapped(question, keys))
        if answer is None:
            raise KeyboardInterrupt
        word = answer.strip().lower()
        if word in ("y", "yes", "n", "no", ""):
            return word.startswith("y") if word else default
        question = "Please answer y or n."


def choose(question: str, names: Sequence[str], default: str) -> str:
    """The one of these that a person at the terminal chooses, by its number or its name; Enter
    alone means `default`. There has to be a terminal. What is no answer is as in
    `confirm_or_cancel`."""
    numbers = {str(number): name for number, name in enumerate(names, 1)}
    where = f"[1-{len(names)}, Enter for {default}]"
    while True:
        answer = ask_line_or_none(_wrapped(question, where))
        if answer is None:
            raise KeyboardInterrupt
        word = answer.strip().lower()
        if found := numbers.get(word) or next((n for n in names if n.lower() == word), None):
            return found
        if not word:
            return default
        question = "Please type a number or a name."


def confirm_deletion(question: str) -> bool:
    """Whether the user agrees to a deletion. Raises `UsageError` without a terminal."""
    if not can_ask():
        raise UsageError("refusing to delete without confirmation", "pass --yes")
    return confirm(question)


def _wrapped(question: str, keys: str) -> str:
    """The question and the possible answers, broken between words."""
    printer = Printer(sys.stderr, color=False)
    return "\n".join(printer.wrap("", f"{safe(question, sys.stderr)} {keys}")) + " "
