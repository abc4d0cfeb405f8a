"""Texts beside each other, each in a column of a terminal.

A line that is too long goes on below; nothing of it is lost. Code is never put into other lines: it
goes on where the column ends.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import zip_longest

from wcwidth import wcswidth, wcwidth

from clinvk.text.sanitize import sanitize_without_bidi

COLUMN_SEPARATOR = " │ "
TAB_WIDTH = 4

_FENCE = re.compile(r"\s*(`{3,}|~{3,})")
_ITEM = re.compile(r"\s*(?:[-*+•>]|\d{1,3}[.)])\s+|\s*")
# Chinese and Japanese have no spaces; but their closing marks begin no line.
_CLOSING = "、。，．：；！？）］｝〉》」』】〕ーっッゃャゅュょョ"
_MAX_INDENT = 24  # cells; what is indented further goes on at the left


def column_width(count: int, columns: int) -> int:
    """The cells that each of so many columns has."""
    return (columns - len(COLUMN_SEPARATOR) * (count - 1)) // count


def side_by_side(blocks: Sequence[Sequence[str]], width: int) -> Iterator[str]:
    """Lines that show the blocks beside each other, each in so many cells."""
    for row in zip_longest(*blocks, fillvalue=""):
        yield COLUMN_SEPARATOR.join(pad(cell, width) for cell in row).rstrip()


def pad(line: str, width: int) -> str:
    """The line with spaces behind it, up to so many cells."""
    return line + " " * (width - display_width(line))


def clip(line: str, width: int) -> str:
    """As much of the line as has room."""
    return line if display_width(line) <= width else _split_line(line, width - 1)[0] + "…"


def display_width(text: str) -> int:
    found = wcswidth(text)
    return found if found >= 0 else sum(map(_character_width, text))


def wrap(text: str, width: int) -> list[str]:
    """The text in lines of at most so many cells."""
    lines: list[str] = []
    fence = ""
    for line in sanitize_without_bidi(text).expandtabs(TAB_WIDTH).split("\n"):
        mark = _FENCE.match(line)
        if mark and (not fence or mark.group(1).startswith(fence)):
            fence = "" if fence else mark.group(1)
            lines += _split_line(line, width)
        elif fence or line.startswith(" " * 4):
            lines += _split_line(line, width)
        else:
            lines += _wrap_line(line.rstrip(), width)
    return lines


def _wrap_line(line: str, width: int) -> list[str]:
    """The line broken between its words; an item goes on below its own beginning."""
    if display_width(line) <= width:
        return [line]
    item = _ITEM.match(line)
    begin = item.group() if item else ""
    indent = " " * (
        display_width(begin) if display_width(begin) <= min(_MAX_INDENT, width // 2) else 0
    )
    lines, current = [], begin
    for word in _words(line[len(begin) :]):
        if display_width(current) + display_width(word.rstrip()) <= width:
            current += word
            continue
        if current.strip():
            lines.append(current.rstrip())
            current = indent
        *whole, rest = _split_line(word.lstrip(), width - display_width(current))
        for piece in whole:
            lines.append(current + piece)
            current = indent
        current += rest
    return [*lines, current.rstrip()]


def _words(text: str) -> Iterator[str]:
    """Pieces that a line may be broken between, each with the spaces behind it."""
    for word in re.findall(r"\s*\S+\s*", text):
        yield from _split_wide_characters(word)


def _split_wide_characters(word: str) -> Iterable[str]:
    piece = ""
    for character in word:
        wide = _character_width(character) == 2 and character not in _CLOSING
        if piece and (wide or _character_width(piece[-1]) == 2) and _can_break_before(character):
            yield piece
            piece = ""
        piece += character
    yield piece


def _can_break_before(character: str) -> bool:
    """Whether a line may begin with it."""
    return not character.isspace() and character not in _CLOSING and _character_width(character) > 0


def _split_line(line: str, width: int) -> list[str]:
    """The line in pieces of so many cells, wherever that is."""
    if display_width(line) <= width:
        return [line]
    pieces, piece, taken = [], "", 0
    for character in line:
        own = _character_width(character)
        if piece and taken + own > width:
            pieces.append(piece)
            piece, taken = "", 0
        piece += character
        taken += own
    return [*pieces, piece]


def _character_width(character: str) -> int:
    return max(0, wcwidth(character))
