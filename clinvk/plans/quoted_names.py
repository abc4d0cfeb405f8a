"""File names as git prints them, one a line: quoted as in C, unless they are plain ASCII."""

from __future__ import annotations

import os
import re

_QUOTED = re.compile(r'"((?:[^"\\]|\\(?:[abtnvfr"\\]|[0-3][0-7]{2}))*)"')
_ESCAPE = re.compile(rb'\\([abtnvfr"\\]|[0-3][0-7]{2})')
_OCTAL = re.compile(r"(?<!\\)(?:\\\\)*\\[0-3][0-7]{2}")
_LETTERS = {
    b"a": b"\a", b"b": b"\b", b"t": b"\t", b"n": b"\n", b"v": b"\v", b"f": b"\f", b"r": b"\r",
}  # fmt: skip


def unquote_name(line: str) -> str:
    r"""The name that git quoted; any other line as it is.

    A text may be in quotes, too. It is a name if it has an octal escape, as in `"caf\303\251.py"`,
    or if there is a file of that name."""
    if len(line) < 2 or line[0] != '"' or not (found := _QUOTED.fullmatch(line)):
        return line
    data = _ESCAPE.sub(_unescape, found[1].encode("utf-8", "surrogatepass"))
    try:
        name = data.decode()
    except UnicodeDecodeError:
        return line
    is_name = _OCTAL.search(found[1]) or ("\0" not in name and os.path.lexists(name))
    return name if is_name and "\0" not in name else line


def _unescape(found: re.Match[bytes]) -> bytes:
    escape = found[1]
    if len(escape) == 3:
        return bytes([int(escape, 8)])
    return _LETTERS.get(escape, escape)
