"""How a run of many tasks is shown while it is running: not at all, line by line, as JSON."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from msgspec import Struct
from msgspec.structs import replace

from clinvk.cmd.views import summary
from clinvk.model import figures
from clinvk.model.outcome import (
    ACTIVE_STATES,
    MARKS,
    VERSION,
    Outcome,
    state_label,
    without_candidates,
)
from clinvk.model.progress import is_lonely
from clinvk.terminal import printer as show
from clinvk.terminal.printer import Printer
from clinvk.terminal.wording import describe_change
from clinvk.text import duration
from clinvk.text.json_output import dumps
from clinvk.text.sanitize import one_line

if TYPE_CHECKING:
    from datetime import datetime

    import anyio

    from clinvk.engine.driven_run import DrivenRun
    from clinvk.model.progress import Change
    from clinvk.terminal.stdout import PatientStdout

ASK_INTERVAL = 2.0  # seconds between two looks at the workers of a cluster
FORMATS = ("text", "json", "stream-json")


class RunView(Struct, frozen=True, kw_only=True):
    """How a run is shown."""

    format: str = "text"
    quiet: bool = False
    color: str = "auto"
    answers: bool = True  # print answers before the summary
    streams_answers: bool = False  # print each answer as soon as it is complete

    @property
    def answers_at_once(self) -> bool:
        return self.streams_answers and self.answers and self.format == "text" and not self.quiet


class RunViewer(Protocol):
    """Shows a run while it is running."""

    # Asked why tasks wait for a worker of a cluster that they were sent to, by their position, if that
    # is shown; it blocks.
    ask_why: Callable[[], Mapping[int, str]] | None

    def observe(self, change: Change) -> None: ...

    def begin(self, run: DrivenRun) -> None: ...

    def begin_following(
        self,
        total: int,
        run_id: str | None = None,
        outcomes: Iterable[Outcome] = (),
        *,
        started_at: datetime | None = None,
        has_deltas: bool = True,
    ) -> None:
        """`begin`, for a run that another process drives: the present state of its tasks, when that
        process started, and whether an answer is seen while it is written."""
        ...

    async def live(self) -> None:
        """Work that runs concurrently; cancelled at the end."""
        ...

    async def flush(self) -> None:
        """Write the pending output to stdout."""
        ...

    async def end(self) -> None:
        """`flush`, at the end of the run. Raises `OSError` if the reader of stdout has closed
        it."""
        ...

    def give_up(self) -> None:
        """The run was stopped: do not wait for a reader."""
        ...

    def show_notice(self, text: str) -> None:
        """Print a notice without disturbing the display."""
        ...

    def close(self) -> None:
        """Leave the terminal as it was."""
        ...


def create_run_viewer(view: RunView) -> RunViewer:
    printer = Printer.for_errors(view.color)
    if view.format == "stream-json":
        return JsonLinesViewer()
    if view.answers_at_once:
        return AnswersViewer(printer)
    if sys.stderr.isatty() and os.environ.get("TERM") != "dumb" and not os.environ.get("CI"):
        from clinvk.terminal.board.board import Board  # only on a terminal

        return Board(printer)
    return SilentViewer() if view.quiet else LogViewer(printer)


class SilentViewer:
    """Shows nothing until the end except rate limits, and that no worker can run a task: without
    those it would seem to hang."""

    ask_why: Callable[[], Mapping[int, str]] | None = None
    _told: frozenset[str] = frozenset()  # each once: several tasks may wait for the same

    def observe(self, change: Change) -> None:
        text = describe_change(change) if change.kind == "limit" else None
        if is_lonely(change):
            text = one_line(change.message)
        if text and text not in self._told:
            self._told |= {text}
            self.show_notice(text)

    def begin(self, run: DrivenRun) -> None:
        session_id = run.folder.id if run.folder else None
        self.begin_following(len(run.plan.tasks), session_id, run.outcomes)

    def begin_following(
        self, total: int, run_id: str | None = None, outcomes: Iterable[Outcome] = (), **_: Any
    ) -> None: ...

    async def live(self) -> None: ...

    async def flush(self) -> None: ...

    async def end(self) -> None: ...

    def give_up(self) -> None: ...

    def show_notice(self, text: str) -> None:
        Printer.for_errors(show.color.get()).notice(text)

    def close(self) -> None: ...


class LogViewer(SilentViewer):
    """A line on stderr for each event of a task: for logs and simple terminals."""

    def __init__(self, printer: Printer) -> None:
        self.printer = printer
        self.total = 0
        self.ended = 0

    def begin_following(
        self, total: int, run_id: str | None = None, outcomes: Iterable[Outcome] = (), **_: Any
    ) -> None:
        self.total = total
        outcomes = tuple(outcomes)
        running = [o for o in outcomes if o.state == "running"]
        queued = sum(o.state in ACTIVE_STATES for o in outcomes) - len(running)
        self.ended = total - queued - len(running)
        now = f", {len(running)} running" if running else ""
        where = f" · run {run_id}" if run_id else ""
        self.printer.notice(f"{queued} of {total} tasks to run{now}{where}")
        for outcome in running:
            self._print_started(outcome)

    async def live(self) -> None:
        """Say why tasks wait for a worker, each reason once."""
        if self.ask_why is None:
            return
        # 45 ms, and needed only once something runs.
        from anyio import sleep, to_thread

        told: set[str] = set()
        while True:
            reasons = await to_thread.run_sync(self.ask_why, abandon_on_cancel=True)
            for why, count in Counter(reasons.values()).items():
                if why not in told:
                    self.printer.notice(f"{count:,} queued: {one_line(why)}")
            told |= set(reasons.values())
            await sleep(ASK_INTERVAL)

    def observe(self, change: Change) -> None:
        o = change.outcome
        if change.kind == "ended" and o and o.state != "queued":
            self.ended += 1
            if o.candidate_of is not None and o.is_not_needed:
                return  # the step that would choose says so
            self.printer.notice(f"[{self.ended}/{self.total}] {describe_outcome(o, self.printer)}")
        elif change.kind == "started" and o:
            self._print_started(o)
        elif change.kind == "limit" or is_lonely(change):
            super().observe(change)
        elif text := describe_change(change):
            self.printer.notice(text)

    def _print_started(self, o: Outcome) -> None:
        again = f" (attempt {o.attempts})" if o.attempts > 1 else ""
        age = duration.format_age(o.started_at) if o.started_at else "just now"
        when = "" if age == "just now" else f" {age}"
        on = f"started on {o.backend}" if o.backend else "choosing between its candidates"
        at = f" ({one_line(o.node)})" if o.node else ""
        self.printer.notice(f"{one_line(o.name)}: {on}{at}{again}{when}")


class AnswersViewer(LogViewer):
    """Also prints each answer as soon as it is complete, between those lines."""

    run: DrivenRun | None = None

    def begin(self, run: DrivenRun) -> None:
        super().begin(run)
        self.run = run

    def observe(self, change: Change) -> None:
        super().observe(change)
        is_candidate = change.outcome is not None and change.outcome.candidate_of is not None
        if change.kind == "ended" and change.outcome and self.run and not is_candidate:
            with summary.without_workflow_commands():
                summary.print_answer(self.run.with_output(change.outcome))
            sys.stdout.flush()


class JsonLinesViewer(SilentViewer):
    """One JSON object per line on stdout for each event."""

    run_id: str | None = None
    run: DrivenRun | None = None
    out: PatientStdout | None = None
    write_error: OSError | None = None  # the reader of stdout has closed it
    has_more: anyio.Event
    write_lock: anyio.Lock

    def begin(self, run: DrivenRun) -> None:
        self.run = run
        super().begin(run)

    def begin_following(
        self, total: int, run_id: str | None = None, outcomes: Iterable[Outcome] = (), **_: Any
    ) -> None:
        self.run_id = run_id
        if tasks := without_candidates(outcomes):
            total = len(tasks)
        left = sum(o.state in ACTIVE_STATES for o in tasks)
        self.print({"type": "begin", "run": run_id, "total_tasks": total, "left": left})

    def observe(self, change: Change) -> None:
        if change.kind == "ended" and change.outcome and self.run:
            change = replace(change, outcome=self.run.with_output(change.outcome))
        self.print(change.to_json(self.run_id))

    def print(self, line: dict[str, Any]) -> None:
        if self.write_error is not None:
            return
        if self.out is None:
            print_line(line)
        else:
            self.out.write(_to_json_line(line))
            self.has_more.set()

    # While the event loop runs, nothing waits for the reader: one that has stopped reading must
    # hold up neither the tasks nor the end of the run.

    async def live(self) -> None:
        # 45 ms, and needed only once something runs.
        import anyio

        # Only with stream-json.
        from clinvk.terminal.stdout import PatientStdout

        self.out, self.has_more, self.write_lock = PatientStdout(), anyio.Event(), anyio.Lock()
        while True:
            await self.has_more.wait()
            self.has_more = anyio.Event()
            try:
                await self.flush()
            except OSError as error:
                self.write_error = error
                if self.run is not None:
                    self.run.stop("the reader of the output has closed it")
                return

    async def flush(self) -> None:
        if self.out is not None and self.write_error is None:
            async with self.write_lock:
                await self.out.flush()

    async def end(self) -> None:
        """Write the rest; if the run was stopped, only what the reader takes at once."""
        await self.flush()
        if self.out is not None and self.out.pending:  # then the last line is not written either
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if self.write_error is not None:
            raise self.write_error

    def give_up(self) -> None:
        if self.out is not None:
            self.out.give_up()


def print_line(line: dict[str, Any]) -> None:
    """Write a line of the stream at once."""
    sys.stdout.write(_to_json_line(line))
    sys.stdout.flush()


def _to_json_line(line: dict[str, Any]) -> str:
    return dumps({"version": VERSION, **line}) + "\n"


def describe_outcome(outcome: Outcome, printer: Printer) -> str:
    """How a task ended, on one line."""
    color = {"done": "32", "failed": show.RED}.get(outcome.state, show.YELLOW)
    mark = printer.paint(f"{MARKS.get(outcome.state, '·')} {state_label(outcome)}", color)
    parts = [f"{one_line(outcome.name)}: {mark}"]
    if outcome.attempts:
        on = f" on {outcome.backend}" if outcome.backend else ""
        at = f" ({one_line(outcome.node)})" if outcome.node else ""
        time = figures.time_taken(outcome)
        parts.append(f"{on}{at}".lstrip() if time == figures.UNKNOWN else f"in {time}{on}{at}")
    if outcome.attempts > 1:
        parts.append(f"after {outcome.attempts} attempts")
    if outcome.ok and outcome.decision is not None:
        parts.append(f"- {one_line(outcome.decision.summary)[:200]}")
    if outcome.error is not None and outcome.state != "done":
        # The message of a skipped task begins with that word, which the mark says already.
        message = outcome.error.message.removeprefix(f"{outcome.state}: ")
        parts.append(f"- {one_line(message)[:200]}")
    return " ".join(parts)
