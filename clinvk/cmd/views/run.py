"""How a run of many tasks is seen while it goes on: not at all, line by line, as JSON."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Protocol

from msgspec import Struct

from clinvk.cmd.views import summary
from clinvk.model.outcome import UNDERWAY, Outcome
from clinvk.terminal import printer as show
from clinvk.terminal.printer import Printer
from clinvk.terminal.wording import MARKS, happened
from clinvk.text import duration
from clinvk.text.json_output import dumps
from clinvk.text.sanitize import one_line

if TYPE_CHECKING:
    import anyio

    from clinvk.engine.plan_run import PlanRun
    from clinvk.engine.scheduler import Change
    from clinvk.terminal.stdout import Out

FORMATS = ("text", "json", "stream-json")


class View(Struct, frozen=True, kw_only=True):
    """How a run is shown."""

    format: str = "text"
    quiet: bool = False
    colour: str = "auto"
    answers: bool = True  # in the text, before the summary
    at_once: bool = False  # each answer as soon as it is there

    @property
    def answers_at_once(self) -> bool:
        return self.at_once and self.answers and self.format == "text" and not self.quiet


class Viewer(Protocol):
    """Shows a run while it goes on."""

    def observe(self, change: Change) -> None: ...

    def begin(self, run: PlanRun) -> None: ...

    async def live(self) -> None:
        """What it does beside; cancelled at the end."""
        ...

    def say(self, text: str) -> None:
        """A notice, which must not get into what it shows."""
        ...

    def close(self) -> None:
        """Leave the terminal as it was."""
        ...


def viewer_for(view: View) -> Any:
    printer = Printer.for_errors(view.colour)
    if view.format == "stream-json":
        return Lines()
    if view.quiet:
        return Silent()
    if view.answers_at_once:
        return AtOnce(printer)
    if sys.stderr.isatty() and os.environ.get("TERM") != "dumb" and not os.environ.get("CI"):
        from clinvk.terminal.board import Board  # only on a terminal

        return Board(printer)
    return Plain(printer)


class Silent:
    """Nothing, until the end; but limits, or it would seem to hang."""

    _limits: frozenset[str] = frozenset()  # what was said of them: several tasks meet the same one

    def observe(self, change: Change) -> None:
        text = happened(change) if change.kind == "limit" else None
        if text and text not in self._limits:
            self._limits |= {text}
            self.say(text)

    def begin(self, run: PlanRun) -> None:
        id_ = run.folder.id if run.folder else None
        self.begin_with(len(run.plan.tasks), id_, run.outcomes)

    def begin_with(
        self, total: int, run_id: str | None = None, outcomes: Iterable[Outcome] = ()
    ) -> None: ...

    async def live(self) -> None: ...

    def say(self, text: str) -> None:
        Printer.for_errors(show.colour).notice(text)

    def close(self) -> None: ...


class Plain(Silent):
    """A line on stderr for what happens to a task: for logs, and for terminals that can no more."""

    def __init__(self, printer: Printer) -> None:
        self.printer = printer
        self.total = 0
        self.over = 0

    def begin_with(
        self, total: int, run_id: str | None = None, outcomes: Iterable[Outcome] = ()
    ) -> None:
        self.total = total
        left = sum(o.state in UNDERWAY for o in outcomes)
        self.over = total - left
        where = f" · run {run_id}" if run_id else ""
        self.printer.notice(f"{left} of {total} tasks to run{where}")

    def observe(self, change: Change) -> None:
        o = change.outcome
        if change.kind == "ended" and o and o.state != "queued":
            self.over += 1
            self.printer.notice(f"[{self.over}/{self.total}] {told(o, self.printer)}")
        elif change.kind == "started" and o:
            again = f" (attempt {o.attempts})" if o.attempts > 1 else ""
            self.printer.notice(f"{one_line(o.name)}: started on {o.backend}{again}")
        elif change.kind == "limit":
            super().observe(change)
        elif text := happened(change):
            self.printer.notice(text)


class AtOnce(Plain):
    """Each answer as soon as it is there, between those lines."""

    run: PlanRun | None = None

    def begin(self, run: PlanRun) -> None:
        super().begin(run)
        self.run = run

    def observe(self, change: Change) -> None:
        super().observe(change)
        if change.kind == "ended" and change.outcome and self.run:
            with summary.literally():
                summary.print_answer(self.run.with_output(change.outcome))
            sys.stdout.flush()


class Lines(Silent):
    """One JSON object a line, on stdout, as things happen."""

    run_id: str | None = None
    run: PlanRun | None = None
    out: Out | None = None
    gone: OSError | None = None  # nobody reads what is printed any more
    more: anyio.Event
    writing: anyio.Lock

    def begin(self, run: PlanRun) -> None:
        self.run = run
        super().begin(run)

    def begin_with(
        self, total: int, run_id: str | None = None, outcomes: Iterable[Outcome] = ()
    ) -> None:
        self.run_id = run_id
        left = sum(o.state in UNDERWAY for o in outcomes)
        self.print({"type": "begin", "run": run_id, "total_tasks": total, "left": left})

    def observe(self, change: Change) -> None:
        line: dict[str, Any] = {"type": f"task_{change.kind}", "run": self.run_id}
        o = change.outcome
        if o is not None:
            line |= {"index": o.index, "name": o.name, "backend": o.backend, "attempt": o.attempts}
        if change.kind == "ended" and o is not None:
            line["result"] = (self.run.with_output(o) if self.run else o).to_json()
        if change.event is not None:
            event = change.event.to_json()
            event.pop("version", None)
            line["event"] = event
        if change.until is not None:
            line["until"] = change.until.isoformat()
        if change.message:
            line["message"] = change.message
        self.print(line)

    def print(self, line: dict[str, Any]) -> None:
        if self.gone is not None:
            return
        if self.out is None:
            print_line(line)
        else:
            self.out.write(_as_line(line))
            self.more.set()

    # While there is an event loop, nobody waits for the reader: one that has stopped must not keep
    # the tasks from going on, nor the run from being ended.

    async def live(self) -> None:
        # 45 ms, and needed only once something runs.
        import anyio

        # Only with stream-json.
        from clinvk.terminal.stdout import Out

        self.out, self.more, self.writing = Out(), anyio.Event(), anyio.Lock()
        while True:
            await self.more.wait()
            self.more = anyio.Event()
            try:
                await self.flush()
            except OSError as error:
                self.gone = error
                if self.run is not None:
                    self.run.stop("the reader of the output has gone")
                return

    async def flush(self) -> None:
        if self.out is not None and self.gone is None:
            async with self.writing:
                await self.out.flush()

    async def end(self) -> None:
        """Write what is left; where the run was ended, only as much as is read at once."""
        await self.flush()
        if self.out is not None and self.out.pending:  # nor is the last line written then
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

    def give_up(self) -> None:
        if self.out is not None:
            self.out.give_up()


def print_line(line: dict[str, Any]) -> None:
    """A line of the stream, at once."""
    sys.stdout.write(_as_line(line))
    sys.stdout.flush()


def _as_line(line: dict[str, Any]) -> str:
    return dumps({"version": 1, **line}) + "\n"


def told(outcome: Outcome, printer: Printer) -> str:
    """How a task ended, on one line."""
    colour = {"done": "32", "failed": show.RED}.get(outcome.state, show.YELLOW)
    mark = printer.paint(f"{MARKS.get(outcome.state, '·')} {outcome.state}", colour)
    parts = [f"{one_line(outcome.name)}: {mark}"]
    if outcome.attempts:
        parts.append(f"in {duration.brief(outcome.seconds)} on {outcome.backend}")
    if outcome.attempts > 1:
        parts.append(f"after {outcome.attempts} attempts")
    if outcome.error is not None and outcome.state != "done":
        parts.append(f"- {one_line(outcome.error.message)[:200]}")
    return " ".join(parts)


# At the end.
