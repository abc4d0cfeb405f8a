"""The JSON in an answer of a model, which may say something before it or put it into a block."""

from __future__ import annotations

import re
from typing import Any

from clinvk.text.json_input import DECODER, is_deep

MAX_STARTS = 2_000  # places at which a value may begin that are tried

_START = re.compile(r"[\[{]")
_BLOCK = re.compile(
    r"^ {0,3}(`{3,}|~{3,})[^\n`]*\n(.*?)^ {0,3}\1[`~]* *$", re.MULTILINE | re.DOTALL
)


class NoJson(ValueError):  # noqa: N818 - reads as what it says
    """There is no JSON value in the text."""


def last_value(text: str) -> Any:
    """The value that the text is; otherwise the value in its last code block, or the last object or
    list in it. Raises `NoJson`."""
    for part in (text, *reversed([match[2] for match in _BLOCK.finditer(text)])):
        try:
            value = DECODER.decode(part.strip(" \t\r\n\ufeff"))
        except (ValueError, RecursionError):
            continue
        if not is_deep(value):
            return value
    return _last_inside(text)


def _last_inside(text: str) -> Any:
    found: list[Any] = []
    at, failed = 0, 0
    while failed < MAX_STARTS and (start := _START.search(text, at)):
        try:
            value, at = DECODER.raw_decode(text, start.start())
        except (ValueError, RecursionError):
            at, failed = start.end(), failed + 1
        else:
            found = [] if is_deep(value) else [value]
    if not found:
        raise NoJson("there is no JSON in it")
    return found[0]
