"""Long output, shown page by page."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence

from clinvk.process.foreground import run_in_foreground
from clinvk.terminal.actions import without_commands
from clinvk.text.sanitize import sanitize
from clinvk.text.width import display_width


def show_lines(lines: Sequence[str], preferred: str | None = None) -> None:
    """Print the lines; through the `preferred` pager, or `$PAGER`, if they do not fit on the
    terminal."""
    text = "".join(f"{line}\n" for line in lines)
    pager = _pager(preferred)
    if pager is None or _fits(lines):
        sys.stdout.write(without_commands(text, sys.stdout.fileno()))
        return
    env = {"LESS": "FRX", "LV": "-c", **os.environ}  # as git does: leave it if all fits, and colors
    sys.stdout.flush()
    data = text.encode("utf-8", "replace")
    if run_in_foreground(["/bin/sh", "-c", pager], text=data, env=env) in (126, 127):  # no pager
        sys.stdout.write(text)


def _pager(preferred: str | None) -> str | None:
    """The command of the pager; None without a pager or a terminal that it could use."""
    is_capable = os.environ.get("TERM", "") not in ("", "dumb", "unknown")
    if not (is_capable and sys.stdout.isatty() and sys.stdin.isatty()):
        return None
    chosen = preferred or os.environ.get("PAGER")
    if chosen is None:
        return "less" if shutil.which("less") else None
    return None if chosen.strip() in ("", "cat") else chosen


def _fits(lines: Sequence[str]) -> bool:
    """Whether everything fits on the screen, with room for the shell's next prompt."""
    columns, rows = shutil.get_terminal_size()
    taken = 0
    for line in lines:
        taken += max(1, -(-display_width(sanitize(line)) // columns))
        if taken > rows - 2:
            return False
    return True
