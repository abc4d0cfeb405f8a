r"""`{{name}}` in a text: what it names, and the text with that put in.

`\{{` stands for two braces that name nothing. A text may be filled twice, with what is known when
it is read and with what is known when it is used; what was put in names nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

_NAME = re.compile(r"\{\{\s*([A-Za-z_][^{}\n]*?)\s*\}\}")
_ESCAPED = "\\{{"

Value = Callable[[str], "str | None"]


def names(text: str) -> list[str]:
    """What the text names, each once, in order."""
    found = (m.group(1) for m in _NAME.finditer(text) if not _is_escaped(m))
    return list(dict.fromkeys(found))


def fill(text: str, value: Value) -> str:
    """The text with the names put in that have a value; the others stay for `render`."""

    def put(match: re.Match[str]) -> str:
        known = None if _is_escaped(match) else value(match.group(1))
        return match.group() if known is None else known.replace("{{", _ESCAPED)

    return _NAME.sub(put, text) if "{{" in text else text


def render(text: str, value: Callable[[str], str]) -> str:
    """The text as it is meant, with every name put in."""
    pieces, at = [], 0
    for match in _NAME.finditer(text):
        if not _is_escaped(match):
            pieces += [_unescaped(text[at : match.start()]), value(match.group(1))]
            at = match.end()
    return "".join([*pieces, _unescaped(text[at:])])


def fill_all(data: Any, values: Mapping[str, str]) -> Any:
    """`fill` in every text of a structure of mappings and lists."""
    if isinstance(data, str):
        return fill(data, values.get)
    if isinstance(data, Mapping):
        return {key: fill_all(value, values) for key, value in data.items()}
    return [fill_all(value, values) for value in data] if isinstance(data, list) else data


def _is_escaped(match: re.Match[str]) -> bool:
    return match.string[match.start() - 1 : match.start()] == "\\"


def _unescaped(text: str) -> str:
    return text.replace(_ESCAPED, "{{")
