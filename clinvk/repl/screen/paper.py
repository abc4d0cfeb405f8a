"""The terminal of an open prompt: text that stays is printed above the lines that are drawn.

It is the `Paper` of the turns, and holds the application of prompt_toolkit, which draws those lines.
"""

from __future__ import annotations

import os
import select
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, cast

import anyio
from anyio.lowlevel import checkpoint
from prompt_toolkit.application import Application
from prompt_toolkit.input import create_input
from prompt_toolkit.output import ColorDepth
from prompt_toolkit.output.vt100 import Vt100_Output

from clinvk.repl.actions import Action
from clinvk.terminal.live import BEGIN_UPDATE, END_UPDATE
from clinvk.terminal.printer import Printer

PIECE = 4096  # characters that a terminal takes without blocking once it is writable


class TerminalOutput(Vt100_Output):
    """Writes an update of the screen in one piece, so that nothing flickers."""

    is_held = False
    is_gone = False  # the terminal was closed
    on_gone: Callable[[], None] = staticmethod(lambda: None)

    def flush(self) -> None:
        if self.is_held or self.is_gone:
            return
        try:
            super().flush()
        except OSError:
            self.is_gone = True
            self.on_gone()

    def disable_bracketed_paste(self) -> None:
        if not self.is_held:  # it is enabled again at once
            super().disable_bracketed_paste()

    @contextmanager
    def one_update(self) -> Iterator[None]:
        if self.is_held:
            yield
            return
        self.is_held = True
        self.write_raw(BEGIN_UPDATE)
        try:
            yield
        finally:
            self.write_raw(END_UPDATE)
            self.is_held = False
            self.flush()


class _Above:
    """A stream whose text is printed above the lines that are drawn."""

    encoding = "utf-8"

    def __init__(self, paper: TerminalPaper) -> None:
        self._paper = paper
        self._held = ""

    def write(self, text: str) -> int:
        self._held += text
        return len(text)

    def flush(self) -> None:
        text, self._held = self._held, ""
        if text:
            self._paper.print_now(text)

    def isatty(self) -> bool:
        return True

    def fileno(self) -> int:
        return sys.stdout.fileno()


class TerminalPaper:
    """`app` draws nothing and reads no keys until it is given a layout and key bindings."""

    def __init__(self, *, color: bool) -> None:
        stream: Any = _Above(self)
        self.printer = Printer(stream, color=color)
        self.output = cast(
            "TerminalOutput", TerminalOutput.from_pty(sys.stdout, term=os.environ.get("TERM"))
        )
        # A terminal reports its cursor position in the input, where it would look like a paste.
        self.output.enable_cpr = False
        self.app: Application[Action] = Application(
            color_depth=None if color else ColorDepth.DEPTH_1_BIT,
            input=create_input(sys.stdin),
            output=self.output,
            erase_when_done=True,
            enable_page_navigation_bindings=False,
        )

    @property
    def columns(self) -> int:
        return max(20, self.output.get_size().columns)

    @property
    def rows(self) -> int:
        return max(4, self.output.get_size().rows)

    async def print_above(self, text: str) -> None:
        """Print text that stays, in pieces that the terminal takes without making others wait."""
        at = 0
        while at < len(text) and not self.output.is_gone:
            end = len(text)
            if end - at > 2 * PIECE:
                end = text.rfind("\n", at, at + PIECE) + 1
                if end <= at:
                    end = (text.find("\n", at) + 1) or len(text)
            await _until_writable()
            self.print_now(text[at:end])
            at = end
            await checkpoint()  # a key may have been pressed

    def print_now(self, text: str) -> None:
        if not self.app.is_running:
            self.output.write_raw(text)
            self.output.flush()
            return
        with self.output.one_update():
            self.app.renderer.erase(leave_alternate_screen=False)
            self.output.write_raw(text)
            self.app._redraw()  # noqa: SLF001 - `invalidate` draws later, and all of this is one update

    def redraw(self) -> None:
        self.app.invalidate()

    def clear(self) -> None:
        self.app.renderer.clear()


async def _until_writable() -> None:
    fd = sys.stdout.fileno()
    with suppress(OSError, ValueError):
        if not select.select([], [fd], [], 0)[1]:
            await anyio.wait_writable(fd)
