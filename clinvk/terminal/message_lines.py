"""A message on a terminal, in lines that are broken between words; a command stays whole."""

from __future__ import annotations

import re

from clinvk.text.width import display_width

_STYLE = re.compile(r"\x1b\[[0-9;]*m")
_WORD = re.compile(r"\S+")
# Where a command begins that can be copied; elsewhere, `clinvk` is the program that is spoken of.
_COMMAND = re.compile(r"(?:^|(?<=: )|(?<=\()|(?<= or )|(?<= try ))clinvk (?=\S)")
# One ends where the sentence goes on, or at its end; what is in quotes belongs to it.
_PARTS = re.compile(r"""(?:"[^"]*"|'[^']*'|(?![;,?)]+(?:\s|$)|\s\(|\s{2}|\s(?:or|and)\s).)*""")


def wrap_message(label: str, text: str, width: int) -> list[str]:
    """The text behind its label, in lines of at most `width` cells. A command that does not fit
    in the rest of a line is on a line of its own; only the terminal breaks it, if it is longer."""
    indent = "    " if label.startswith(" ") else "  " if label else ""
    lines: list[str] = []
    for paragraph in text.split("\n"):
        lines += _wrap_line(label, paragraph, indent, width)
        label = ""
    return lines


def _wrap_line(label: str, text: str, indent: str, width: int) -> list[str]:
    if _cells(label + text) <= width:
        return [label + text]
    lines, line, room = [], label, width - _cells(label)
    is_begun = False
    for gap, unit in _units(text):
        needed = len(gap) * is_begun + display_width(unit)
        is_command = unit.startswith("clinvk ")
        if needed > room and (is_begun or (is_command and label)):
            lines.append(line.rstrip())
            line, room, is_begun = indent, width - len(indent), False
            needed = display_width(unit)
        line += (gap if is_begun or (not lines and line == label) else "") + unit
        room -= needed
        is_begun = True
    return [*lines, line]


def _units(text: str) -> list[tuple[str, str]]:
    """The words, and the commands as a whole, each with the space before it."""
    units: list[tuple[str, str]] = []
    end = 0
    while found := _WORD.search(text, end):
        start, stop = found.span()
        if _COMMAND.match(text, start) or (text[start] == "(" and _COMMAND.match(text, start + 1)):
            stop = max(_command_end(text, start), stop)
        units.append((text[end:start], text[start:stop]))
        end = stop
    return units


def _command_end(text: str, start: int) -> int:
    """Where the command that begins there ends, with the punctuation behind it."""
    found = _PARTS.match(text, start)
    end = found.end() if found else start
    behind = _WORD.match(text, end)
    return behind.end() if behind else end


def _cells(text: str) -> int:
    return display_width(_STYLE.sub("", text))
