"""The last lines of a terminal, redrawn in place."""

from __future__ import annotations

import os
import re
import select
import termios
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import lru_cache
from typing import TextIO

from clinvk.text.sanitize import one_line
from clinvk.text.width import display_width

# Terminals that support these show everything between them at once; others ignore them.
BEGIN_UPDATE, END_UPDATE = "\x1b[?2026h", "\x1b[?2026l"
HIDE_CURSOR, SHOW_CURSOR = "\x1b[?25l", "\x1b[?25h"
# Terminals disagree about the width of some characters. If one is wider than expected, the line is
# clipped and the others stay in place.
NO_WRAP, WRAP = "\x1b[?7l", "\x1b[?7h"
ERASE_LINE, ERASE_BELOW = "\x1b[K", "\x1b[J"  # erase up to there

DEFAULT_SIZE = os.terminal_size((80, 24))
# Joins several characters into one on some terminals; without it, widths are the same everywhere.
_JOINERS = dict.fromkeys([0x200D, *range(0xFE00, 0xFE10), *range(0x1F3FB, 0x1F400)])
_COLOR = re.compile(r"\x1b\[[0-9;]*m")

GetSize = Callable[[], os.terminal_size]


class LiveRegion:
    """Holds the terminal until `close`: the cursor is hidden, and typed characters are not shown,
    since they would scroll the lines away."""

    def __init__(self, stream: TextIO, size: GetSize | None = None) -> None:
        self.stream = stream
        self.size = size or self._measure
        self._fd = _fileno(stream)
        self._lines: list[str] = []
        self._drawn_size = DEFAULT_SIZE
        # The widths of lines that a narrower terminal has wrapped and scrolled off, where nothing
        # can be erased. They come back above the others when the terminal gets wider or higher.
        self._scrolled_out: list[int] = []
        self._is_active = False
        self._saved_terminal = False

    def can_draw(self) -> bool:
        """Whether this process is in the foreground and the terminal accepts output: it may be
        stopped (Ctrl-S), and waiting for it would block everything else."""
        if self._fd is None:
            return True
        with suppress(OSError):  # without job control every process may write
            if os.tcgetpgrp(self._fd) != os.getpgrp():
                return False
        return bool(select.select([], [self._fd], [], 0)[1])

    def is_resized(self) -> bool:
        return self._is_active and self.size() != self._drawn_size

    def draw(self, lines: list[str], above: str = "") -> None:
        """Replace the lines, printing the lines `above` before them, which stay. Writes once."""
        size = self.size()
        if self._is_active and lines == self._lines and size == self._drawn_size and not above:
            return
        redraw = bool(above) or not self._is_active or size != self._drawn_size
        text = "".join(
            [
                BEGIN_UPDATE,
                "" if self._is_active else HIDE_CURSOR,
                self._erase_sequence(size) + above if redraw else _cursor_up(len(self._lines)),
                NO_WRAP,
                *_changed_lines(lines, [] if redraw else self._lines),
                ERASE_BELOW if len(lines) < len(self._lines) else "",
                WRAP,
                END_UPDATE,
            ]
        )
        if not self._is_active:
            self._disable_echo()
        if above:
            self._scrolled_out = []  # the lines above come between
        self._is_active, self._lines, self._drawn_size = True, lines, size
        self._write(text)

    def clear(self, above: str = "") -> None:
        """Erase the lines and release the terminal; `above` is printed and stays."""
        if self._is_active:
            self._write(self._erase_sequence(self.size()) + above + SHOW_CURSOR)
            self._is_active, self._lines = False, []
            self._restore_echo()
        elif above:
            self._write(above)

    def _erase_sequence(self, size: os.terminal_size) -> str:
        """The sequence that erases the lines one by one: if everything below the top of the screen
        is erased at once, some terminals keep it in their scrollback."""
        widths = [0] * len(self._lines)
        if size.columns < self._drawn_size.columns:  # it has wrapped lines
            widths = [display_width(_COLOR.sub("", line)) for line in self._lines]
        widths = self._scrolled_out + widths
        rows = [max(1, -(-width // size.columns)) for width in widths]
        count = min(sum(rows), size.lines - 1)
        self._scrolled_out = _top_rows(rows, sum(rows) - count, size.columns)
        return _cursor_up(count) + f"{ERASE_LINE}\n" * count + ERASE_LINE + _cursor_up(count)

    def _write(self, text: str) -> None:
        # A closed terminal is no reason to stop a run.
        with suppress(OSError):
            self.stream.write(text)
            self.stream.flush()

    def _disable_echo(self) -> None:
        with suppress(termios.error, TypeError):
            settings = termios.tcgetattr(self._fd)  # type: ignore[arg-type]
            if settings[3] & termios.ECHO:
                settings[3] &= ~termios.ECHO
                termios.tcsetattr(self._fd, termios.TCSADRAIN, settings)  # type: ignore[arg-type]
                self._saved_terminal = True

    def _restore_echo(self) -> None:
        if self._saved_terminal:
            self._saved_terminal = False
            with suppress(termios.error, TypeError):
                settings = termios.tcgetattr(self._fd)  # type: ignore[arg-type]
                settings[3] |= termios.ECHO
                termios.tcsetattr(self._fd, termios.TCSADRAIN, settings)  # type: ignore[arg-type]

    def _measure(self) -> os.terminal_size:
        try:
            size = os.get_terminal_size(self.stream.fileno())
        except (OSError, ValueError):
            return DEFAULT_SIZE
        return size if size.columns and size.lines else DEFAULT_SIZE


def _fileno(stream: TextIO) -> int | None:
    try:
        return stream.fileno()
    except (OSError, ValueError):
        return None


def _top_rows(rows: list[int], count: int, columns: int) -> list[int]:
    """The widths of the lines that make up the first `count` rows; `rows` are their heights."""
    widths = []
    for height in rows:
        if count <= 0:
            break
        widths.append(min(height, count) * columns)
        count -= height
    return widths


def _cursor_up(rows: int) -> str:
    """Moves the cursor from the line below the last one to the first."""
    return f"\r\x1b[{rows}A" if rows else "\r"


def _changed_lines(lines: Iterable[str], before: list[str]) -> Iterable[str]:
    """The sequence that writes the lines; unchanged ones are skipped."""
    for i, line in enumerate(lines):
        yield "\n" if i < len(before) and before[i] == line else f"{line}{ERASE_LINE}\n"


@lru_cache(maxsize=1024)
def normalize_width(text: str) -> str:
    """`text` on one line, in characters of the same width on every terminal."""
    text = one_line(text)
    if text.isascii():
        return text
    return text.translate(_JOINERS).encode("utf-8", "ignore").decode()
