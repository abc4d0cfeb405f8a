"""What is seen of a run, in each of the output formats."""

from __future__ import annotations

import json
import sys
from typing import Any

from clinvk.cmd.options.request import Output
from clinvk.dispatch.turn_plan import TurnPlan
from clinvk.model.events import Delta, Denied, Event, Failed, Notice, Text, Thinking, Tool
from clinvk.model.result import Result
from clinvk.terminal import printer as show
from clinvk.terminal.printer import Printer, Status
from clinvk.terminal.stdout import Out
from clinvk.text.json_output import dumps
from clinvk.text.sanitize import PIECE, Cleaner, one_line, with_visible_order

EXAMINED = 10_000  # characters of a value of which the beginning is shown


class Viewer:
    """Shows the events of one run."""

    def __init__(self, output: Output, printer: Printer, plan: TurnPlan) -> None:
        self.out = Out()
        self.output = output
        self.printer = printer
        self.plan = plan
        wanted = output.format == "text" and sys.stderr.isatty() and sys.stdin.isatty()
        self.status = Status(printer, f"{plan.manifest.name} is working", wanted=wanted)
        self.gave_up = False

    async def show(self, event: Event) -> None:
        """Show an event; what goes to stdout waits in `out`."""

    async def end(self, result: Result) -> None:
        """The end of stdout."""

    def give_up(self) -> None:
        """The run was ended: nothing is waited for any more."""
        self.gave_up = True
        self.out.give_up()

    def tell(self, result: Result) -> None:
        """What is said on stderr when all of stdout is written."""
        self.status.wanted = False
        if result.error is not None:
            tell(result, self.printer)


class _TextViewer(Viewer):
    """The answer as it comes; what else happens on stderr."""

    def __init__(self, output: Output, printer: Printer, plan: TurnPlan) -> None:
        super().__init__(output, printer, plan)
        self.cleaner = Cleaner()
        self.block: list[str] = []  # the deltas of the answer's present block
        self.in_block = False  # some of it was shown
        self.is_terminal = sys.stdout.isatty()
        self.fresh = True  # at the beginning of a line
        self.begun = False

    async def show(self, event: Event) -> None:
        match event:
            case Delta():
                await self._write(event.text)
                self.block.append(event.text)
            case Text():
                # The whole of a block: what its deltas have not shown yet is the rest of it.
                shown, self.block = "".join(self.block), []
                await self._write(event.text.removeprefix(shown))
                self._newline()
            case Tool():
                self._newline()
                self.status.what = f"{self.plan.manifest.name}: {event.name}"
                self._aside(f"{event.name}: {brief(event.input)}")
            case Thinking():
                self._newline()
                await self._tell_aside(event.text)
            case Denied():
                self._newline()
                self._clear()
                self.printer.warning(f"{event.name} was denied", self._allow(event))
            case Notice():
                self._newline()
                self._clear()
                self.printer.notice(event.message)
            case Failed():
                self._newline()

    async def end(self, result: Result) -> None:
        if not self.begun:  # it came all at once, at the end
            await self._write(result.text)
        self._newline()

    def tell(self, result: Result) -> None:
        self._clear()
        super().tell(result)
        if footer := _footer(result, self.output):
            self.printer.line(footer, show.DIM)

    def _allow(self, event: Denied) -> str | None:
        """How to allow it, where the approval was left to the CLI, which has nobody to ask."""
        if "approval" in self.plan.settings:
            return event.reason
        return "let it edit with --approval auto, or do everything with --approval none"

    async def _write(self, text: str) -> None:
        if len(text) <= PIECE:
            self._write_piece(text)
            return
        for at in range(0, len(text), PIECE):
            self._write_piece(text[at : at + PIECE])
            await _hear_signals()
            if self.gave_up:
                break

    def _write_piece(self, text: str) -> None:
        if not self.output.raw:
            text = self._visible(self.cleaner.feed(text))
        if not text:
            return
        self._clear()
        self.status.wanted = self.status.wanted and not sys.stdout.isatty()
        if self.fresh and self.begun and not self.in_block:
            text = "\n" + text  # an empty line between two blocks of the answer
        self.out.write(text)
        self.begun = self.in_block = True
        self.fresh = text.endswith("\n")

    def _newline(self) -> None:
        if rest := self._visible(self.cleaner.end()):
            self.out.write(rest)
            self.fresh = rest.endswith("\n")
            self.begun = True
        if self.begun and not self.fresh:
            self.out.write("\n")
            self.fresh = True
        self.block, self.in_block = [], False

    def _visible(self, text: str) -> str:
        return with_visible_order(text) if self.is_terminal else text

    async def _tell_aside(self, text: str) -> None:
        if self.output.verbose:
            cleaner = Cleaner()  # in pieces, so that signals are heard meanwhile
            pieces = []
            for at in range(0, len(text), PIECE):
                pieces.append(cleaner.feed(text[at : at + PIECE]))
                await _hear_signals()
            self._aside("".join([*pieces, cleaner.end()]))

    def _aside(self, text: str) -> None:
        if self.output.verbose and text:
            self._clear()
            self.printer.line(f"· {text}", show.DIM)

    def _clear(self) -> None:
        self.status.clear()


