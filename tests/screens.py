"""What a terminal shows after what was written to it."""

from __future__ import annotations

import re

from wcwidth import wcwidth

SEQUENCE = re.compile(r"\x1b\[(\??)([0-9;]*)([A-Za-z])")


class Screen:
    """A terminal, as far as we make use of one."""

    def __init__(self, columns: int = 80, rows: int = 24) -> None:
        self.columns, self.rows = columns, rows
        self.grid: list[list[str]] = [[]]
        self.gone: list[str] = []  # lines that were scrolled away
        self.x = self.y = 0
        self.cursor = self.wraps = True

    @property
    def lines(self) -> list[str]:
        return ["".join(line).rstrip() for line in self.grid]

    @property
    def text(self) -> str:
        return "\n".join([*self.gone, *self.lines]).strip("\n")

    def feed(self, text: str) -> None:
        at = 0
        while at < len(text):
            if found := SEQUENCE.match(text, at):
                self._obey(*found.groups())
                at = found.end()
                continue
            self._put(text[at])
            at += 1

    def _obey(self, private: str, number: str, what: str) -> None:
        if private:
            if number in ("25", "7"):
                setattr(self, {"25": "cursor", "7": "wraps"}[number], what == "h")
        elif what == "A":
            self.y = max(0, self.y - int(number or 1))
        elif what in "KJ":
            del self.grid[self.y][self.x :]
            if what == "J":
                del self.grid[self.y + 1 :]

    def _put(self, character: str) -> None:
        if character == "\r":
            self.x = 0
        elif character == "\n":
            self._down()
        elif (width := wcwidth(character)) > 0:
            if self.x + width > self.columns and self.wraps:
                self._down()
            if self.x + width <= self.columns:
                line = self.grid[self.y]
                line += [" "] * (self.x + width - len(line))
                line[self.x : self.x + width] = [character] + [""] * (width - 1)
                self.x += width

    def _down(self) -> None:
        self.x, self.y = 0, self.y + 1
        if self.y == len(self.grid):
            self.grid.append([])
        if self.y == self.rows:
            self.gone.append("".join(self.grid.pop(0)).rstrip())
            self.y -= 1
