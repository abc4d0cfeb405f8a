"""The JSON in an answer of a model, which may say something before it or put it into a block."""

from __future__ import annotations

import json
import re
from typing import Any

from clinvk.text.json_input import DECODER, is_deep

MAX_STARTS = 2_000  # places at which a value may begin that are tried
MAX_EFFORT = 200_000  # characters that are read in vain, beyond the length of the text
MANY_LEVELS = 10_000  # what it costs to find a text nested too deeply, in characters

_START = re.compile(r"[\[{]")
_OPENING = re.compile(r" {0,3}(`{3,}|~{3,})[^`]*")
_CLOSING = re.compile(r" {0,3}[`~]+ *")


class NoJson(ValueError):  # noqa: N818 - reads as what it says
    """There is no JSON value in the text."""


def last_value(text: str) -> Any:
    """The value that the text is; otherwise the value in its last code block, or the last object or
    list in it. Raises `NoJson`."""
    for part in (text, *reversed(_code_blocks(text))):
        try:
            value = DECODER.decode(part.strip(" \t\r\n\ufeff"))
        except (ValueError, RecursionError):
            continue
        if not is_deep(value):
            return value
    return _last_inside(text)


def _code_blocks(text: str) -> list[str]:
    # Line by line: a pattern for all of a block takes quadratic time if many begin and none ends.
    blocks: list[str] = []
    inside: list[str] = []
    fence = ""
    for line in text.split("\n"):
        if not fence:
            if opening := _OPENING.fullmatch(line):
                fence, inside = opening[1], []
        elif line.lstrip(" ").startswith(fence) and _CLOSING.fullmatch(line):
            blocks.append("\n".join(inside))
            fence = ""
        else:
            inside.append(line)
    return blocks


def _last_inside(text: str) -> Any:
    found: list[Any] = []
    at, failed, effort = 0, 0, MAX_EFFORT + len(text)
    while failed < MAX_STARTS and effort > 0 and (start := _START.search(text, at)):
        try:
            value, at = DECODER.raw_decode(text, start.start())
        except json.JSONDecodeError as error:
            at, failed = start.end(), failed + 1
            effort -= error.pos - start.start()
        except (ValueError, RecursionError):  # a number of thousands of digits, or many levels
            at, failed = start.end(), failed + 1
            effort -= MANY_LEVELS
        else:
            found = [] if is_deep(value) else [value]
    if not found:
        raise NoJson("there is no JSON in it")
    return found[0]
