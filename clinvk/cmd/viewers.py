"""What is seen of a run, in each of the output formats."""

from __future__ import annotations

import json
import sys
from typing import Any

from clinvk.clean import Cleaner, clean, one_line
from clinvk.cmd import show
from clinvk.cmd.options import Output
from clinvk.cmd.out import Out
from clinvk.cmd.show import Printer, Status
from clinvk.dispatcher import TurnPlan
from clinvk.messages import (
    Delta,
    Denied,
    Event,
    Failed,
    Notice,
    Result,
    Text,
    Thinking,
    Tool,
)


class Viewer:
    """Shows the events of one run."""

    def __init__(self, output: Output, printer: Printer, plan: TurnPlan) -> None:
        self.out = Out()
        self.output = output
        self.printer = printer
        self.plan = plan
        wanted = output.format == "text" and sys.stderr.isatty() and sys.stdin.isatty()
        self.status = Status(printer, f"{plan.manifest.name} is working", wanted=wanted)

    def show(self, event: Event) -> None:
        """Show an event; what goes to stdout waits in `out`."""

    def end(self, result: Result) -> None:
        """The end of stdout."""

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
        self.block = ""  # what was shown of the answer's present block
        self.fresh = True  # at the beginning of a line
        self.begun = False

    def show(self, event: Event) -> None:
        match event:
            case Delta():
                self._write(event.text)
                self.block += event.text
            case Text():
                # The whole of a block: what its deltas have not shown yet is the rest of it.
                shown, self.block = self.block, ""
                self._write(event.text.removeprefix(shown) if shown else event.text)
                self._newline()
            case Tool():
                self._newline()
                self.status.what = f"{self.plan.manifest.name}: {event.name}"
                self._aside(f"{event.name}: {brief(event.input)}")
            case Thinking():
                self._newline()
                self._aside(event.text)
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

    def end(self, result: Result) -> None:
        if not self.begun:  # it came all at once, at the end
            self._write(result.text)
        self._newline()

    def tell(self, result: Result) -> None:
        self._clear()
        super().tell(result)
        if footer := _footer(result, self.output):
            self.printer.stream.write(self.printer.paint(footer, "2") + "\n")

    def _allow(self, event: Denied) -> str | None:
        """How to allow it, where the approval was left to the CLI, which has nobody to ask."""
        if "approval" in self.plan.settings:
            return event.reason
        return "let it edit with --approval auto, or do everything with --approval none"

    def _write(self, text: str) -> None:
        text = text if self.output.raw else self.cleaner.feed(text)
        if not text:
            return
        self._clear()
        self.status.wanted = self.status.wanted and not sys.stdout.isatty()
        if self.fresh and self.begun and not self.block:
            text = "\n" + text  # an empty line between two blocks of the answer
        self.out.write(text)
        self.begun = True
        self.fresh = text.endswith("\n")

    def _newline(self) -> None:
        if rest := self.cleaner.end():
            self.out.write(rest)
        if self.begun and not self.fresh:
            self.out.write("\n")
            self.fresh = True
        self.block = ""

    def _aside(self, text: str) -> None:
        if self.output.verbose and text:
            self._clear()
            self.printer.stream.write(self.printer.paint(f"· {clean(text)}", "2") + "\n")

    def _clear(self) -> None:
        self.status.clear()


class _JsonViewer(Viewer):
    """One object at the end."""

    def show(self, event: Event) -> None:
        if isinstance(event, Notice):
            self.printer.notice(event.message)

    def end(self, result: Result) -> None:
        self.out.write(show.dumps(result.to_json(), indent=2) + "\n")


class _StreamViewer(Viewer):
    """Our events, one a line; the last one says how it went."""

    def show(self, event: Event) -> None:
        line = event.to_json(raw=self.output.raw)
        if event.type in ("finished", "failed"):
            self.last = line
            return
        self.out.write(show.dumps(line) + "\n")

    def end(self, result: Result) -> None:
        about = result.to_json()
        line = {k: v for k, v in self.last.items() if k in ("version", "type", "raw")}
        self.out.write(show.dumps({**line, **about}) + "\n")


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
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    line = one_line(text)
    return line if len(line) <= 100 else line[:99] + "…"
