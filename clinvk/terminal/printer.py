"""What people see: results to stdout, everything else to stderr."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, TextIO

from clinvk.terminal.actions import is_log_obeyed, literal
from clinvk.text.addresses import without_passwords
from clinvk.text.json_output import dumps
from clinvk.text.sanitize import clean, one_line, with_visible_order

colour = "auto"  # output.color, once a configuration was read; what goes wrong before is "auto"
RED, YELLOW, DIM, BOLD = "31", "33", "2", "1"

LEAST = 14  # cells that a column of a table keeps, however narrow the terminal
GAP = 2  # cells between columns; tabulate leaves as many behind a header


class Printer:
    """Writes for one stream, in colour where that is wanted."""

    def __init__(self, stream: TextIO, *, colour: bool) -> None:
        self.stream = stream
        self.colour = colour

    @classmethod
    def for_errors(cls, setting: str = "auto") -> Printer:
        return cls(sys.stderr, colour=wants_colour(sys.stderr, setting))

    def paint(self, text: str, code: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self.colour else text

    def error(self, message: str, hint: str | None = None) -> None:
        """`clinvk: what happened`, and what to do next below it."""
        self._say(self.paint("clinvk:", RED), message, hint)

    def notice(self, message: str) -> None:
        self._say(self.paint("clinvk:", DIM), message, None)

    def warning(self, message: str, hint: str | None = None) -> None:
        self._say(self.paint("clinvk: warning:", YELLOW), message, hint)

    def line(self, text: str, code: str | None = None) -> None:
        """A line, or several, of text that anything may be in."""
        text = self._harmless(text)
        self.stream.write((self.paint(text, code) if code else text) + "\n")

    def _say(self, who: str, message: str, hint: str | None) -> None:
        lines = f"{who} {self._harmless(message)}"
        if hint:
            lines += f"\n  {self.paint('hint:', DIM)} {self._harmless(hint)}"
        self.stream.write(lines + "\n")
        self.stream.flush()

    def _harmless(self, text: str) -> str:
        """Text that drives no terminal, shows no password of an address, and that a log which looks
        for commands does not obey."""
        text = safe(without_passwords(text), self.stream)
        return literal(text) if is_log_obeyed(os.environ) else text


class Status:
    """A line on the terminal that says what is going on, and goes when something is printed."""

    FRAMES = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"

    def __init__(self, printer: Printer, what: str, *, wanted: bool) -> None:
        self.printer = printer
        self.what = what
        self.wanted = wanted
        self._began = time.monotonic()
        self._shown = False
        self._frame = 0

    def tick(self) -> None:
        if not self.wanted:
            return
        self._frame += 1
        spin = self.FRAMES[self._frame % len(self.FRAMES)]
        seconds = int(time.monotonic() - self._began)
        line = f"{spin} {one_line(self.what)} · {seconds} s"[: columns() - 1]
        self.printer.stream.write(f"\r\x1b[K{self.printer.paint(line, DIM)}")
        self.printer.stream.flush()
        self._shown = True

    def clear(self) -> None:
        if self._shown:
            self.printer.stream.write("\r\x1b[K")
            self.printer.stream.flush()
            self._shown = False


class Progress:
    """A bar on the terminal for what takes longer than half a second; call it with (done, all)."""

    WIDTH = 30
    PATIENCE = 0.5  # seconds

    def __init__(self, what: str) -> None:
        self.what = what
        self._began = time.monotonic()
        self._shown = False

    def __call__(self, done: int, total: int) -> None:
        if not sys.stderr.isatty():
            return
        if done >= total and self._shown:
            sys.stderr.write("\r\x1b[K")
        elif time.monotonic() - self._began > self.PATIENCE:
            full = self.WIDTH * done // max(1, total)
            bar = "█" * full + "░" * (self.WIDTH - full)
            sys.stderr.write(f"\r\x1b[K{self.what} {bar} {done:,}/{total:,}")
            self._shown = True
        sys.stderr.flush()


def wants_colour(stream: TextIO, setting: str = "auto") -> bool:
    """NO_COLOR and a pipe mean none, unless `output.color` says otherwise."""
    if setting != "auto":
        return setting == "always"
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return False
    return stream.isatty()


def safe(text: str, stream: TextIO | None = None) -> str:
    """`text` for a stream, stdout if none is named: it drives no terminal, and what changes the
    order of text is visible on one. A pipe gets the text in its own order."""
    text = clean(text)
    return with_visible_order(text) if (stream or sys.stdout).isatty() else text


def print_json(data: Any) -> None:
    print(dumps(data, indent=2))


def print_table(
    headers: list[str],
    rows: Iterable[list[str]],
    *,
    right: Iterable[str] = (),
    shrinks: Iterable[str] = (),
    spared: Iterable[str] = (),
) -> None:
    """Columns as wide as what is in them. Where a terminal has no room for that, those that
    `shrinks` names get shorter; where that does not do, those of `spared` are left out, the first
    of them first. A pipe gets everything."""
    from tabulate import tabulate  # 19 ms: only for tables

    table = [headers, *([one_line(cell) for cell in row] for row in rows)]
    if sys.stdout.isatty():
        table = _fitted(table, columns(), list(shrinks), list(spared))
    align = ["right" if name in right else "left" for name in table[0]]
    text = tabulate(
        table[1:], headers=table[0], tablefmt="plain", colalign=align, disable_numparse=True
    )
    for line in text.splitlines():
        print(line.rstrip())


def _fitted(
    table: list[list[str]], room: int, shrinks: list[str], spared: list[str]
) -> list[list[str]]:
    """The table, whose first row are its headers, in lines of so many cells; longer ones where
    nothing more may be taken away. A terminal breaks those, and no id is lost."""
    from clinvk.terminal.columns import cells, first  # only on a terminal

    headers = table[0]
    by_column = zip(*table, strict=True)
    widths = [max(cells(head) + GAP, *map(cells, column)) for head, *column in by_column]
    least = [min(w, LEAST) if headers[i] in shrinks else w for i, w in enumerate(widths)]
    kept = _kept(headers, least, room, spared)
    for i in map(headers.index, shrinks):
        over = _width(widths[k] for k in kept) - room
        if i in kept and over > 0:
            widths[i] = max(least[i], widths[i] - over)
    return [[first(row[i], widths[i]) for i in kept] for row in table]


def _kept(headers: list[str], widths: list[int], room: int, spared: list[str]) -> list[int]:
    """The columns that there is room for. What matters more is let in first."""
    kept = [i for i, name in enumerate(headers) if name not in spared]
    for name in reversed(spared):
        more = sorted([*kept, *(i for i, other in enumerate(headers) if other == name)])
        if _width(widths[i] for i in more) <= room:
            kept = more
    return kept


def _width(widths: Iterable[int]) -> int:
    """Of a line with columns of these widths."""
    return sum(width + GAP for width in widths) - GAP


def shortened(text: str, most: int) -> str:
    """It on one line of so many characters, for a sentence."""
    text = one_line(text)
    return text if len(text) <= most else text[: most - 1] + "…"


def print_fields(fields: Mapping[str, Any]) -> None:
    """`Name: value` lines, aligned, for one thing."""
    width = max(map(len, fields)) + 2
    for name, value in fields.items():
        print(f"{name + ':':<{width}}{one_line(str(value))}".rstrip())


def ago(moment: datetime, now: datetime | None = None) -> str:
    """`5m ago`, as people say it."""
    seconds = max(0, int(((now or datetime.now(UTC)) - moment).total_seconds()))
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "m")):
        if seconds >= size:
            return f"{seconds // size}{unit} ago"
    return "just now" if seconds < 5 else f"{seconds}s ago"


def size(count: int) -> str:
    """Bytes in the unit that leaves few digits."""
    value = float(count)
    for unit in ("B", "KB", "MB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} GB"


def columns() -> int:
    """Of the terminal."""
    # Only rarely needed.
    import shutil

    return shutil.get_terminal_size().columns
