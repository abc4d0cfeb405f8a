"""Which texts can be passed to a program: as an argument, a variable, a path, or on stdin."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

Place = tuple[str | int, ...]

_BAD = "[\0\ud800-\udfff]"
_HALVES = "[\ud800-\udc7f\udd00-\udfff]"
_NUL = "a NUL character, which cannot be passed to a program"
_HALF = "a lone surrogate, which is not a character"


def text_problem(text: str) -> str | None:
    """Why this text cannot be passed to a program; None if it can."""
    if text.isascii() and "\0" not in text:
        return None
    found = re.search(_BAD, text)
    return None if found is None else _NUL if found.group() == "\0" else _HALF


def nul_problem(text: str) -> str | None:
    """Why this text cannot be passed to a program once it is `sound`; None if it can."""
    return _NUL if "\0" in text else None


def sound(text: str) -> str:
    """The text with U+FFFD in place of each lone surrogate, except those that stand for bytes of the
    operating system (PEP 383)."""
    return text if text.isascii() else re.sub(_HALVES, "\ufffd", text)


def os_problem(text: str) -> str | None:
    """The same for a text of the operating system, such as an argument or a path: bytes that are
    not UTF-8 are surrogates there (PEP 383)."""
    return text_problem(text) and (_NUL if "\0" in text else input_problem(text))


def input_problem(text: str) -> str | None:
    """Why the text cannot be written to a program's stdin; None if it can."""
    try:
        text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return _HALF
    return None


def name_problem(name: str) -> str | None:
    """Why an environment variable cannot have this name; None if it can."""
    if not name:
        return "a variable without a name"
    return "a variable's name with '=' in it" if "=" in name else text_problem(name)


def texts(data: Any, place: Place = ()) -> Iterator[tuple[Place, str]]:
    """Each text in a structure of mappings and lists, keys included, with its place."""
    if isinstance(data, str):
        yield place, data
    elif isinstance(data, Mapping):
        for key, value in data.items():
            yield (*place, str(key)), str(key)
            yield from texts(value, (*place, str(key)))
    elif isinstance(data, (list, tuple)):
        for i, value in enumerate(data):
            yield from texts(value, (*place, i))
