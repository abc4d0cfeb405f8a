"""Texts side by side, each in a column of a terminal.

A line that is too long is wrapped; nothing is lost. Code is not wrapped at words but where the
column ends.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import zip_longest

from clinvk.text.sanitize import sanitize_without_bidi
from clinvk.text.width import WIDE, display_width, pad, signs, split

COLUMN_SEPARATOR = " │ "
TAB_WIDTH = 4

_FENCE = re.compile(r"\s*(`{3,}|~{3,})")
_ITEM = re.compile(r"\s*(?:[-*+•>]|\d{1,3}[.)])\s+|\s*")
# Chinese and Japanese have no spaces, but their closing marks never start a line.
_CLOSING = "、。，．：；！？）］｝〉》」』】〕ーっッゃャゅュょョ"
_ONLY_WIDE = re.compile(f"[{WIDE}]+")
_WIDE_PIECE = re.compile(f"(?:[{_CLOSING}\u3000]+|.)[{_CLOSING}\u3000]*")
_MAX_INDENT = 24  # cells; text indented further continues at the left margin


def column_width(count: int, columns: int) -> int:
    """The width of each of `count` columns, in cells."""
    return (columns - len(COLUMN_SEPARATOR) * (count - 1)) // count


def side_by_side(blocks: Sequence[Sequence[str]], width: int) -> Iterator[str]:
    """Lines that show the blocks side by side, each in columns of `width` cells."""
    for row in zip_longest(*blocks, fillvalue=""):
        yield COLUMN_SEPARATOR.join(pad(cell, width) for cell in row).rstrip()


def wrap(text: str, width: int) -> list[str]:
    """The text in lines of at most `width` cells."""
    lines: list[str] = []
    fence = ""
    for line in sanitize_without_bidi(text).expandtabs(TAB_WIDTH).split("\n"):
        mark = _FENCE.match(line)
        if mark and (not fence or mark.group(1).startswith(fence)):
            fence = "" if fence else mark.group(1)
            lines += split(line, width)
        elif fence or line.startswith(" " * 4):
            lines += split(line, width)
        else:
            lines += _wrap_line(line.rstrip(), width)
    return lines


def _wrap_line(line: str, width: int) -> list[str]:
    """The line broken between words; a list item continues below its first word."""
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
        *whole, rest = split(word.lstrip(), width - display_width(current))
        for piece in whole:
            lines.append(current + piece)
            current = indent
        current += rest
    return [*lines, current.rstrip()]


def _words(text: str) -> Iterator[str]:
    """Pieces that a line may be broken between, each with the spaces after it."""
    for word in re.findall(r"\s*\S+\s*", text):
        yield from split_wide_characters(word)


def split_wide_characters(word: str) -> Iterable[str]:
    if word.isascii():
        return [word]
    if _ONLY_WIDE.fullmatch(word):
        return _WIDE_PIECE.findall(word)
    pieces, after_wide = [""], False
    for sign in signs(word):
        wide = display_width(sign) == 2
        if pieces[-1] and (wide or after_wide) and _can_break_before(sign):
            pieces.append("")
        pieces[-1] += sign
        after_wide = wide
    return pieces


def _can_break_before(sign: str) -> bool:
    """Whether a line may start with it."""
    return not sign.isspace() and sign not in _CLOSING and display_width(sign) > 0
