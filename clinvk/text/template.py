r"""`{{name}}` in a text: finding the names, and replacing them with values.

`\{{` stands for two literal braces. A text may be filled twice, with values known when it is read
and with values known when it is used; braces in values are literal.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping

# Escaped braces are read first: `\{{{x}}` contains no name.
_TOKEN = re.compile(r"(?P<escaped>\\\{\{)|\{\{\s*(?P<name>[A-Za-z_][^{}\n\ufdd0]*?)\s*\}\}")
# A name that may contain other names: `{{tasks.review {{file}}.output}}`.
_WITH_INNER = re.compile(
    r"\\\{\{|\{\{\s*(?P<name>[A-Za-z_]"
    r"(?:[^{}\n\ufdd0]|\{\{\s*[A-Za-z_][^{}\n\ufdd0]*\}\})*)\}\}"
)
_ESCAPED = "\\{{"
_OPEN = re.compile(r"\{\{\s*[^{}\n\ufdd0]*$")  # blanks may be lines, as in `_TOKEN`

# Separates a value from the text beside it if the two would form a name. It is a noncharacter of
# Unicode, reserved for such uses, and `render` removes it.
_SEPARATOR = "\ufdd0"

Lookup = Callable[[str], "str | None"]


def placeholder_names(text: str) -> list[str]:
    """The names in the text, each once, in order."""
    if "{{" not in text:
        return []
    found = (m["name"] for m in _TOKEN.finditer(text))
    return list(dict.fromkeys(name for name in found if name is not None))


def mentions_prefix(text: str, begins: tuple[str, ...]) -> bool:
    """Whether the text has a name with this prefix, or would have one without escapes."""
    found = placeholder_names(fill_inner(unescape(text), begins, str))
    return any(name.startswith(begins) for name in found)


def unescape(text: str) -> str:
    """The text without escapes of braces."""
    return text.replace(_ESCAPED, "{{")


def fill_inner(text: str, begins: tuple[str, ...], value: Lookup) -> str:
    """The text with names inside of a name with this prefix replaced by their values. The value
    becomes part of that name: it must not contain braces or line breaks."""

    def substitute(match: re.Match[str]) -> str:
        name = match["name"] or ""
        if "{{" not in name or not name.startswith(begins):
            return match.group()
        known = [(piece, inner and value(inner)) for piece, inner in _pieces(name)]
        return "{{" + "".join(piece if v is None else v for piece, v in known) + "}}"

    return _WITH_INNER.sub(substitute, text) if "{{" in text else text


def fill(text: str, value: Lookup) -> str:
    """The text with the names that have a value replaced; the others stay for `render`."""
    out = ""
    for piece, name in _pieces(text):
        known = None if name is None else value(name)
        if known is None:
            out += piece
            continue
        beside = (out.endswith("{") and known.startswith("{")) or _OPEN.search(out)
        out += (_SEPARATOR if beside else "") + known.replace("{{", _ESCAPED)
        out += _SEPARATOR if out.endswith(("{", "\\")) else ""
    return out


def render(text: str, value: Callable[[str], str]) -> str:
    """The final text, with every name replaced."""
    pieces = (
        piece if name is None else value(name) for piece, name in _pieces_without_separators(text)
    )
    return "".join(pieces)


def fill_text(text: str, values: Mapping[str, str]) -> str:
    """The final text, with the names that have a value replaced; other braces stay."""
    return "".join(
        values.get(name or "", piece) for piece, name in _pieces_without_separators(text)
    )


def _pieces(text: str) -> Iterable[tuple[str, str | None]]:
    """The text in pieces, each with its name, if any."""
    at = 0
    for match in _TOKEN.finditer(text) if "{{" in text else ():
        if match["name"] is not None:
            yield text[at : match.start()], None
            yield match.group(), match["name"]
            at = match.end()
    yield text[at:], None


def _pieces_without_separators(text: str) -> Iterable[tuple[str, str | None]]:
    """The text without separators."""
    for piece, name in _pieces(text):
        yield (
            (piece.replace(_ESCAPED, "{{").replace(_SEPARATOR, "") if name is None else piece),
            name,
        )
