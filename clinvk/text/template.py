r"""`{{name}}` in a text: what it names, and the text with that put in.

`\{{` stands for two braces that name nothing. A text may be filled twice, with what is known when
it is read and with what is known when it is used; what was put in names nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping

# Braces that are escaped are read first: in `\{{{x}}` nothing is named.
_TOKEN = re.compile(r"(?P<escaped>\\\{\{)|\{\{\s*(?P<name>[A-Za-z_][^{}\n\ufdd0]*?)\s*\}\}")
# A name that may have other names in it: `{{tasks.review {{file}}.output}}`.
_WITH_INNER = re.compile(
    r"\\\{\{|\{\{\s*(?P<name>[A-Za-z_]"
    r"(?:[^{}\n\ufdd0]|\{\{\s*[A-Za-z_][^{}\n\ufdd0]*\}\})*)\}\}"
)
_ESCAPED = "\\{{"
_OPEN = re.compile(r"\{\{\s*[^{}\n\ufdd0]*$")  # blanks may be lines, as in `_TOKEN`

# Stands between what was put in and what is beside it, where the two would make a name. It is no
# character (Unicode keeps it for such things), and `render` takes it away.
_SEPARATOR = "\ufdd0"

Lookup = Callable[[str], "str | None"]


def placeholder_names(text: str) -> list[str]:
    """What the text names, each once, in order."""
    if "{{" not in text:
        return []
    found = (m["name"] for m in _TOKEN.finditer(text))
    return list(dict.fromkeys(name for name in found if name is not None))


def mentions_prefix(text: str, begins: tuple[str, ...]) -> bool:
    """Whether the text has a name that begins so, or had one if its braces were not escaped."""
    found = placeholder_names(fill_inner(unescape(text), begins, str))
    return any(name.startswith(begins) for name in found)


def unescape(text: str) -> str:
    """The text as if none of its braces were escaped."""
    return text.replace(_ESCAPED, "{{")


def fill_inner(text: str, begins: tuple[str, ...], value: Lookup) -> str:
    """The text with a value put in for what is named inside of a name that begins so. The value
    becomes a part of that name: it must not have braces, or lines."""

    def substitute(match: re.Match[str]) -> str:
        name = match["name"] or ""
        if "{{" not in name or not name.startswith(begins):
            return match.group()
        known = [(piece, inner and value(inner)) for piece, inner in _pieces(name)]
        return "{{" + "".join(piece if v is None else v for piece, v in known) + "}}"

    return _WITH_INNER.sub(substitute, text) if "{{" in text else text


def fill(text: str, value: Lookup) -> str:
    """The text with the names put in that have a value; the others stay for `render`."""
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
    """The text as it is meant, with every name put in."""
    pieces = (
        piece if name is None else value(name) for piece, name in _pieces_without_separators(text)
    )
    return "".join(pieces)


def fill_text(text: str, values: Mapping[str, str]) -> str:
    """The text as it is meant, with the names put in that have a value; what else stands in braces
    there stays."""
    return "".join(
        values.get(name or "", piece) for piece, name in _pieces_without_separators(text)
    )


def _pieces(text: str) -> Iterable[tuple[str, str | None]]:
    """The text in pieces; with each, what it names."""
    at = 0
    for match in _TOKEN.finditer(text) if "{{" in text else ():
        if match["name"] is not None:
            yield text[at : match.start()], None
            yield match.group(), match["name"]
            at = match.end()
    yield text[at:], None


def _pieces_without_separators(text: str) -> Iterable[tuple[str, str | None]]:
    """The same, without what only kept things apart."""
    for piece, name in _pieces(text):
        yield (
            (piece.replace(_ESCAPED, "{{").replace(_SEPARATOR, "") if name is None else piece),
            name,
        )
