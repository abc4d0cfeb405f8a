"""The completions that zsh and fish receive.

zsh evaluates it, and typer's own quoting for zsh lets a backslash in a title or a tag end a string,
so that the rest of the title ran as a command. Both also took brackets in a title for markup.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from typing import Any

from typer import _completion_classes as typers
from typer.completion import completion_init  # type: ignore[attr-defined]


class ZshCompletion(typers.ZshComplete):
    def complete(self) -> str:
        """The command that offers the values, in our order, such as the newest session first."""
        found = self.get_completions(*self.get_completion_args())
        if not found:
            return "_files"
        words = " ".join(shlex.quote(_describe(item)) for item in found)
        return f"local -a offered; offered=({words}); _describe -V value offered"


class FishCompletion(typers.FishComplete):
    def format_completion(self, item: Any) -> str:
        return f"{item.value}\t{_one_line(item.help)}" if item.help else str(item.value)


def register_shells() -> None:
    """Let the command line answer shells that complete."""
    completion_init()
    # Typer's base class is click's, of which it has a copy in some releases.
    add_completion_class: Any = sys.modules[
        typers.ZshComplete.__mro__[1].__module__
    ].add_completion_class
    add_completion_class(ZshCompletion, "zsh")
    add_completion_class(FishCompletion, "fish")


def _describe(item: Any) -> str:
    """`value:title`, as zsh's `_describe` reads it."""
    value = str(item.value).replace("\\", "\\\\").replace(":", "\\:")
    title = _one_line(item.help or "").replace("\\", "\\\\")
    return f"{value}:{title}" if title else value


def _one_line(text: str) -> str:
    return " ".join(text.split())


def offers(root: Any, words: Sequence[str], incomplete: str) -> list[tuple[str, str]]:
    """What can follow these words of a command line, each with its meaning."""
    found = ZshCompletion(root, {}, "clinvk", "_CLINVK_COMPLETE").get_completions(
        list(words), incomplete
    )
    return [(str(item.value), _one_line(item.help or "")) for item in found]
