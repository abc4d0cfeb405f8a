"""Output for people: results go to stdout, everything else to stderr."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Mapping
from contextvars import ContextVar
from datetime import datetime
from importlib import import_module
from typing import Any, TextIO

from clinvk.process import ownership
from clinvk.terminal.actions import is_log_obeyed, literal
from clinvk.text.addresses import without_passwords
from clinvk.text.json_output import dumps
from clinvk.text.sanitize import one_line, sanitize, with_visible_order
from clinvk.text.width import clip, display_width, truncate, truncate_start

# `output.color`, once a command has read the configuration; "auto" for errors before that.
color: ContextVar[str] = ContextVar("color", default="auto")
# Whether answers are shown as they are written: `--plain`, or `output.render: false`.
plain: ContextVar[bool] = ContextVar("plain", default=False)
color_flag: ContextVar[str | None] = ContextVar("color_flag", default=None)  # `--color`
RED, GREEN, YELLOW, DIM, BOLD = "31", "32", "33", "2", "1"
STATE_COLORS = {
    **dict.fromkeys(("done", "completed", "installed", "ok", "ready"), GREEN),
    **dict.fromkeys(("failed", "error", "damaged", "missing", "broken"), RED),
    **dict.fromkeys(("running", "waiting", "queued", "interrupted", "indeterminate"), YELLOW),
    **dict.fromkeys(("cancelled", "not", "skipped", "archived", "paused"), DIM),
}
MAX_RENDERED = 262_144  # characters of a text that is rendered; more would take a second

LISTED = 20  # rows of a list on a terminal, unless all are asked for
MIN_COLUMN_WIDTH = 14  # cells that a column of a table keeps, however narrow the terminal
MIN_VALUE_WIDTH = 20  # cells; a value with less room is left to the terminal to wrap
COLUMN_GAP = 2  # cells between columns; tabulate leaves as many behind a header


class Printer:
    """Writes to one stream, in color if wanted."""

    def __init__(
        self, stream: TextIO, *, color: bool, quiet: bool = False, width: int | None = None
    ) -> None:
        """`width`: the columns of the terminal on which the text will be seen, if the stream is
        not that terminal itself."""
        self.stream = stream
        self.width = width
        self.color = color
        self.quiet = quiet  # shows no notices

    @classmethod
    def for_errors(cls, setting: str | None = None) -> Printer:
        return cls(sys.stderr, color=wants_color(sys.stderr, setting))

    def paint(self, text: str, code: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self.color else text

    def paint_state(self, text: str, state: str) -> str:
        """The text in the color of the state that it starts with."""
        code = STATE_COLORS.get(state.partition(" ")[0])
        return self.paint(text, code) if code else text

    def error(self, message: str, hint: str | None = None) -> None:
        """Print `clinvk: what happened`, and below it what to do next."""
        self._print_message(self.paint("clinvk:", RED), message, hint)

    def notice(self, message: str) -> None:
        if self.quiet:
            return
        self.notice_of("clinvk:", message)

    def notice_of(self, who: str, message: str) -> None:
        """Print a notice of something other than a prompt or a run."""
        self._print_message(self.paint(who, DIM), message, None)

    def warning(self, message: str, hint: str | None = None) -> None:
        self._print_message(self.paint("clinvk: warning:", YELLOW), message, hint)

    def line(self, text: str, code: str | None = None) -> None:
        """Print one or more lines of untrusted text."""
        text = self._harmless(text)
        self.stream.write((self.paint(text, code) if code else text) + "\n")

    def _print_message(self, who: str, message: str, hint: str | None) -> None:
        lines = self.wrap(f"{who} ", self._harmless(message))
        if hint:
            lines += self.wrap(f"  {self.paint('hint:', DIM)} ", self._harmless(hint))
        self.stream.write("".join(f"{line}\n" for line in lines))
        self.stream.flush()

    def wrap(self, label: str, text: str) -> list[str]:
        """The text behind its label; on a terminal, in lines that are broken between words."""
        width = self.width or _stream_width(self.stream)
        if width is None or (len(text) < width // 2 and text.isascii()):
            return [label + text]
        # Only a long line on a terminal.
        from clinvk.terminal.message_lines import wrap_message

        return wrap_message(label, text, width)

    def _harmless(self, text: str) -> str:
        """The text without control sequences, without passwords in addresses, and without commands
        that a CI log would execute."""
        text = safe(without_passwords(text), self.stream)
        return literal(text) if is_log_obeyed(os.environ) else text


class StatusLine:
    """A line on the terminal that says what is being done, erased when something is printed."""

    FRAMES = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"

    def __init__(self, printer: Printer, label: str, *, enabled: bool) -> None:
        self.printer = printer
        self.label = label
        self.enabled = enabled
        self._started_at = time.monotonic()
        self._shown = False
        self._frame = 0

    def tick(self) -> None:
        if not self.enabled:
            return
        self._frame += 1
        spin = self.FRAMES[self._frame % len(self.FRAMES)]
        seconds = int(time.monotonic() - self._started_at)
        line = clip(f"{spin} {one_line(self.label)} · {seconds} s", terminal_width() - 1)
        self.printer.stream.write(f"\r\x1b[K{self.printer.paint(line, DIM)}")
        self.printer.stream.flush()
        self._shown = True

    def clear(self) -> None:
        if self._shown:
            self.printer.stream.write("\r\x1b[K")
            self.printer.stream.flush()
            self._shown = False


class ProgressBar:
    """A progress bar for work that takes longer than half a second; call it with (done, total)."""

    WIDTH = 30
    SHOW_AFTER = 0.5  # seconds

    def __init__(self, label: str) -> None:
        self.label = label
        self._started_at = time.monotonic()
        self._shown = False

    def __call__(self, done: int, total: int) -> None:
        if not sys.stderr.isatty():
            return
        if done >= total and self._shown:
            sys.stderr.write("\r\x1b[K")
        elif time.monotonic() - self._started_at > self.SHOW_AFTER:
            full = self.WIDTH * done // max(1, total)
            bar = "█" * full + "░" * (self.WIDTH - full)
            sys.stderr.write(f"\r\x1b[K{self.label} {bar} {done:,}/{total:,}")
            self._shown = True
        sys.stderr.flush()


def wants_color(stream: TextIO, setting: str | None = None) -> bool:
    """Whether to write color: neither to a pipe nor with NO_COLOR, unless `setting`, or by default
    `--color` or `output.color`, says otherwise."""
    setting = setting or color.get()
    if setting != "auto":
        return setting == "always"
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return False
    return stream.isatty()


def wants_rendering() -> bool:
    """Whether Markdown on stdout is rendered: on a terminal that can move its cursor, unless the
    user wants to see the source."""
    is_capable = os.environ.get("TERM", "") not in ("", "dumb", "unknown")
    return is_capable and not plain.get() and sys.stdout.isatty()


def safe(text: str, stream: TextIO | None = None) -> str:
    """`text` for a stream, stdout if none is named: without control sequences, and on a terminal
    with visible marks for characters that change the order of text. A pipe gets those unchanged."""
    text = sanitize(text)
    return with_visible_order(text) if (stream or sys.stdout).isatty() else text


def for_output() -> Printer:
    """The printer of stdout."""
    return Printer(sys.stdout, color=wants_color(sys.stdout, color.get()))


def print_markdown(text: str) -> None:
    """Print a text of a model or a user: rendered on a terminal, otherwise unchanged."""
    for line in markdown_lines(text):
        print(line)


def markdown_lines(text: str) -> list[str]:
    """The lines that `print_markdown` prints."""
    if not wants_rendering() or len(text) > MAX_RENDERED:
        return safe(text).rstrip().split("\n")
    # Only on a terminal: 0.1 s.
    from clinvk.terminal.rendering.layout import render_text, text_width
    from clinvk.terminal.rendering.lines import without_style

    is_colored = for_output().color
    lines = render_text(safe(text), text_width(terminal_width()))
    return [line.text if is_colored else without_style(line).text for line in lines]


def print_wrapped(text: str, label: str = "") -> None:
    """Print a line of clinvk's own behind its label, on a terminal wrapped between words."""
    for line in for_output().wrap(label, text):
        print(line)


