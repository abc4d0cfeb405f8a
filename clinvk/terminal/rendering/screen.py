"""The end of a text on the terminal, which changes in place until it is final."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

from clinvk.terminal.live import BEGIN_UPDATE, END_UPDATE, ERASE_BELOW, ERASE_LINE
from clinvk.terminal.rendering.lines import Line, count_letters, tail_of, without_beginning

GetSize = Callable[[], os.terminal_size]


class LiveText:
    """Computes what to write so that a terminal ends with given lines. Only changes are written, in
    one piece; the cursor stays after the last character.

    Lines that have scrolled off the screen, or that something was printed below, can no longer be
    changed. The text continues at the letter after them."""

    def __init__(self, get_size: GetSize) -> None:
        self._get_size = get_size
        self._lines: list[Line] = []  # that may still change
        self._has_begun = False
        self._at_line_start = True
        # The part of the open lines that can no longer be changed: the number of its letters, and their tail.
        self._fixed_letters = 0
        self._fixed_tail = ""

    @property
    def at_line_start(self) -> bool:
        return self._at_line_start

    def update(self, final: Sequence[Line], open_: Sequence[Line]) -> str:
        """Replace the open lines with `final` and then `open_`. Only the latter may change
        again."""
        size = self._get_size()
        lines = self._without_fixed([*final, *open_])
        text = self._draw(lines, size.columns)
        final_letters = sum(count_letters(line.text) for line in final)
        count = max(0, len(lines) - len(open_)) if final else 0
        self._fixed_letters = max(0, self._fixed_letters - final_letters)
        self._lines = lines[count:]
        self._fix_top(size)
        return text

    def end_line(self) -> str:
        """Start a new line for other output; nothing shown so far will change."""
        self._fix(self._lines)
        self._lines = []
        text = "" if self._at_line_start else "\n"
        self._at_line_start = True
        return text

    def _draw(self, lines: list[Line], columns: int) -> str:
        old = self._lines
        same = next(
            (i for i, (a, b) in enumerate(zip(old, lines, strict=False)) if a != b),
            min(len(old), len(lines)),
        )
        if same == len(old):
            return self._append(lines[same:])
        if same == len(old) - 1 and same < len(lines):
            shown = old[same].text
            if shown and not shown.endswith("m") and lines[same].text.startswith(shown):
                return lines[same].text[len(shown) :] + self._append(lines[same + 1 :])
        up = sum(line.rows(columns) for line in old[same:]) - 1
        return self._rewrite(lines[same:], up, columns, is_shorter=self._is_shorter(lines, columns))

    def _is_shorter(self, lines: list[Line], columns: int) -> bool:
        return sum(x.rows(columns) for x in lines) < sum(x.rows(columns) for x in self._lines)

    def _append(self, lines: Sequence[Line]) -> str:
        text = ""
        for line in lines:
            text += line.text if self._at_line_start else f"\n{line.text}"
            self._at_line_start = False
        return text

    def _rewrite(self, lines: list[Line], up: int, columns: int, *, is_shorter: bool) -> str:
        parts = [BEGIN_UPDATE, "\r"]
        if up:
            parts.append(f"\x1b[{up}A")
        if not lines:  # the line above becomes the last one
            parts.append(ERASE_BELOW)
            self._at_line_start = True
        for i, line in enumerate(lines):
            is_last = i == len(lines) - 1
            if is_last and is_shorter:
                parts.append(ERASE_BELOW)
            # A full line leaves the cursor on its last character, which would be erased.
            full = line.width > 0 and line.width % columns == 0
            parts += [line.text, "" if full else ERASE_LINE, "" if is_last else "\n"]
        return "".join([*parts, END_UPDATE])

    def _without_fixed(self, lines: list[Line]) -> list[Line]:
        left = self._fixed_letters
        for i, line in enumerate(lines):
            if not left:
                return lines[i:]
            here = count_letters(line.text)
            if here >= left:
                rest = without_beginning(line, left, self._fixed_tail)
                return [*([rest] if rest.text else []), *lines[i + 1 :]]
            left -= here
        return []

    def _fix(self, lines: Sequence[Line]) -> None:
        text = "".join(line.text for line in lines)
        letters = count_letters(text)
        self._fixed_letters += letters
        self._fixed_tail = ("" if letters else self._fixed_tail) + tail_of(text)

    def _fix_top(self, size: os.terminal_size) -> None:
        """Freeze the lines that are off the screen, or may be after one more."""
        rows = 0
        for i in range(len(self._lines) - 1, -1, -1):
            rows += self._lines[i].rows(size.columns)
            if rows > size.lines - 1:
                gone = self._lines[: i + 1]
                if i + 1 == len(self._lines):  # one line that fills the screen
                    gone = self._lines[:i]
                self._fix(gone)
                self._lines = self._lines[len(gone) :]
                return
