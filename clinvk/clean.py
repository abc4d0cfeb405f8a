"""Text that cannot drive a terminal."""

from __future__ import annotations

import re

# CSI; OSC, DCS, SOS, PM and APC up to their end; other escapes; then every control character but
# tab and newline, in both ranges (ECMA-48).
_STRING_END = r"(?:\x07|\x1b\\|\x9c|$)"
_SEQUENCE = (
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]"
    rf"|(?:\x1b[\]PX^_]|[\x9d\x90\x98\x9e\x9f])[^\x07\x1b\x9c]*+{_STRING_END}"
    r"|\x1b[ -/]*[0-~]"
    r"|\x1b|[\x00-\x08\x0b-\x1f\x7f-\x9f]"
)
# An escape sequence that the next piece of text may go on with.
_OPEN = r"(?:(?:\x1b\[|\x9b)[0-?]*[ -/]*|(?:\x1b[\]PX^_]|[\x9d\x90\x98\x9e\x9f])[^\x07\x1b\x9c]*+\x1b?|\x1b[ -/]*)$"
_OPEN_KEPT = 4096  # characters; a longer "sequence" is no sequence
_BIDI = dict.fromkeys([*range(0x202A, 0x202F), *range(0x2066, 0x206A)])


def clean(text: str) -> str:
    """`text` without control characters and escape sequences; tab and newline stay."""
    if text.replace("\n", "").replace("\t", "").isprintable():
        return text  # most text; the expression below takes 5 ms to compile
    return re.sub(_SEQUENCE, "", text)


def in_order(text: str) -> str:
    """`clean`, and in the order in which it is written: for what stands beside other text."""
    return clean(text).translate(_BIDI)


def one_line(text: str) -> str:
    """`text` for a cell of a table: on one line, and in the order in which it is written."""
    return " ".join(in_order(text).split())


class Cleaner:
    """`clean` for text that comes in pieces: a sequence may begin in one and end in another."""

    def __init__(self) -> None:
        self._held = ""

    def feed(self, piece: str) -> str:
        if not self._held and piece.replace("\n", "").isprintable():
            return piece
        text = self._held + piece
        self._held = ""
        if (found := re.search(_OPEN, text)) and len(found.group()) <= _OPEN_KEPT:
            self._held = found.group()
            text = text[: found.start()]
        return clean(text)

    def end(self) -> str:
        held, self._held = self._held, ""
        return clean(held)