def short_path(path: str) -> str:
    """The path, on a terminal with `~` for the home directory."""
    home = os.path.expanduser("~").rstrip("/")
    if sys.stdout.isatty() and home and (path == home or path.startswith(f"{home}/")):
        return f"~{path[len(home) :]}"
    return path


def local_time(moment: datetime) -> str:
    """The time in the time zone of the user."""
    return moment.astimezone().strftime("%Y-%m-%d %H:%M:%S")


def print_json(data: Any) -> None:
    print(dumps(data, indent=2))


def print_table(
    headers: list[str],
    rows: Iterable[list[str]],
    *,
    right: Iterable[str] = (),
    shrinks: Iterable[str] = (),
    spared: Iterable[str] = (),
    state: str = "",
    ends: Iterable[str] = (),
    least: int = MIN_COLUMN_WIDTH,
) -> set[str]:
    """Print a table, and return the headers that were left out. Columns are as wide as their
    content. If a terminal is too narrow, the columns of `shrinks` are shortened, down to `least`
    cells; if that is not enough, those of `spared` are left out, in their order. In the columns `ends`, the end of a value is kept instead of the
    beginning. The column `state` is colored. A pipe gets everything."""
    table = [headers, *([one_line(cell) for cell in row] for row in rows)]
    if sys.stdout.isatty():
        table = _fit_table(table, terminal_width(), list(shrinks), list(spared), list(ends), least)
    out = for_output()
    if state in table[0]:
        at = table[0].index(state)
        for row in table[1:]:
            row[at] = out.paint_state(row[at], row[at])
    align = ["right" if name in right else "left" for name in table[0]] if table[1:] else None
    text = _load_tabulate(table).tabulate(
        table[1:], headers=table[0], tablefmt="plain", colalign=align, disable_numparse=True
    )
    for i, line in enumerate(text.splitlines()):
        print(line.rstrip() if i else out.paint(line.rstrip(), BOLD))
    return {*headers} - {*table[0]}


