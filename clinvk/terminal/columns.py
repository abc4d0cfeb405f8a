"""Texts beside each other, each in a column of a terminal.

A line that is too long goes on below; nothing of it is lost. Code is never put into other lines: it
goes on where the column ends.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import zip_longest

from wcwidth import wcswidth, wcwidth

from clinvk.text.sanitize import in_order

BETWEEN = " │ "
TAB = 4

_FENCE = re.compile(r"\s*(`{3,}|~{3,})")
_ITEM = re.compile(r"\s*(?:[-*+•>]|\d{1,3}[.)])\s+|\s*")
# Chinese and Japanese have no spaces; but their closing marks begin no line.
_CLOSING = "、。，．：；！？）］｝〉》」』】〕ーっッゃャゅュょョ"
_HANGING = 24  # cells; what is indented further goes on at the left


def width_for(count: int, columns: int) -> int:
    """The cells that each of so many columns has."""
    return (columns - len(BETWEEN) * (count - 1)) // count


def beside(blocks: Sequence[Sequence[str]], width: int) -> Iterator[str]:
    """Lines that show the blocks beside each other, each in so many cells."""
    for row in zip_longest(*blocks, fillvalue=""):
        yield BETWEEN.join(fitted(cell, width) for cell in row).rstrip()


def fitted(line: str, width: int) -> str:
    """The line with spaces behind it, up to so many cells."""
    return line + " " * (width - cells(line))


def first(line: str, width: int) -> str:
    """As much of the line as has room."""
    return line if cells(line) <= width else _cut(line, width - 1)[0] + "…"


def cells(text: str) -> int:
    found = wcswidth(text)
    return found if found >= 0 else sum(map(_cells, text))


def wrapped(text: str, width: int) -> list[str]:
    """The text in lines of at most so many cells."""
    lines: list[str] = []
    fence = ""
    for line in in_order(text).expandtabs(TAB).split("\n"):
        mark = _FENCE.match(line)
        if mark and (not fence or mark.group(1).startswith(fence)):
            fence = "" if fence else mark.group(1)
            lines += _cut(line, width)
        elif fence or line.startswith(" " * 4):
            lines += _cut(line, width)
        else:
            lines += _folded(line.rstrip(), width)
    return lines


def _folded(line: str, width: int) -> list[str]:
    """The line broken between its words; an item goes on below its own beginning."""
    if cells(line) <= width:
        return [line]
    item = _ITEM.match(line)
    begin = item.group() if item else ""
    indent = " " * (cells(begin) if cells(begin) <= min(_HANGING, width // 2) else 0)
    lines, current = [], begin
    for word in _words(line[len(begin) :]):
        if cells(current) + cells(word.rstrip()) <= width:
            current += word
            continue
        if current.strip():
            lines.append(current.rstrip())
            current = indent
        *whole, rest = _cut(word.lstrip(), width - cells(current))
        for piece in whole:
            lines.append(current + piece)
            current = indent
        current += rest
    return [*lines, current.rstrip()]


def _words(text: str) -> Iterator[str]:
    """Pieces that a line may be broken between, each with the spaces behind it."""
    for word in re.findall(r"\s*\S+\s*", text):
        yield from _wide_apart(word)


def _wide_apart(word: str) -> Iterable[str]:
    piece = ""
    for character in word:
        wide = _cells(character) == 2 and character not in _CLOSING
        if piece and (wide or _cells(piece[-1]) == 2) and _may_break(character):
            yield piece
            piece = ""
        piece += character
    yield piece


def _may_break(character: str) -> bool:
    """Whether a line may begin with it."""
    return not character.isspace() and character not in _CLOSING and _cells(character) > 0


def _cut(line: str, width: int) -> list[str]:
    """The line in pieces of so many cells, wherever that is."""
    if cells(line) <= width:
        return [line]
    pieces, piece, taken = [], "", 0
    for character in line:
        own = _cells(character)
        if piece and taken + own > width:
            pieces.append(piece)
            piece, taken = "", 0
        piece += character
        taken += own
    return [*pieces, piece]


def _cells(character: str) -> int:
    return max(0, wcwidth(character))
