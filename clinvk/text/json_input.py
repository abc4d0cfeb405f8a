"""JSON input: a text, with the same bounds as YAML in `text.yaml`, or the objects in a line."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from math import isfinite
from typing import Any

from clinvk.text.sanitize import sequences_end
from clinvk.text.yaml import DEEP, DIGITS, MAX_DEPTH


def _finite(text: str) -> float | None:
    value = float(text)
    return value if isfinite(value) else None


def _nothing(_: str) -> None:
    return None


# Of a program's output: NaN, Infinity and numbers like 1e999 are null, as in JavaScript's own JSON,
# since they could not be written as JSON again.
_VALUE = json.JSONDecoder(parse_float=_finite, parse_constant=_nothing)
# It also accepts raw control characters in strings.
DECODER = json.JSONDecoder(parse_float=_finite, parse_constant=_nothing, strict=False)
_SPACE = re.compile(r"[\s\ufeff]*")


class JsonError(ValueError):
    """The text is not JSON, or too large."""


def parse_value(text: str) -> Any:
    """The value that a program has printed, without what is nested too deeply. Raises `ValueError`
    and `RecursionError`."""
    return _shallow(_VALUE.decode(text), text)


def load(text: str | bytes, parse_float: Callable[[str], float] | None = None) -> Any:
    """The data in the text. Raises `JsonError`."""
    try:
        data = json.loads(text, parse_float=parse_float)
    except RecursionError:
        raise JsonError(DEEP) from None
    except json.JSONDecodeError as error:
        raise JsonError(f"not JSON: {error}") from error
    except UnicodeDecodeError as error:
        raise JsonError(f"not UTF-8: {error.reason} at byte {error.start}") from error
    except ValueError as error:
        raise JsonError(f"a number with more than {DIGITS:,} digits") from error
    if is_deep(data):
        raise JsonError(DEEP)
    return data


def is_deep(data: Any) -> bool:
    """Whether the data has more levels than its readers, which recurse, can be sure to manage."""
    return bool(_level(data, MAX_DEPTH))


def _shallow(data: Any, text: str) -> Any:
    """The data with "…" in place of what is nested too deeply, so that the rest can be used."""
    # Most lines have few brackets, and most long lines few values.
    if len(text) > 100_000 or text.count("{") + text.count("[") > MAX_DEPTH:
        for found in _level(data, MAX_DEPTH - 1):
            for key, value in list(found.items() if isinstance(found, dict) else enumerate(found)):
                if isinstance(value, (dict, list)):
                    found[key] = "…"
    return data


def _level(data: Any, depth: int) -> list[Any]:
    """The objects and lists that are so many levels deep in the data."""
    level = [data] if isinstance(data, (dict, list)) else []
    for _ in range(depth):
        level = [
            value
            for found in level
            for value in (found.values() if isinstance(found, dict) else found)
            if isinstance(value, (dict, list))
        ]
    return level


def split_objects(line: bytes) -> tuple[list[dict[str, Any]], str]:
    """The objects in a line of output, and the rest of the line.

    Control sequences may precede, separate and follow the objects: a program that sets the title of
    the window prints no newline after it. With other text before the first object, the whole line
    is text, unless a carriage return starts the line over."""
    text = line.decode("utf-8", "replace")
    at = _skip(text, 0)
    if text[at : at + 1] not in ("{", "") and (start := text.find("\r", at)) > 0:
        at = _skip(text, start)
    objects: list[dict[str, Any]] = []
    rest = [text[:at]]
    while text[at : at + 1] == "{":
        try:
            value, end = DECODER.raw_decode(text, at)
        except (ValueError, RecursionError):
            break
        objects.append(_shallow(value, text))
        at = _skip(text, end)
        rest.append(text[end:at])
    return objects, "".join([*rest, text[at:]]) if objects else text


def _skip(text: str, at: int) -> int:
    """The end of the white space and control sequences that begin at `at`."""
    while True:
        space = _SPACE.match(text, at)
        end = sequences_end(text, space.end() if space else at)
        if end == at:
            return at
        at = end
