"""What people see: results to stdout, everything else to stderr."""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, TextIO

from clinvk.clean import clean, one_line
from clinvk.errors import SessionError

colour = "auto"  # output.color, once a configuration was read; what goes wrong before is "auto"
RED, YELLOW, DIM, BOLD = "31", "33", "2", "1"


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

    def _say(self, who: str, message: str, hint: str | None) -> None:
        lines = f"{who} {clean(message)}"
        if hint:
            lines += f"\n  {self.paint('hint:', DIM)} {clean(hint)}"
        self.stream.write(lines + "\n")
        self.stream.flush()


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


def dumps(data: Any, indent: int | None = None) -> str:
    """JSON that drives no terminal either: it escapes C0 by itself, DEL and C1 are ours to do."""
    text = json.dumps(data, ensure_ascii=False, indent=indent)
    return text if text.isprintable() else re.sub(r"[\x7f-\x9f]", _escaped, text)


def _escaped(found: re.Match[str]) -> str:
    return f"\\u{ord(found.group()):04x}"


def print_json(data: Any) -> None:
    print(dumps(data, indent=2))


def print_table(
    headers: list[str], rows: Iterable[list[str]], *, right: Iterable[int] = ()
) -> None:
    """Columns as wide as what is in them; the last one is cut to the terminal, where it is one."""
    from tabulate import tabulate  # 19 ms: only for tables

    cells = [[one_line(cell) for cell in row] for row in rows]
    align = ["right" if i in right else "left" for i in range(len(headers))]
    text = tabulate(cells, headers=headers, tablefmt="plain", colalign=align, disable_numparse=True)
    width = columns() if sys.stdout.isatty() else None
    for line in text.splitlines():
        print(_cut(line, width) if width else line.rstrip())


def _cut(line: str, width: int) -> str:
    """The line in at most so many cells: a Chinese character takes two."""
    from wcwidth import wcswidth, wcwidth  # only on a terminal

    if wcswidth(line) <= width:
        return line.rstrip()
    cells, kept = 0, ""
    for character in line:
        cells += max(0, wcwidth(character))
        if cells > width - 1:
            break
        kept += character
    return kept.rstrip() + "…"


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


def confirm(question: str) -> bool:
    """What a person at the terminal answers; no, where there is none."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return False
    sys.stderr.write(f"{clean(question)} [y/N] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def agreed(question: str) -> bool:
    """Whether a person agrees to a deletion. Raises `SessionError` where nobody can be asked."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise SessionError("deleting asks first, and there is no terminal", "add --yes")
    return confirm(question)


def columns() -> int:
    """Of the terminal."""
    import shutil

    return shutil.get_terminal_size().columns
