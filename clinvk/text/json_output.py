"""JSON that is safe on a terminal: control characters are escaped, other text is unchanged."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import cache
from typing import Any

# DEL and C1, which `json` does not escape; what changes the order of text; the separators of lines and
# paragraphs, where some readers end a line; surrogates, which are not valid UTF-8. `json` escapes C0
# by itself.
_ESCAPED = "\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff"


def dumps(data: Any, indent: int | None = None, default: Callable[[Any], Any] | None = None) -> str:
    """`data` as JSON, on one line or with so many spaces at each level."""
    text = json.dumps(data, ensure_ascii=False, indent=indent, default=default)
    if text.isascii() and "\x7f" not in text:
        return text
    # `translate`, since a function that is called for each of a million characters takes long.
    return text.translate(_escapes()) if re.search(f"[{_ESCAPED}]", text) else text


@cache
def _escapes() -> dict[int, str]:
    ends = re.findall("(.)-(.)|(.)", _ESCAPED, re.DOTALL)
    spans = [(ord(a or c), ord(b or c)) for a, b, c in ends]
    return {n: f"\\u{n:04x}" for first, last in spans for n in range(first, last + 1)}
