"""Reading a prompt with a few flags, without typer: loading that takes longer than all the rest of it.

`read_quickly` gives up on all that it does not know for certain; typer reads that, and every mistake.
`tests/test_quick.py` compares the two.
"""

from __future__ import annotations

import os
from collections.abc import Container, Sequence
from pathlib import Path
from typing import Any

from msgspec import Struct

from clinvk.cmd.options.prompt_flags import PromptFlags
from clinvk.disk.empty import read_directory
from clinvk.model.option_table import OPTIONS, TURN_OPTIONS, Option


class QuickPrompt(Struct, frozen=True):
    """A prompt, its flags, and those flags that choose the session, by their parameters."""

    words: list[str]
    flags: PromptFlags
    choosing: dict[str, Any]


class _Flag(Struct, frozen=True):
    name: str  # of the parameter
    takes_value: bool = True
    repeatable: bool = False
    is_path: bool = False
    of_table: bool = False  # one of `PromptFlags.options`


FLAGS = {
    "--backend": _Flag("backend"),
    "--output-format": _Flag("output_format"),
    "--option": _Flag("option", repeatable=True),
    "--to": _Flag("to"),
    "--json": _Flag("as_json", takes_value=False),
    "--quiet": _Flag("quiet", takes_value=False),
    "--raw": _Flag("raw", takes_value=False),
    "--replay": _Flag("replay", takes_value=False),
    "--continue": _Flag("continue_", takes_value=False),
    "--anywhere": _Flag("anywhere", takes_value=False),
    "--new": _Flag("new", takes_value=False),
    "--session": _Flag("session"),
    "--auto-save": _Flag("auto_save"),
    "--template": _Flag("template"),
}
FLAGS |= {
    short: FLAGS[long]
    for short, long in {"-b": "--backend", "-o": "--output-format", "-q": "--quiet",
                        "-c": "--continue"}.items()
}  # fmt: skip
CHOOSING = ("continue_", "anywhere", "new", "session", "auto_save", "template")


def read_quickly(argv: Sequence[str], commands: Container[str]) -> QuickPrompt | None:
    """The prompt and its flags; None if that is not certain, or the first word is a command."""
    if not argv or argv[0] in commands or "_CLINVK_COMPLETE" in os.environ:
        return None
    flags = FLAGS | _flags_of_table()
    found: dict[str, Any] = {}
    options: dict[str, Any] = {option.name: None for option in OPTIONS if option.flag}
    words = []
    rest = iter(argv)
    for word in rest:
        if not word.startswith("-"):
            words.append(word)
            continue
        flag = flags.get(word)
        if flag is None:
            return None
        values = options if flag.of_table else found
        value: Any = next(rest, "") if flag.takes_value else True
        if flag.takes_value and (not value or value.startswith("-")):
            return None
        if flag.repeatable:
            values[flag.name] = [*(values.get(flag.name) or []), value]
        elif values.get(flag.name) is not None:  # given twice
            return None
        else:
            values[flag.name] = _path(flag, value) if flag.is_path and flag.takes_value else value
    if len(words) != 1 or not words[0]:
        return None
    choosing = {name: found.pop(name) for name in CHOOSING if name in found}
    blank = {name: False if kind == "bool" else None for name, kind in _KINDS.items()}
    return QuickPrompt(words, PromptFlags(**{**blank, **found, "options": options}), choosing)


def _path(flag: _Flag, value: str) -> Path:
    return read_directory(value) if flag.name == "workdir" else Path(value)


_KINDS: dict[str, Any] = PromptFlags.__annotations__  # as text


def _flags_of_table() -> dict[str, _Flag]:
    """The flags of the option table whose values are taken as they are."""
    found: dict[str, _Flag] = {}
    for option, of_table in (
        *((option, True) for option in OPTIONS),
        *((option, False) for option in TURN_OPTIONS),
    ):
        if option.flag and _is_simple(option):
            name = "tag" if option.name == "tags" else option.name
            takes_value = not (option.type is bool or option.optional_value)
            flag = _Flag(name, takes_value, option.repeatable, option.path is not None, of_table)
            found |= dict.fromkeys([option.flag, *([option.short] if option.short else [])], flag)
    return found


def _is_simple(option: Option) -> bool:
    if option.path is not None:
        return option.path == "directory" and not option.repeatable
    return option.duration or option.type not in (int, float)