def _load_tabulate(table: list[list[str]]) -> Any:
    """tabulate; with wcwidth, two thirds of its import time, only if a cell is not ASCII."""
    ascii_only = all(cell.isascii() for row in table for cell in row)
    # In a program of another, other threads may import wcwidth at this moment.
    hidden = (
        ascii_only and ownership.is_owned() and not {"wcwidth", "tabulate"} & sys.modules.keys()
    )
    if hidden:
        sys.modules["wcwidth"] = None  # type: ignore[assignment]  # tabulate does without it
    try:
        tabulate: Any = import_module("tabulate")
    finally:
        if hidden:
            del sys.modules["wcwidth"]
    if not ascii_only and tabulate.wcwidth is None:  # loaded for an earlier table
        import wcwidth  # only for text that is not ASCII

        tabulate.wcwidth = wcwidth
    return tabulate


def _column_widths(table: list[list[str]]) -> list[int]:
    """Headers padded so that they do not touch each other."""
    return [
        max([display_width(head) + COLUMN_GAP, *map(display_width, column)])
        for head, *column in zip(*table, strict=True)
    ]


def _fit_table(
    table: list[list[str]],
    room: int,
    shrinks: list[str],
    spared: list[str],
    ends: list[str],
    least_width: int,
) -> list[list[str]]:
    """The table, whose first row holds the headers, in lines of `room` cells. Lines that cannot be
    shortened further stay longer: the terminal wraps them, and no id is lost."""
    headers = table[0]
    widths = _column_widths(table)
    least = [min(w, least_width) if headers[i] in shrinks else w for i, w in enumerate(widths)]
    kept = _select_columns(headers, least, room, spared)
    for i in map(headers.index, shrinks):
        over = _line_width(widths[k] for k in kept) - room
        if i in kept and over > 0:
            widths[i] = max(least[i], widths[i] - over)
    cut = [truncate_start if name in ends else truncate for name in headers]
    return [[cut[i](row[i], widths[i]) for i in kept] for row in table]


def _select_columns(
    headers: list[str], widths: list[int], room: int, spared: list[str]
) -> list[int]:
    """The columns that fit, chosen by importance."""
    kept = [i for i, name in enumerate(headers) if name not in spared]
    for name in reversed(spared):
        more = sorted([*kept, *(i for i, other in enumerate(headers) if other == name)])
        if _line_width(widths[i] for i in more) <= room:
            kept = more
    return kept


def _line_width(widths: Iterable[int]) -> int:
    """The width of a line with columns of these widths."""
    return sum(width + COLUMN_GAP for width in widths) - COLUMN_GAP


def shorten(text: str, most: int) -> str:
    """The text on one line of at most `most` characters, for a sentence."""
    text = one_line(text)
    return text if len(text) <= most else text[: most - 1] + "…"


def print_fields(fields: Mapping[str, Any], state: str = "") -> None:
    """Print aligned `Name: value` lines. The value of the field `state` is colored."""
    for line in field_lines(fields, state):
        print(line)


def field_lines(fields: Mapping[str, Any], state: str = "") -> list[str]:
    """The lines that `print_fields` prints: on a terminal, a long value is wrapped between words,
    and continues below its beginning."""
    width = max(map(len, fields)) + 2
    out = for_output()
    room = terminal_width() - width if sys.stdout.isatty() else 0
    lines = []
    for name, value in fields.items():
        text = one_line(str(value))
        shown, *more = _wrap_value(text, room)
        shown = out.paint_state(shown, text) if name == state else shown
        label = out.paint(f"{name}:".ljust(width), DIM)
        lines.append(f"{label}{shown}".rstrip())
        lines += [" " * width + line for line in more]
    return lines


def _wrap_value(text: str, room: int) -> list[str]:
    if room < MIN_VALUE_WIDTH or (len(text) <= room and text.isascii()):
        return [text]
    from clinvk.terminal.message_lines import wrap_message  # only for a long line

    return wrap_message("", text, room)


def _stream_width(stream: TextIO) -> int | None:
    """The columns of the terminal; None if the stream is not a terminal."""
    try:
        return os.get_terminal_size(stream.fileno()).columns or None
    except (OSError, ValueError):
        return None


def terminal_width() -> int:
    """The width of the terminal, in columns."""
    # Only rarely needed.
    import shutil

    return shutil.get_terminal_size().columns
