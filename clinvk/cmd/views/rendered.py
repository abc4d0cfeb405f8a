"""An answer on a terminal, rendered as Markdown while it streams."""

from __future__ import annotations

import os
import sys
import time
from collections import deque
from collections.abc import Awaitable, Callable

import anyio

from clinvk.cmd.options.reading import OutputOptions
from clinvk.cmd.views.turn import TextViewer, hear_signals
from clinvk.dispatch.turn_plan import TurnPlan
from clinvk.model.events import Delta, Event, Text
from clinvk.model.result import Result
from clinvk.process.threads import in_thread
from clinvk.terminal import printer as show
from clinvk.terminal.live import DEFAULT_SIZE
from clinvk.terminal.printer import Printer
from clinvk.terminal.rendering.stream import AnswerRenderer

PIECE = 4096  # characters that are taken before a signal can be handled
PLAIN_PIECE = 65_536  # the same for text that is not rendered
MAX_WAITING = 262_144  # characters that may wait to be rendered; beyond that, the rest is plain
MAX_HELD = (
    16_000_000  # characters that may wait to be written; beyond that, the backend has to wait
)
INTERVAL = 0.03  # minimum seconds between two changes of the screen
LONG_BLOCK = 3000  # characters; a longer block, such as a table, is rendered in a thread
MAX_PRECEDENCE = 0.1  # seconds that reading may keep the screen from changing
POLL_INTERVAL = 0.01  # seconds between two looks whether there is still something to read
SHARE = 8  # pause before the next change, as a multiple of the time the last one took

Job = str | Callable[[], Awaitable[None]]


