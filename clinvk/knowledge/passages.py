"""Documents in passages: the sections of a text, the functions of a program."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

from msgspec import Struct

LONGEST = 2_000  # characters of a passage
EXAMINED = 300  # characters of a line that may begin a section
HEADING_LENGTH = 120  # characters of a heading

CODE = frozenset(
    "c cc clj cpp cs cxx dart erl ex exs go h hpp hs java jl js jsx kt kts lua m mjs ml mm nim php pl"  # noqa: SIM905 - or fifty lines
    " pm ps1 py pyi r rb rs scala sh sol sql swift ts tsx vue zig".split()
)

_HEADING = re.compile(r"(#{1,6}|={1,6}|\*{1,6})[ \t]+(\S.*)")
_UNDERLINE = re.compile(r"([=\-~^\"'`#*+])\1{2,}[ \t]*")
_FENCE = re.compile(r"[ \t]{0,3}(```|~~~)")
_MODIFIERS = (
    "export|default|pub|public|private|protected|internal|static|abstract|final|async|unsafe|extern"
    "|inline|virtual|override|open|sealed|data|const|local|create|or|replace"
)
_DEFINITION = re.compile(
    rf"[ \t]{{0,4}}(?:(?:{_MODIFIERS})(?:\([^)\n]{{0,20}}\))?[ \t]+){{0,4}}"
    r"(?:def|class|func|fn|function|interface|struct|enum|trait|impl|type|module|namespace|object"
    r"|record|sub|defmodule|defp|table|view|procedure)\b.*",
    re.IGNORECASE,
)
_ATTACHED = re.compile(r"[ \t]*(?:@|#|//|/\*|\*|///|--)")  # comments and decorators above it


class Passage(Struct, frozen=True):
    line: int  # its first one, from 1
    heading: str
    text: str


class _Section(Struct):
    line: int
    heading: str
    lines: list[str]


def split_passages(text: str, name: str) -> Iterator[Passage]:
    """The passages of a document. Its name says what it is."""
    lines = text.split("\n")
    is_code = os.path.splitext(name)[1].lstrip(".").lower() in CODE
    for section in (_sections_of_code if is_code else _sections_of_text)(lines):
        for offset, piece in _pieces(section.lines):
            if _says_something(piece, section.heading):
                yield Passage(section.line + offset, section.heading, piece.rstrip())


def _sections_of_text(lines: list[str]) -> Iterator[_Section]:
    current = _Section(1, "", [])
    above: dict[int, str] = {}  # the headings on the way, by level
    fenced = False
    for number, line in enumerate(lines):
        fenced ^= bool(_FENCE.match(line))
        found = None if fenced else _heading(lines, number)
        if found:
            yield current
            level, title = found
            above = {n: t for n, t in above.items() if n < level} | {level: title}
            current = _Section(number + 1, " › ".join(above.values())[:HEADING_LENGTH], [])
        current.lines.append(line)
    yield current


def _heading(lines: list[str], number: int) -> tuple[int, str] | None:
    """The level and the title of the heading in this line."""
    line = lines[number][:EXAMINED]
    if found := _HEADING.match(line):
        return len(found[1]), found[2].strip(" \t#=")
    below = lines[number + 1][:EXAMINED] if number + 1 < len(lines) else ""
    title = line.strip()
    is_underlined = _UNDERLINE.fullmatch(below) and len(below.strip()) >= len(title) // 2
    if not is_underlined or not title or not title[0].isalnum():
        return None
    return ("=-~^\"'`#*+".index(below[0]) + 1), title


def _sections_of_code(lines: list[str]) -> Iterator[_Section]:
    current = _Section(1, "", [])
    for number, line in enumerate(lines):
        if _DEFINITION.match(line[:EXAMINED]):
            attached: list[str] = []
            while current.lines and _ATTACHED.match(current.lines[-1][:EXAMINED]):
                attached.insert(0, current.lines.pop())
            yield current
            heading = line.strip()[:HEADING_LENGTH]
            current = _Section(number + 1 - len(attached), heading, attached)
        current.lines.append(line)
    yield current


def _pieces(lines: list[str]) -> Iterator[tuple[int, str]]:
    """The lines in pieces that are not too long, each with the position of its first line; they
    end at a blank line if one is in the second half."""
    start = size = 0
    blank = None
    for number, line in enumerate(lines):
        if size + len(line) > LONGEST and number > start:
            end = blank if blank is not None else number
            yield start, "\n".join(lines[start:end])
            start, size, blank = end, sum(len(one) + 1 for one in lines[end:number]), None
        if len(line) > LONGEST:
            yield from ((number, piece) for piece in _cut(line))
            start, size = number + 1, 0
            continue
        size += len(line) + 1
        if not line.strip() and size > LONGEST // 2:
            blank = number
    yield start, "\n".join(lines[start:])


_SENTENCE = re.compile(r".*[.!?。！？；;]\s*|.*\s", re.DOTALL)


def _cut(line: str) -> Iterator[str]:
    """A long line in pieces that end after a sentence, a word, or anywhere."""
    while len(line) > LONGEST:
        head = line[:LONGEST]
        found = _SENTENCE.match(head, LONGEST // 2)
        end = found.end() if found else LONGEST
        yield line[:end]
        line = line[end:]
    yield line


def _says_something(piece: str, heading: str) -> bool:
    """Whether it is more than the heading."""
    text = piece.strip()
    is_heading = bool(heading) and "\n" not in text and text[:1] in "#=*"
    return not is_heading and any(map(str.isalnum, text))