class _JsonViewer(Viewer):
    """One object at the end."""

    async def show(self, event: Event) -> None:
        if isinstance(event, Notice):
            self.printer.notice(event.message)

    async def end(self, result: Result) -> None:
        self.out.write(dumps(result.to_json(), indent=2) + "\n")


class _StreamViewer(Viewer):
    """Our events, one a line; the last one says how it went."""

    async def show(self, event: Event) -> None:
        line = event.to_json(raw=self.output.raw)
        if event.type in ("finished", "failed"):
            self.last = line
            return
        self.out.write(dumps(line) + "\n")

    async def end(self, result: Result) -> None:
        about = result.to_json()
        line = {k: v for k, v in self.last.items() if k in ("version", "type", "raw")}
        self.out.write(dumps({**line, **about}) + "\n")


def viewer_for(output: Output, printer: Printer, plan: TurnPlan) -> Viewer:
    kinds = {"text": _TextViewer, "json": _JsonViewer, "stream-json": _StreamViewer}
    return kinds[output.format](output, printer, plan)


def tell(result: Result, printer: Printer) -> None:
    """The failure, in a sentence; and how to go on."""
    error = result.error
    assert error is not None  # noqa: S101 - asked only then
    hint = error.hint
    if error.retry_at is not None:
        when = error.retry_at.astimezone().strftime("%Y-%m-%d %H:%M:%S")
        hint = f"the limit ends at {when}" + (f"; {hint}" if hint else "")
    if error.kind in ("timeout", "cancelled") and result.session_id and result.native_id:
        go_on = f'go on with: clinvk resume {result.session_id} "..."'
        hint = f"{hint}; {go_on}" if hint else go_on
    printer.error(f"{result.backend}: {error.message}", hint)


def _footer(result: Result, output: Output) -> str:
    parts = []
    if output.tokens and result.usage:
        parts.append(f"{result.usage.input:,} tokens in, {result.usage.output:,} out")
    if output.tokens and result.cost is not None:
        parts.append(f"${result.cost:.4f} as reported")
    if output.timing:
        parts.append(f"{result.seconds:.1f} s")
    return " · ".join(parts)


def brief(value: Any) -> str:
    """The beginning of a value, on one line."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    line = one_line(text[:EXAMINED])
    return line if len(line) <= 100 and len(text) <= EXAMINED else line[:99] + "…"


async def _hear_signals() -> None:
    """Let whatever else runs in the event loop have its turn."""
    from anyio.lowlevel import checkpoint  # at the top it would be loaded for a dry run, too

    await checkpoint()