class RenderedViewer(TextViewer):
    """Accepts events at once and shows them concurrently: neither rendering nor a slow terminal
    keeps the backend waiting. While there is something to read, nothing is rendered, except once
    in a while."""

    def __init__(self, output: OutputOptions, printer: Printer, plan: TurnPlan) -> None:
        super().__init__(output, printer, plan)
        color = show.wants_color(sys.stdout, output.color)
        self._renderer = AnswerRenderer(_terminal_size, color=color)
        self._jobs: deque[Job] = deque()
        self._waiting = 0  # characters among them
        self._has_jobs = anyio.Event()
        self._has_room = anyio.Event()
        self._is_done = anyio.Event()
        self._is_ending = False
        self._is_plain = False  # it came too fast to be rendered
        self._told_of_plain = False
        self._needs_drawing = False
        self._next_drawing = 0.0
        self._spent = 0.0  # seconds of rendering since the last drawing
        self._error: OSError | None = None
        self._has_text = False

    async def show(self, event: Event) -> None:
        self._end_message(event)
        match event:
            case Delta():
                if self.streams:
                    self._add_text(event.text)
                    self.shown_block.append(event.text)
            case Text():
                shown, self.shown_block = "".join(self.shown_block), []
                self._add_text(event.text.removeprefix(shown))
                if event.message_id is None:
                    self._add(self._end_block)
                self._ended_id = event.message_id
            case _:
                self._add(lambda: self._show_aside(event))
        while self._waiting > MAX_HELD and not (self.gave_up or self._error):
            self._has_room = anyio.Event()
            await self._has_room.wait()
        self._raise_error()

    async def flush(self, deadline: float) -> None:
        """Nothing to do: a task of its own writes."""

    async def end(self, result: Result) -> None:
        if not self._has_text:  # it came all at once, at the end
            self._add_text(result.text)
        self._add(self._end_block)
        self._is_ending = True
        await self._is_done.wait()
        self._raise_error()

    def give_up(self) -> None:
        super().give_up()
        self._has_room.set()

    async def work(self) -> None:
        try:
            while self._jobs or not self._is_ending:
                await self._has_jobs.wait()
                self._has_jobs = anyio.Event()
                await self._do_jobs()
        except OSError as error:
            self._error = error
            self._has_room.set()
        finally:
            self._is_done.set()

    async def _do_jobs(self) -> None:
        while self._jobs:
            job = self._jobs.popleft()
            if isinstance(job, str):
                await self._take_text(job)
            else:
                await job()
            if self._needs_drawing and not self._jobs:
                wait = max(0.0, self._next_drawing - time.monotonic())
                await anyio.sleep(wait)  # more may arrive meanwhile
                await self._draw()
            elif self._needs_drawing and time.monotonic() >= self._next_drawing:
                await self._draw()

    def _end_shown_block(self) -> None:
        self._add(self._end_block)

    def _add_text(self, text: str) -> None:
        if text:
            self._has_text = True
            self._waiting += len(text)
            self._is_plain = self._is_plain or self._waiting > MAX_WAITING
            self._add(text)

    def _add(self, job: Job) -> None:
        self._jobs.append(job)
        self._has_jobs.set()

    async def _take_text(self, text: str) -> None:
        # Many small pieces become one for the renderer.
        size = PLAIN_PIECE if self._is_plain else PIECE
        while self._jobs and isinstance(self._jobs[0], str) and len(text) < size:
            text += self._jobs.popleft()  # type: ignore[operator]
        for at in range(0, len(text), size):
            piece = text[at : at + size]
            self._waiting -= len(piece)
            if not self.gave_up:
                await self._take_piece(self._visible(self.sanitizer.feed(piece)))
            await hear_signals()
        if self._waiting <= MAX_HELD:
            self._has_room.set()

    async def _take_piece(self, text: str) -> None:
        if not text:
            return
        self._clear()
        self.status.enabled = False
        self.has_written = True
        if self._is_plain:
            await self._write_plain(text)
            return
        self._renderer.feed(text)
        self._needs_drawing = True
        if len(text) >= PIECE // 2:
            await self._draw_complete_blocks()

    async def _draw(self) -> None:
        await self._draw_complete_blocks()
        await self._let_reader_go_first()
        self.out.write(await self._compute(self._renderer.draw, self._renderer.open_size))
        self._needs_drawing = False
        self._next_drawing = time.monotonic() + max(INTERVAL, SHARE * self._spent)
        self._spent = 0.0
        await self.out.flush()

    async def _draw_complete_blocks(self) -> None:
        while (size := self._renderer.next_size) and not self.gave_up:
            await self._let_reader_go_first()
            self.out.write(await self._compute(self._renderer.draw_next, size))
            if self._renderer.next_size:
                await self.out.flush()
                await hear_signals()

    async def _let_reader_go_first(self) -> None:
        """Wait until there is nothing to read. The first text is shown at once, and no text waits
        for long."""
        until = time.monotonic() + (MAX_PRECEDENCE if self._next_drawing else 0)
        while (  # noqa: ASYNC110 - another task reads, and not for this one
            self.has_unread_output() and not self._is_plain and time.monotonic() < until
        ):
            await anyio.sleep(POLL_INTERVAL)

    async def _compute(self, draw: Callable[[], str], size: int) -> str:
        began = time.monotonic()
        text = draw() if size < LONG_BLOCK else await in_thread(draw)
        self._spent += time.monotonic() - began
        return text

    async def _end_block(self) -> None:
        """The end of a part of the answer."""
        rest = self._visible(self.sanitizer.finish())
        if self._is_plain:
            self.out.write(rest)
            self._end_line()
        else:
            self._renderer.feed(rest)
            await self._finish_rendering()
        self._needs_drawing = False
        await self.out.flush()

    async def _finish_rendering(self) -> None:
        self._renderer.finish()
        await self._draw_complete_blocks()
        self.out.write(self._renderer.end_block())

    async def _show_aside(self, event: Event) -> None:
        """Print events other than text on stderr, on lines of their own."""
        if not self._is_plain:
            await self._draw()
            self.out.write(self._renderer.end_line())
            await self.out.flush()
        await super().show(event)

    async def _write_plain(self, text: str) -> None:
        if not self._told_of_plain:
            self._told_of_plain = True
            await self._finish_rendering()
            await self.out.flush()
            self.printer.notice("the answer arrives faster than it can be rendered; the rest is plain text")  # fmt: skip
        self.out.write(text)
        self.at_line_start = text.endswith("\n")
        await self.out.flush()

    def _newline(self) -> None:
        self._end_line()

    def _raise_error(self) -> None:
        if self._error is not None:
            raise self._error


def _terminal_size() -> os.terminal_size:
    try:
        size = os.get_terminal_size(sys.stdout.fileno())
    except OSError:
        return DEFAULT_SIZE
    return size if size.columns and size.lines else DEFAULT_SIZE
