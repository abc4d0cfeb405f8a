"""Version numbers as CLIs print them."""

from __future__ import annotations

import re

Number = tuple[int, ...]

_NUMBER = re.compile(r"(?<![\w.])v?(\d{1,9}(?:\.\d{1,9}){1,3})")


def find_version(text: str) -> str | None:
    """The first version number in the text: `2.1.329` of "2.1.329 (Claude Code)"."""
    found = _NUMBER.search(text)
    return found.group(1) if found else None


def parse_version(text: str) -> Number:
    """The version for comparison, without trailing zeros: 2.1 is 2.1.0. Raises `ValueError`."""
    if not re.fullmatch(r"\d{1,9}(\.\d{1,9}){0,3}", text):
        raise ValueError(f"{text!r} is not a version; use e.g. 2.1.329")
    numbers = [int(part) for part in text.split(".")]
    while len(numbers) > 1 and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)


def is_older(version: str, than: str) -> bool:
    return parse_version(version) < parse_version(than)
