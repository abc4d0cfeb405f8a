"""What is shown of a turn in each of the output formats."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from clinvk.cmd.options.reading import OutputOptions
from clinvk.dispatch.turn_plan import TurnPlan
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
)
from clinvk.model.result import Result
from clinvk.model.usage import format_count
from clinvk.terminal import printer as show
from clinvk.terminal.actions import inert_json, stop_token
from clinvk.terminal.printer import Printer, StatusLine
from clinvk.terminal.stdout import PatientStdout
from clinvk.terminal.wording import (
    denial_hint,
    describe_changes,
    describe_round,
    print_failure,
)
from clinvk.text.json_output import dumps
from clinvk.text.sanitize import StreamSanitizer, one_line, with_visible_order

if TYPE_CHECKING:
    from clinvk.model.checks.check import CheckResult

PIECE = 16_384  # characters that are cleaned before a signal can be handled: a few milliseconds
SHOWN_OF_CHECK = 20  # lines of the output of a check that failed, the last ones
EXAMINED = 10_000  # characters of a value of which the beginning is shown


class TurnViewer:
    """Shows the events of one turn."""

    def __init__(self, output: OutputOptions, printer: Printer, plan: TurnPlan) -> None:
        self.out = PatientStdout()
        self.output = output
        self.printer = printer
        self.plan = plan
        wanted = output.format == "text" and sys.stderr.isatty() and sys.stdin.isatty()
        wanted = wanted and not output.quiet
        self.status = StatusLine(printer, f"{plan.manifest.name} is working", enabled=wanted)
        streamed = plan.settings.get("stream")
        self.streams = streamed is None or streamed.value is not False
        self.gave_up = False
        self.has_unread_output: Callable[[], bool] = lambda: False  # of the turn

    async def show(self, event: Event) -> None:
        """Show an event; what goes to stdout waits in `out`."""

    async def flush(self, deadline: float) -> None:
        """Write what was shown until `deadline`, and the rest later."""
        await self.out.flush(deadline)

    async def work(self) -> None:
        """Work that runs concurrently; cancelled at the end."""

    async def end(self, result: Result) -> None:
        """Called when nothing more is printed on stdout."""

    def give_up(self) -> None:
        """The run was stopped: do not wait for a reader."""
        self.gave_up = True
        self.out.give_up()

    def show_outcome(self, result: Result) -> None:
        """Print what belongs on stderr once all of stdout is written."""
        self.status.enabled = False
        if result.error is not None:
            print_failure(result, self.printer)
        if result.worktree is not None:
            self.printer.notice(describe_changes(result.worktree, ok=result.ok))


class TextViewer(TurnViewer):
    """The answer as it streams; everything else on stderr."""

    def __init__(self, output: OutputOptions, printer: Printer, plan: TurnPlan) -> None:
        super().__init__(output, printer, plan)
        self.sanitizer = StreamSanitizer()
        self.shown_block: list[str] = []  # the deltas of the current block of the answer
        self.in_block = False  # some of it was shown
        self._ended_id: str | None = None  # the message of the last block, which may continue it
        self.is_terminal = sys.stdout.isatty()
        self._token = stop_token(
            sys.stdout.fileno()
        )  # ends the part of a log in which commands are not obeyed
        self.at_line_start = True  # at the beginning of a line
        self.has_written = False

    async def show(self, event: Event) -> None:
        self._end_message(event)
        match event:
            case Delta() | Text() if self.plan.schema is not None:
                pass  # it may not match: the answer that counts is shown at the end
            case Delta():
                if self.streams:
                    await self._write(event.text)
                    self.shown_block.append(event.text)
            case Text():
                # The whole block: print the part that its deltas have not shown yet.
                shown, self.shown_block = "".join(self.shown_block), []
                await self._write(event.text.removeprefix(shown))
                if event.message_id is None:
                    self._newline()
                self._ended_id = event.message_id
            case Tool():
                self._newline()
                self.status.label = f"{self.plan.manifest.name}: {event.name}"
                self._write_aside(f"{event.name}: {shorten_value(event.input)}")
            case Thinking():
                self._newline()
                await self._tell_aside(event.text)
            case Denied():
                self._end_line()
                self._clear()
                self.printer.warning(f"{event.name} was denied", denial_hint(event, self.plan))
            case Notice():
                self._end_line()
                self._clear()
                self.printer.notice(event.message)
            case Checking():
                self._newline()
                self.status.label = f"checking: {one_line(event.command)}"
            case Checked():
                self._tell_check(event.check)
            case Round():
                self.status.label = f"{self.plan.manifest.name}: round {event.round}"
                self.printer.notice(one_line(describe_round(event)))
            case Failed():
                self._newline()

    def _tell_check(self, check: CheckResult | None) -> None:
        """What a check found; the last one that failed is told at the end."""
        # Only with a check.
        from clinvk.model.checks.check import describe_check

        if check is None or (check.ok and check.command is None):
            return
        self._end_line()
        self._clear()
        if not check.ok:
            for line in check.output.splitlines()[-SHOWN_OF_CHECK:]:
                self.printer.line(f"  {line}", show.DIM)
        if check.ok:
            self.printer.notice(one_line(describe_check(check)))

    def _end_message(self, event: Event) -> None:
        """End the last block, unless the event is another part of the same message."""
        ended_id, self._ended_id = self._ended_id, None
        if ended_id is None or (isinstance(event, (Delta, Text)) and event.message_id == ended_id):
            return
        self._end_shown_block()

    def _end_shown_block(self) -> None:
        self._newline()

    async def end(self, result: Result) -> None:
        if not self.has_written:  # it arrived all at once, at the end
            await self._write(_final_text(result))
        self._newline()
        if self._token and self.has_written:
            self.out.write(f"::{self._token}::\n")

    def show_outcome(self, result: Result) -> None:
        self._clear()
        super().show_outcome(result)
        if count := result.unrecognized_lines:
            self._write_aside(f"lines that the manifest does not recognize: {count:,}")
        if footer := _footer(result, self.output):
            for line in self.printer.wrap("", footer):
                self.printer.line(line, show.DIM)

    async def _write(self, text: str) -> None:
        if len(text) <= PIECE:
            self._write_piece(text)
            return
        for at in range(0, len(text), PIECE):
            self._write_piece(text[at : at + PIECE])
            await hear_signals()
            if self.gave_up:
                break

    def _write_piece(self, text: str) -> None:
        if not self.output.raw:
            text = self._visible(self.sanitizer.feed(text))
        if not text:
            return
        self._clear()
        self.status.enabled = self.status.enabled and not sys.stdout.isatty()
        if self.at_line_start and self.has_written and not self.in_block:
            text = "\n" + text  # an empty line between two blocks of the answer
        self._stop_commands()
        self.out.write(text)
        self.has_written = self.in_block = True
        self.at_line_start = text.endswith("\n")

    def _newline(self) -> None:
        if rest := self._visible(self.sanitizer.finish()):
            self._stop_commands()
            self.out.write(rest)
            self.at_line_start = rest.endswith("\n")
            self.has_written = True
        self._end_line()
        self.shown_block, self.in_block = [], False

    def _stop_commands(self) -> None:
        """Keep GitHub Actions from obeying commands in the answer, which begins now."""
        if self._token and not self.has_written:
            self.out.write(f"::stop-commands::{self._token}\n")

    def _end_line(self) -> None:
        """The block may continue below: what is printed on stderr does not end it."""
        if self.has_written and not self.at_line_start:
            self.out.write("\n")
            self.at_line_start = True

    def _visible(self, text: str) -> str:
        return with_visible_order(text) if self.is_terminal else text

    async def _tell_aside(self, text: str) -> None:
        if self.output.verbose:
            cleaner = StreamSanitizer()  # in pieces, so that signals are handled meanwhile
            pieces = []
            for at in range(0, len(text), PIECE):
                pieces.append(cleaner.feed(text[at : at + PIECE]))
                await hear_signals()
            self._write_aside("".join([*pieces, cleaner.finish()]))

    def _write_aside(self, text: str) -> None:
        if self.output.verbose and text:
            self._clear()
            self.printer.line(f"· {text}", show.DIM)

    def _clear(self) -> None:
        self.status.clear()


class JsonViewer(TurnViewer):
    """One object at the end."""

    async def show(self, event: Event) -> None:
        if isinstance(event, Notice):
            self.printer.notice(event.message)
        elif isinstance(event, Round):
            self.printer.notice(one_line(describe_round(event)))
        elif isinstance(event, Denied):
            self.printer.warning(f"{event.name} was denied", denial_hint(event, self.plan))

    async def end(self, result: Result) -> None:
        self.out.write(inert_json(dumps(result.to_json(), indent=2)) + "\n")


class StreamViewer(TurnViewer):
    """clinvk's events, one per line; the last one is the result."""

    async def show(self, event: Event) -> None:
        if isinstance(event, Delta) and not self.streams:
            return
        line = event.to_json(raw=self.output.raw)
        if event.type in ("finished", "failed"):
            self.last = line
            return
        self.out.write(inert_json(dumps(line)) + "\n")

    async def end(self, result: Result) -> None:
        about = result.to_json()
        line = {k: v for k, v in self.last.items() if k in ("version", "type", "raw")}
        self.out.write(inert_json(dumps({**line, **about})) + "\n")


def _final_text(result: Result) -> str:
    """The answer; of one that matches a schema, the JSON alone."""
    if not result.ok or result.structured_attempts is None:
        return result.text
    try:
        json.loads(result.text)
    except ValueError:
        return dumps(result.structured, indent=2)
    return result.text


def _footer(result: Result, output: OutputOptions) -> str:
    parts = []
    if output.tokens and result.usage:
        used = result.usage
        parts.append(
            f"{format_count(used.input, '?')} tokens in, {format_count(used.output, '?')} out"
        )
    if output.tokens and result.cost is not None:
        parts.append(f"${result.cost:.4f} as reported")
    if output.timing:
        parts.append(f"{result.seconds:.1f} s")
    return " · ".join(parts)


def shorten_value(value: Any) -> str:
    """The beginning of a value, on one line."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    line = one_line(text[:EXAMINED])
    return line if len(line) <= 100 and len(text) <= EXAMINED else line[:99] + "…"


async def hear_signals() -> None:
    """Yield to the other tasks of the event loop."""
    from anyio.lowlevel import checkpoint  # at the top it would be loaded for a dry run, too

    await checkpoint()
