"""Shows the events of a turn above the input line."""

from __future__ import annotations

import time
from collections.abc import Callable
from io import StringIO
from typing import TYPE_CHECKING, Protocol

import anyio

from clinvk.errors import ClinvkError
from clinvk.model.checks.check import CheckResult, describe_check
from clinvk.model.events import (
    Checked,
    Checking,
    Delta,
    Denied,
    Event,
    Failed,
    Notice,
    Round,
    Text,
    Thinking,
    Tool,
    ToolResult,
)
from clinvk.model.result import Result
from clinvk.repl.screen.answer import AnswerText
from clinvk.repl.screen.tools import ToolLine, describe_input, describe_output
from clinvk.terminal import printer as show
from clinvk.terminal.printer import Printer, safe
from clinvk.terminal.wording import denial_hint, describe_round, print_failure
from clinvk.text.sanitize import one_line

if TYPE_CHECKING:
    from clinvk.dispatch.series.turn_series import TurnSeries
    from clinvk.dispatch.turn import Turn

MAX_HELD = 2_000_000  # characters that may wait; beyond that, the backend has to wait
INTERVAL = 0.03  # minimum seconds between two changes of the screen
SHARE = 2  # pause before the next change, as a multiple of the time the last one took
SHOWN_OF_CHECK = 20  # lines of the output of a check that failed, the last ones
THOUGHT_KEPT = 200_000  # characters of thinking that can still be shown


class _Held(StringIO):
    """What a printer writes, as it would be on the terminal."""

    def isatty(self) -> bool:
        return True


class Paper(Protocol):
    """What is above the input line, and the lines just above it that still change."""

    @property
    def columns(self) -> int: ...

    async def print_above(self, text: str) -> None:
        """Print text that stays, with line ends, and the open lines below it."""

    def redraw(self) -> None:
        """Draw the open lines, and all below them, again."""


