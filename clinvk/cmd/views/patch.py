"""A patch on the terminal: in color, harmless, and with the pager of git."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from clinvk.terminal import pager, printer
from clinvk.text.sanitize import with_visible_order
from clinvk.text.width import display_width

if TYPE_CHECKING:
    from clinvk.worktrees.results.diff import Diffs
    from clinvk.worktrees.results.reading import TaskResult

BOLD, RED, GREEN, CYAN = "1", "31", "32", "36"
HEADERS = ("diff --git ", "index ", "--- ", "+++ ", "old mode ", "new mode ", "new file ",
           "deleted file ", "rename ", "copy ", "similarity ", "dissimilarity ", "Binary files ")  # fmt: skip


def show(diffs: Diffs, *, stat: bool) -> None:
    """Print what tasks changed; through the pager if it does not fit on the terminal."""
    out = printer.for_output()
    lines: list[str] = []
    for result in diffs.results:
        if len(diffs.results) > 1:
            lines += _heading(out, result, is_first=not lines)
        data = (
            diffs.stat(result, printer.terminal_width())
            if stat
            else diffs.patch(result, binary=False)
        )
        paint = _paint_stat if stat else _paint_patch
        lines += paint(out, data.decode("utf-8", "replace").split("\n")[:-1])
    git = diffs.git(diffs.results[0])
    pager.show_lines(lines, os.environ.get("GIT_PAGER") or git.maybe("config", "core.pager"))


def _heading(out: printer.Printer, result: TaskResult, *, is_first: bool) -> list[str]:
    title = f"── {visible(result.name)} "
    width = min(printer.terminal_width(), 100) - display_width(title)
    return [*([] if is_first else [""]), out.paint(title + "─" * max(2, width), BOLD)]


def _paint_patch(out: printer.Printer, lines: list[str]) -> Iterator[str]:
    """Each line in its color. A line of a hunk may look like a header: the counts of the hunk say
    where it ends."""
    old = new = 0
    for line in lines:
        text = visible(line)
        if old > 0 or new > 0:
            sign = line[:1]
            old -= sign in ("-", " ", "")
            new -= sign in ("+", " ", "")
            code = {"-": RED, "+": GREEN}.get(sign)
            yield out.paint(text, code) if code else text
        elif found := re.match(r"@@ -\d+(?:,(\d+))? \+\d+(?:,(\d+))? @@", line):
            old, new = (1 if n is None else int(n) for n in found.groups())
            end = len(found.group())
            yield out.paint(text[:end], CYAN) + text[end:]
        else:
            yield out.paint(text, BOLD) if line.startswith(HEADERS) else text


def _paint_stat(out: printer.Printer, lines: list[str]) -> Iterator[str]:
    for line in lines:
        text = visible(line)
        found = re.search(r"( \|\s+\d+ )(\++)?(-+)?$", text)
        if found is None:
            yield text
            continue
        plus, minus = found.group(2) or "", found.group(3) or ""
        yield text[: found.end(1)] + "".join(
            out.paint(signs, code) for signs, code in ((plus, GREEN), (minus, RED)) if signs
        )


def visible(text: str) -> str:
    """The text with its control characters in caret notation: a diff must not hide anything."""
    if not text.isprintable():
        text = re.sub(r"[\x00-\x08\x0a-\x1f\x7f]", lambda m: "^" + chr(ord(m.group()) ^ 64), text)
        text = re.sub(r"[\x80-\x9f]", lambda m: f"<U+{ord(m.group()):04X}>", text)
    return with_visible_order(text)
