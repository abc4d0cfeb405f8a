"""Measure text in terminal cells: a Chinese character takes two.

Control characters are not expected: call `sanitize` first.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache

# Each of these takes one cell: ASCII, Latin letters, and common symbols.
_NARROW = "[\x00-~¡-¬®-\u02ff–—‘’“”…•◦▪│─┼☐☑✓✗]*"
# Each of these takes two cells and is a grapheme of its own, unless a mark follows: punctuation,
# kana and ideographs.
WIDE = "\u3000-\u3029\u3041-\u3096\u309b-\u30ff\u3400-\u4dbf\u4e00-\u9fff！（），：；？"
_WIDE = f"[{WIDE}]*"


def display_width(text: str) -> int:
    """The width of `text` in cells; a grapheme of several characters, such as a flag, takes two."""
    if (text.isascii() and text.isprintable()) or re.fullmatch(_NARROW, text):
        return len(text)
    if re.fullmatch(_WIDE, text):
        return 2 * len(text)
    import wcwidth  # 13 ms: only for other text

    return wcwidth.width(text, control_codes="ignore")


def clip(text: str, width: int) -> str:
    """The longest beginning that fits into `width` cells."""
    return _cut(text, 0, width)


@lru_cache(maxsize=1024)
def truncate(text: str, width: int) -> str:
    """`text` in at most `width` cells; if something is missing, it ends in `…`."""
    if display_width(text) <= width:
        return text
    return f"{clip(text, width - 1).rstrip()}…" if width > 0 else ""


@lru_cache(maxsize=1024)
def truncate_start(text: str, width: int) -> str:
    """`text` in at most `width` cells; if its beginning is missing, it starts with `…`."""
    if display_width(text) <= width:
        return text
    return f"…{_clip_end(text, width - 1).lstrip()}" if width > 0 else ""


def pad(text: str, width: int) -> str:
    """`text` in exactly `width` cells."""
    text = truncate(text, width)
    return text + " " * (width - display_width(text))


def clip_start(text: str, width: int) -> str:
    """`text` if it fits, otherwise its last words. They take less than would fit, so that there is
    room for more text, and it need not be cut again at once."""
    if display_width(text) <= width:
        return text
    last = _clip_end(text, max(0, width * 2 // 3))
    return last.partition(" ")[2] or last


def split(text: str, width: int, *, taken: int = 0) -> list[str]:
    """`text` in pieces of at most `width` cells, in time that grows with its length alone. Only a
    single grapheme may take more. The first piece is what fits after the cells already `taken`; it
    may be empty."""
    if text.isascii():
        width = max(1, width)
        room = width - taken
        if len(text) <= room:
            return [text]
        first = text[: max(0, room)]
        rest = range(len(first), len(text), width)
        pieces = [text[at : at + width] for at in rest]
        return [first, *pieces] if first or taken else pieces
    if taken + display_width(text) <= width:
        return [text]
    pieces, piece = [], ""
    for sign in signs(text):
        own = display_width(sign)
        if (piece or taken) and taken + own > width:
            pieces.append(piece)
            piece, taken = "", 0
        piece += sign
        taken += own
    return [*pieces, piece]


def signs(text: str) -> Iterable[str]:
    """The graphemes: what a reader sees as one character each."""
    if text.isascii() or re.fullmatch(_WIDE, text):
        return text
    import wcwidth  # 13 ms: only for text that is not ASCII

    return wcwidth.iter_graphemes(text)


def _clip_end(text: str, width: int) -> str:
    """As much of the end as fits into `width` cells."""
    begin = len(text)
    for sign in reversed(list(signs(text))):
        width -= display_width(sign)
        if width < 0:
            break
        begin -= len(sign)
    return text[begin:]


def _cut(text: str, start: int, end: int) -> str:
    """The cells from `start` to `end`, without graphemes that cross one of them."""
    if end <= start:
        return ""
    if text.isascii():
        return text[start:end]
    import wcwidth  # 13 ms: only for text that is not ASCII

    return wcwidth.clip(text, start, end, fillchar="", control_codes="ignore")
