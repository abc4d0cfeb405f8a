"""Styled text in lines of a terminal."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from clinvk.terminal.columns import split_wide_characters
from clinvk.text.sanitize import sanitize, with_visible_order
from clinvk.text.width import display_width, split

TAB_WIDTH = 4
_WORDS = re.compile(r"\n|[^\S\n]+|[^\s]+")
_SEQUENCE = re.compile(r"\x1b\[[0-9;]*m")


class Span(NamedTuple):
    """Text in one style: the parameters of an SGR sequence, such as `1;36`, or nothing."""

    text: str
    style: str = ""


class Line(NamedTuple):
    """A line to print, with its sequences, and its width in cells. A line wider than the terminal
    is wrapped by the terminal, so that a command or an address can be copied whole."""

    text: str
    width: int = 0

    def rows(self, columns: int) -> int:
        """The number of terminal rows that the line takes."""
        return max(1, -(-self.width // columns))


def clean(text: str) -> str:
    """Text without control sequences, whatever an entity or an address was decoded to."""
    return with_visible_order(sanitize(text)).expandtabs(TAB_WIDTH)


def split_line(line: Line, width: int) -> list[Line]:
    """The line as lines of at most `width` cells, for when the terminal does not wrap it."""
    if line.width <= width:
        return [line]
    spans, style, at = [], "", 0
    for found in [*_SEQUENCE.finditer(line.text), None]:
        text = line.text[at : found.start() if found else None]
        if text:
            spans.append(Span(text, style))
        if found:
            style = found.group()[2:-1]
            style = "" if style == "0" else style
            at = found.end()
    return [to_line(piece) for piece in _split(spans, width)]


def without_style(line: Line) -> Line:
    return Line(_SEQUENCE.sub("", line.text), line.width)


def to_line(spans: Iterable[Span]) -> Line:
    parts: list[str] = []
    width = 0
    style, run = "", ""
    for span in spans:
        width += display_width(span.text)
        if span.style == style:
            run += span.text
            continue
        parts.append(_paint(run, style))
        style, run = span.style, span.text
    parts.append(_paint(run, style))
    return Line("".join(parts), width)


def _paint(text: str, style: str) -> str:
    return f"\x1b[{style}m{text}\x1b[0m" if text and style else text


def prefixed(lines: Sequence[Line], first: Line, rest: Line) -> list[Line]:
    """The lines, each after a prefix."""
    found = []
    for i, line in enumerate(lines):
        prefix = rest if i else first
        if line.text or prefix.text.strip():
            text = prefix.text + line.text
            found.append(Line(text if line.text else text.rstrip(), prefix.width + line.width))
        else:
            found.append(line)
    return found


def wrap(spans: Iterable[Span], width: int, *, split_addresses: bool = False) -> list[Line]:
    """The text in lines of at most `width` cells, broken between words. A longer word is split; an
    address only on request, since it could no longer be clicked or copied."""
    keeps = _never if split_addresses else _is_address
    wrapped: list[list[Span]] = [[]]
    taken = 0  # cells of the current line, with the space after it
    space: Span | None = None
    for word in _words(spans):
        first = word[0]
        if first.text == "\n":
            wrapped.append([])
            taken, space = 0, None
            continue
        if first.text.isspace():
            space = Span(" ", first.style) if wrapped[-1] else None
            continue
        cells = display_width(first.text)
        if len(word) > 1:
            cells += sum(display_width(part.text) for part in word[1:])
        if taken and taken + (space is not None) + cells > width:
            wrapped.append([])
            taken, space = 0, None
        if space is not None:
            wrapped[-1].append(space)
            taken += 1
            space = None
        if cells <= width or keeps(word):
            wrapped[-1] += word
            taken += cells
            continue
        pieces = _split(word, width)
        for i, piece in enumerate(pieces):
            if i:
                wrapped.append([])
            wrapped[-1] += piece
        last = pieces[-1]
        taken = sum(display_width(part.text) for part in last) + (taken if len(pieces) == 1 else 0)
    return [to_line(line) for line in wrapped]


def _words(spans: Iterable[Span]) -> Iterable[list[Span]]:
    """Words, which may change style, and the spaces and line breaks between them."""
    word: list[Span] = []
    for text, style in spans:
        for piece in _WORDS.findall(text):
            if piece.isspace():
                if word:
                    yield word
                    word = []
                yield [Span(piece, style)]
            elif piece.isascii():
                word.append(Span(piece, style))
            else:
                for i, part in enumerate(split_wide_characters(piece)):
                    if i and word:
                        yield word
                        word = []
                    word.append(Span(part, style))
    if word:
        yield word


def _is_address(word: list[Span]) -> bool:
    return any("://" in part.text for part in word)


def _never(_word: list[Span]) -> bool:
    return False


def _split(word: list[Span], width: int) -> list[list[Span]]:
    """A word in pieces of at most `width` cells."""
    pieces: list[list[Span]] = [[]]
    taken = 0
    for text, style in word:
        for i, piece in enumerate(split(text, width, taken=taken)):
            if i:
                pieces.append([])
                taken = 0
            if piece:
                pieces[-1].append(Span(piece, style))
                taken += display_width(piece)
    return pieces


def count_letters(text: str) -> int:
    """Letters and digits, by which text is located after its layout has changed."""
    return sum(map(str.isalnum, _SEQUENCE.sub("", text)))


def tail_of(text: str) -> str:
    """The characters after the last letter or digit, without spaces."""
    plain = "".join(_SEQUENCE.sub("", text).split())
    at = next((i for i in range(len(plain), 0, -1) if plain[i - 1].isalnum()), 0)
    return plain[at:]


def without_beginning(line: Line, letters: int, tail: str) -> Line:
    """The line without up to that number of its first letters, and without the `tail` after them."""
    style, at = "", 0
    while at < len(line.text):
        if found := _SEQUENCE.match(line.text, at):
            style = "" if found.group() == "\x1b[0m" else found.group()
            at = found.end()
            continue
        character = line.text[at]
        if not letters and not character.isspace():
            if character != tail[:1]:
                break
            tail = tail[1:]
        letters -= character.isalnum()
        at += 1
    rest = line.text[at:]
    plain = _SEQUENCE.sub("", rest)
    return Line(style + rest, display_width(plain)) if plain.strip() else Line("")
