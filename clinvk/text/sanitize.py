"""Text without control sequences.

An escape sequence is removed whole. A control string (OSC, DCS, SOS, PM, APC) ends at its
terminator on the same line: if there is none, only its beginning is removed and the text stays, so
that no answer can hide the rest of it. Every function takes time in proportion to the text.
"""

from __future__ import annotations

import re

STRING_LONGEST = 65_536  # characters of a control string; in a longer one, the text stays
SEQUENCE_LONGEST = 64  # characters of the parameters of another sequence
PIECE = 65_536  # characters in one call of `re`, during which signals are not handled

# ECMA-48: strings, control sequences and other escapes, each in its 7-bit and its 8-bit form; then
# every control character but tab and newline, in both ranges.
_STRING = r"(?:\x1b[\]PX^_]|[\x9d\x90\x98\x9e\x9f])"
_WITHIN = rf"[^\x00-\x08\n-\x1f\x7f-\x9f]{{0,{STRING_LONGEST}}}+"
_CSI = rf"(?:\x1b\[|\x9b)[0-?]{{0,{SEQUENCE_LONGEST}}}+[ -/]{{0,4}}+"
_ESCAPE = r"\x1b[ -/]{0,4}+"
_SEQUENCES = (  # adjacent ones at once, which is faster
    rf"(?:{_CSI}[@-~]"
    rf"|{_STRING}{_WITHIN}(?:\x07|\x1b\\|\x9c)"
    r"|\x1b[\[\]PX^_]"  # the beginning of an unterminated one
    rf"|{_ESCAPE}[0-~]"
    r"|[\x00-\x08\x0b-\x1f\x7f-\x9f])++"
)
# A sequence at the end of a piece that the next piece may continue.
_OPEN_SEQUENCE = rf"(?:{_CSI}|{_STRING}{_WITHIN}\x1b?|{_ESCAPE})\Z"
_BIDI = [*range(0x202A, 0x202F), *range(0x2066, 0x206A)]


def sanitize(text: str) -> str:
    """`text` without control characters and escape sequences; tab and newline stay."""
    if _is_plain(text):
        return text  # most text; the expression below takes 5 ms to compile
    if len(text) <= PIECE:
        return re.sub(_SEQUENCES, "", text)
    cleaner = StreamSanitizer()
    pieces = [cleaner.feed(text[at : at + PIECE]) for at in range(0, len(text), PIECE)]
    return "".join([*pieces, cleaner.finish()])


def sequences_end(text: str, at: int) -> int:
    """Where the escape sequences and control characters that begin at `at` end."""
    found = re.compile(_SEQUENCES).match(text, at)  # compiled only once
    return found.end() if found else at


def sanitize_without_bidi(text: str) -> str:
    """`clean`, with the order of characters preserved: for text beside other text."""
    return sanitize(text).translate(dict.fromkeys(_BIDI))


def one_line(text: str) -> str:
    """`text` for a cell of a table: on one line, with the order of characters preserved."""
    return " ".join(sanitize_without_bidi(text).split())


def with_visible_order(text: str) -> str:
    """`text` with a mark in place of each character that changes the order in which a terminal
    shows it: `<U+202E>`."""
    if text.isascii():
        return text
    return text.translate({c: f"<U+{c:04X}>" for c in _BIDI})


class StreamSanitizer:
    """`clean` for text that arrives in pieces: a sequence may start in one and end in another.

    Any division into pieces gives the same result as `clean` for the whole."""

    def __init__(self) -> None:
        self._pending: list[str] = []  # an open sequence
        self._length = 0
        self._is_string = False  # it is a control string, which only a control character ends

    def feed(self, piece: str) -> str:
        """The text that can be shown so far."""
        if not self._pending or not piece:
            return piece if _is_plain(piece) else self._cleaned(piece)
        self._pending.append(piece)
        self._length += len(piece)
        if self._is_string and self._length <= STRING_LONGEST and not _has_control(piece):
            return ""  # undecided, and the pending text need not be examined again
        return self._cleaned(self._let_go())

    def finish(self) -> str:
        """The rest of an open sequence, at the end of the text."""
        return re.sub(_SEQUENCES, "", self._let_go())

    def _let_go(self) -> str:
        held, self._pending, self._length = "".join(self._pending), [], 0
        return held

    def _cleaned(self, text: str) -> str:
        if found := _has_control(text) and re.search(_OPEN_SEQUENCE, text):
            held = found.group()
            text = text[: found.start()]
            self._pending, self._length = [held], len(held)
            self._is_string = bool(re.match(_STRING, held)) and not held.endswith("\x1b")
        return re.sub(_SEQUENCES, "", text)


def _is_plain(text: str) -> bool:
    return text.isprintable() or text.replace("\n", "").replace("\t", "").isprintable()


def _has_control(text: str) -> bool:
    return re.search(r"[\x00-\x08\n-\x1f\x7f-\x9f]", text) is not None