class TurnView:
    """The `Listener` of a turn. It takes events at once and shows them concurrently, in `work`."""

    def __init__(
        self,
        paper: Paper,
        printer: Printer,
        *,
        plain: bool = False,
        shows_thinking: Callable[[], bool] = lambda: False,
    ) -> None:
        self.paper = paper
        self.printer = printer
        self.answer = AnswerText(lambda: paper.columns, color=printer.color, plain=plain)
        self.doing = "starting"
        self.began = time.monotonic()
        self.thoughts: list[str] = []
        self._thought = 0  # characters of them
        self._shows_thinking = shows_thinking
        self._thought_since: float | None = None
        self._turn: Turn | TurnSeries | None = None
        self._block: list[str] = []  # the deltas of the current block of the answer
        self._ended_id: str | None = None  # the message of the last block, which may continue it
        self._tools: dict[str, ToolLine] = {}  # calls that have not ended, by their ids
        self._streams = True
        self._waits_for_end = False
        self._changed = anyio.Event()
        self._has_room = anyio.Event()
        self._is_ending = False
        self._hurry = anyio.Event()  # there is something that should not wait
        self._has_answered = False
        self._done = anyio.Event()

    # Events.

    def notify(self, message: str) -> None:
        self._aside(lambda: self.printer.notice(message))

    def begin(self, turn: Turn | TurnSeries) -> None:
        self._turn = turn
        self.doing = "working"
        self.began = time.monotonic()
        streamed = turn.plan.settings.get("stream")
        self._streams = streamed is None or streamed.value is not False
        self._waits_for_end = turn.plan.schema is not None  # it may not match

    async def show(self, event: Event) -> None:
        self._take(event)
        self._changed.set()
        if self.answer.has_text and not self._has_answered:
            self._has_answered = True
            self._hurry.set()
        while self.answer.waiting > MAX_HELD and not self._is_ending:
            self._has_room = anyio.Event()
            await self._has_room.wait()

    def _take(self, event: Event) -> None:
        self._end_message(event)
        if not isinstance(event, Thinking):
            self._end_thinking()
        match event:
            case Delta() | Text() if self._waits_for_end:
                pass
            case Delta() if not self._streams:
                pass
            case Delta():
                self.doing = "answering"
                self.answer.feed(event.text)
                self._block.append(event.text)
            case Text():
                self.doing = "working"
                shown, self._block = "".join(self._block), []
                self.answer.feed(event.text.removeprefix(shown))
                if event.message_id is None:
                    self.answer.end_part()
                self._ended_id = event.message_id
            case Thinking():
                self._think(event.text)
            case Tool():
                self._begin_tool(event)
            case ToolResult():
                self._end_tool(event)
            case Denied():
                self._deny(event)
            case Notice():
                self._aside(lambda: self.printer.notice(event.message))
            case Checking():
                if not self.answer.has_text and event.result is not None:
                    self.answer.feed(event.result.text)  # it arrived all at once
                self.answer.end_part()
                self.doing = f"checking: {event.command}"
            case Checked():
                self._tell_check(event.check)
            case Round():
                self.doing = f"round {event.round}"
                self._aside(lambda: self.printer.notice(one_line(describe_round(event))))
            case Failed():
                self._end_tools()

    def _end_message(self, event: Event) -> None:
        ended_id, self._ended_id = self._ended_id, None
        if ended_id is None or (isinstance(event, (Delta, Text)) and event.message_id == ended_id):
            return
        self._block = []
        self.answer.end_part()

    def _think(self, text: str) -> None:
        if self._thought_since is None:
            self._thought_since = time.monotonic()
            self.doing = "thinking"
        if self._thought < THOUGHT_KEPT:  # counted: there may be many thousands of pieces
            self.thoughts.append(text)
            self._thought += len(text)

    def _end_thinking(self) -> None:
        if self._thought_since is None:
            return
        seconds = time.monotonic() - self._thought_since
        self._thought_since = None
        self.doing = "working"
        if self._shows_thinking():
            text = safe("".join(self.thoughts), self.printer.stream).strip()
            lines = [part for line in text.split("\n") for part in self.printer.wrap("  ", line)]
            self._dim(*lines)
            return
        self._dim(f"• thought for {seconds:.0f} s (/thinking shows it)")

    def _begin_tool(self, event: Tool) -> None:
        line = ToolLine(safe(event.name, self.printer.stream), describe_input(event.input))
        self.doing = f"{line.name} {line.about}".strip()
        if event.ended or event.id is None:
            self._tool(line)
            return
        self._tools[event.id] = line

    def _end_tool(self, event: ToolResult) -> None:
        line = self._tools.pop(event.id or "", None)
        if line is None:
            return
        line.ok = event.ok if event.ok is not None else True
        line.output = describe_output(event.output)
        self._tool(line)
        self.doing = "working"

    def _end_tools(self) -> None:
        """No result has come, and none will."""
        for line in self._tools.values():
            self._tool(line)
        self._tools.clear()

    def _tool(self, line: ToolLine) -> None:
        color = {True: show.GREEN, False: show.RED, None: show.DIM}[line.ok]
        text = safe(line.text(self.paper.columns - 1), self.printer.stream)
        mark, rest = text[:1], text[1:]
        self.answer.aside(self.printer.paint(mark, color) + self.printer.paint(rest, show.DIM))

    def _tell_check(self, check: CheckResult | None) -> None:
        """What a check found; the last one that failed is told at the end."""
        if check is None or (check.ok and check.command is None):
            return
        if check.ok:
            self._aside(lambda: self.printer.notice(one_line(describe_check(check))))
            return
        lines = check.output.splitlines()[-SHOWN_OF_CHECK:]
        self._dim(*(f"  {safe(line, self.printer.stream)}" for line in lines))

    def _deny(self, event: Denied) -> None:
        self._tools.pop(event.id or "", None)
        plan = self._turn.plan if self._turn is not None else None
        hint = denial_hint(event, plan) if plan is not None else event.hint
        self._aside(lambda: self.printer.warning(f"{event.name} was denied", hint))

    def _aside(self, write: Callable[[], None]) -> None:
        """Take what the printer writes."""
        self.answer.aside(*self._written(write))
        self._changed.set()

    def _dim(self, *lines: str) -> None:
        self.answer.aside(*(self.printer.paint(line, show.DIM) for line in lines))

    def _written(self, write: Callable[[], None]) -> list[str]:
        stream, held = self.printer.stream, _Held()
        self.printer.stream, self.printer.width = held, self.paper.columns
        try:
            write()
        finally:
            self.printer.stream, self.printer.width = stream, None
        return held.getvalue().rstrip("\n").split("\n")

    # The screen.

    async def work(self) -> None:
        """Show what was taken, until `end`."""
        try:
            while True:
                await self._changed.wait()
                self._changed = anyio.Event()
                began = time.monotonic()
                await self._print()
                if self._is_ending:
                    return
                self.paper.redraw()
                spent = time.monotonic() - began
                with anyio.move_on_after(max(INTERVAL, SHARE * spent)):
                    await self._hurry.wait()
                    if not self._is_ending:
                        self._hurry = anyio.Event()
        finally:
            self._done.set()

    async def _print(self) -> None:
        while text := self.answer.take():
            await self.paper.print_above(text)
            if self.answer.waiting <= MAX_HELD:
                self._has_room.set()

    async def end(self, result: Result | None, done: str | None = None) -> None:
        """Show the end of the turn, after its last event; `done` is what it has changed."""
        self._end_thinking()
        self._end_tools()
        is_failed = result is not None and result.error is not None
        if result is not None and not is_failed and not self.answer.has_text and result.text:
            self.answer.feed(result.text)  # it arrived all at once, at the end
        self.answer.end_part()
        if result is None:
            self._dim("• cancelled before it began")
        elif result.error is not None and result.error.kind == "cancelled":
            self._dim(f"• {result.error.message}; the session is kept")
        elif result.error is not None:
            self._aside(lambda: print_failure(result, self.printer, resumes=False))
        if done is not None:
            self._aside(lambda: self.printer.notice(done))
        await self._end()

    async def fail(self, error: ClinvkError) -> None:
        """Show why the turn could not be started."""
        self._aside(lambda: self.printer.error(error.message, error.hint))
        await self._end()

    async def _end(self) -> None:
        self._is_ending = True
        self._hurry.set()
        self._changed.set()
        self._has_room.set()
        await self._done.wait()
