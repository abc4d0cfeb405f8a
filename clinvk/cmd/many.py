"""A run of many tasks on the command line: signals in, a view of it out, an exit code at the end."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING, Any, Protocol

from msgspec import Struct, to_builtins

from clinvk import durations
from clinvk.clean import one_line
from clinvk.cmd import show, summary
from clinvk.cmd.show import Printer
from clinvk.errors import ClinvkError, UsageError
from clinvk.outcome import UNDERWAY, Outcome, RunResult

if TYPE_CHECKING:
    import anyio

    from clinvk.cmd.out import Out
    from clinvk.config import Loaded
    from clinvk.dispatcher import Dispatcher
    from clinvk.journal import RunFolder
    from clinvk.plan import Plan
    from clinvk.planrun import PlanRun
    from clinvk.reports import Wanted
    from clinvk.scheduler import Change
    from clinvk.workflow import WorkflowManager

PATIENT = 0.5  # seconds for a reader, once the run was ended
FILES = 8_192  # open at a time; a running task takes about eight
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


def drive(run: PlanRun, view: View, viewer: Viewer, start: Callable[[], Any]) -> RunResult:
    """What came of the run, shown while it went on. Ctrl-C once: nothing more is started, and what
    runs is asked to end; twice: at once."""
    import anyio

    from clinvk.process import lone_exception, watch_by_pidfd

    watch_by_pidfd()
    gc.enable()
    gc.freeze()  # what imports left behind need not be looked through again
    _open_many_files()
    try:
        with lone_exception():
            return anyio.run(_drive, run, viewer, start)
    except ClinvkError as error:
        error.folder = run.folder  # type: ignore[attr-defined]  # whose tasks are told of in JSON
        raise
    finally:
        viewer.close()
        gc.disable()


def _open_many_files() -> None:
    """As many as we may: each running task takes some, and the usual limit is for a few programs."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FILES if hard == resource.RLIM_INFINITY else min(FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


async def _drive(run: PlanRun, viewer: Viewer, start: Callable[[], Any]) -> RunResult:
    import anyio

    from clinvk.cmd.interrupts import said, watch

    def heard(number: Any, count: int) -> None:
        told = "ending what runs; once more ends it at once" if count == 1 else "ending it at once"
        viewer.say(f"{said(number)}: {told}")
        run.stop(said(number), now=count > 1)
        if isinstance(viewer, Lines):
            viewer.give_up()

    results: list[RunResult] = []
    async with anyio.create_task_group() as tasks:

        def ready() -> None:
            viewer.begin(run)
            tasks.start_soon(viewer.live)

        await tasks.start(watch, heard)
        run.ready = ready
        results.append(await start())
        if isinstance(viewer, Lines):
            await viewer.end()
            if viewer.gone is not None:
                raise viewer.gone
        tasks.cancel_scope.cancel()
    return results[0]


def view_of(
    loaded: Loaded, *, as_json: bool = False, output_format: str | None = None, quiet: bool = False
) -> View:
    output = loaded.config.output
    wanted = "json" if as_json else output_format or output.format
    if wanted not in FORMATS:
        raise UsageError(f"-o: {wanted!r} is not one of: {', '.join(FORMATS)}")
    at_once = not loaded.config.parallel.aggregate_output
    return View(format=wanted, quiet=quiet, colour=output.color, at_once=at_once)


def dry_run(dispatcher: Dispatcher, plan: Plan, view: View) -> int:
    """Print the tasks as they would be run; what would keep them from being run is an error."""
    from clinvk import preflight

    checked = preflight.check(plan, dispatcher)
    printer = Printer.for_errors(view.colour)
    tasks = [_as_dry(plan, i, ask.backend) for i, ask in enumerate(checked.asks)]
    if view.format != "text":
        show.print_json(
            {"version": 1, "kind": plan.kind, "rules": to_builtins(plan.rules), "tasks": tasks}
        )
        return 0
    rows = [
        [
            t["name"],
            t["backend"],
            ", ".join(t["needs"]) or "-",
            " ".join(f"{k}={_short(v)}" for k, v in t["options"].items()) or "-",
            t["prompt"],
        ]
        for t in tasks
    ]
    show.print_table(["TASK", "BACKEND", "NEEDS", "OPTIONS", "PROMPT"], rows)
    for text in checked.notices:
        printer.notice(text)
    return 0


def _as_dry(plan: Plan, i: int, backend: str) -> dict[str, Any]:
    from clinvk.config import MASK

    task = plan.tasks[i]
    return {
        "index": i,
        "name": task.name,
        "backend": backend,
        "prompt": task.prompt,
        "options": task.options,
        "args": list(task.args),
        "workdir": task.cwd,
        "env": dict.fromkeys(task.env, MASK),
        "needs": [plan.tasks[n].name for n in task.needs],
        "timeout": task.timeout,
        "stall_timeout": task.stall_timeout,
        "retries": plan.rules.retries if task.retries is None else task.retries,
        "tags": list(task.tags),
        "title": task.title,
        "meta": task.meta,
    }


def _short(value: Any) -> str:
    text = one_line(value if isinstance(value, str) else str(value))
    return text if len(text) <= 24 else text[:23] + "…"


def execute(dispatcher: Dispatcher, plan: Plan, view: View, reports: list[Wanted]) -> int:
    """Run the plan and show it; the exit code."""
    from clinvk.planrun import PlanRun

    viewer = viewer_for(view)
    run = PlanRun(dispatcher, plan, observe=viewer.observe, notify=viewer.say)
    run.keep()
    return conclude(run, drive(run, view, viewer, run.run), view, reports)


def execute_chain(
    manager: WorkflowManager,
    plan: Plan | None,
    view: View,
    reports: list[Wanted],
    *,
    rerun_indeterminate: bool,
    **names: str | None,
) -> int:
    """Run a chain, under the name of its checkpoint, and show it; the exit code."""
    viewer = viewer_for(view)
    run = manager.prepared(plan, **names, observe=viewer.observe, notify=viewer.say)

    async def start() -> RunResult:
        return await manager.drive(run, rerun_indeterminate=rerun_indeterminate)

    name = names.get("checkpoint") or names.get("resume")
    return conclude(run, drive(run, view, viewer, start), view, reports, name)


def conclude(
    run: PlanRun,
    result: RunResult,
    view: View,
    reports: list[Wanted],
    checkpoint: str | None = None,
) -> int:
    finish(run, result, view, checkpoint)
    on_github = os.environ.get("GITHUB_ACTIONS") == "true"
    if not (reports or on_github):
        return result.exit_code or UsageError.exit_code * _outputs_failed(run)
    from clinvk import reports as written  # only where one is wanted

    whole = run.with_outputs(result)
    printer = Printer.for_errors(view.colour)
    problems = written.write_each(reports, whole, run.plan)
    for problem in problems:
        printer.error(problem.message, problem.hint)
    if on_github:
        try:  # what a program reads on stdout stays whole
            written.github(whole, os.environ, sys.stdout if view.format == "text" else sys.stderr)
        except UsageError as error:
            printer.warning(error.message, error.hint)
    return result.exit_code or UsageError.exit_code * bool(problems or _outputs_failed(run))


def _outputs_failed(run: PlanRun) -> bool:
    return run.outputs is not None and run.outputs.problem is not None


def viewer_for(view: View) -> Any:
    printer = Printer.for_errors(view.colour)
    if view.format == "stream-json":
        return Lines()
    if view.quiet:
        return Silent()
    if view.answers_at_once:
        return AtOnce(printer)
    if sys.stderr.isatty() and os.environ.get("TERM") != "dumb" and not os.environ.get("CI"):
        from clinvk.cmd.board import Board  # only on a terminal

        return Board(printer)
    return Plain(printer)


class Silent:
    """Nothing, until the end."""

    def observe(self, change: Change) -> None:
        if change.kind == "limit" and (text := happened(change)):  # else it would seem to hang
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
    hurried = False  # who reads too slowly is not waited for any more
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
            _print_line(line)
        else:
            self.out.write(_as_line(line))
            self.more.set()

    # While there is an event loop, nobody waits for the reader: one that has stopped must not keep
    # the tasks from going on, nor the run from being ended.

    async def live(self) -> None:
        import anyio

        from clinvk.cmd.out import Out

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
        import anyio

        if not self.hurried or self.out is None:
            await self.flush()
            return
        async with self.writing:
            await self.out.flush(anyio.current_time() + PATIENT)
        if self.out.pending:  # nor is the last line written then
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

    def give_up(self) -> None:
        self.hurried = True
        if self.out is not None:
            self.out.give_up()


def _print_line(line: dict[str, Any]) -> None:
    sys.stdout.write(_as_line(line))
    sys.stdout.flush()


def _as_line(line: dict[str, Any]) -> str:
    return show.dumps({"version": 1, **line}) + "\n"


def told(outcome: Outcome, printer: Printer) -> str:
    """How a task ended, on one line."""
    colour = {"done": "32", "failed": show.RED}.get(outcome.state, show.YELLOW)
    mark = printer.paint(f"{summary.MARKS.get(outcome.state, '·')} {outcome.state}", colour)
    parts = [f"{one_line(outcome.name)}: {mark}"]
    if outcome.attempts:
        parts.append(f"in {durations.brief(outcome.seconds)} on {outcome.backend}")
    if outcome.attempts > 1:
        parts.append(f"after {outcome.attempts} attempts")
    if outcome.error is not None and outcome.state != "done":
        parts.append(f"- {one_line(outcome.error.message)[:200]}")
    return " ".join(parts)


def happened(change: Change) -> str | None:
    """What is worth a line of what happened to a task on its way; nothing else."""
    o = change.outcome
    if change.kind == "retry" and o and change.until:
        why = o.error.message if o.error else ""
        return f"{one_line(o.name)}: {one_line(why)[:120]}; again at {_clock(change.until)}"
    if change.kind == "limit" and o and change.until:
        return f"{o.backend}: limit reached; nothing is started there until {_clock(change.until)}"
    if change.kind == "notice" and o:
        return f"{one_line(o.name)}: {one_line(change.message)}"
    if change.kind == "event" and o and change.event and change.event.type == "notice":
        return f"{one_line(o.name)}: {one_line(getattr(change.event, 'message', ''))[:200]}"
    return None


def _clock(moment: datetime) -> str:
    local = moment.astimezone()
    today = local.date() == datetime.now().astimezone().date()
    return local.strftime("%H:%M:%S" if today else "%d %b %H:%M")


# At the end.


def finish(
    run: PlanRun | RunFolder, result: RunResult, view: View, checkpoint: str | None = None
) -> None:
    """Print what came of it."""
    if view.format == "json":
        show.print_json(as_json(run.with_outputs(result)))
        return
    if result.kind == "compare":
        result = run.with_outputs(result)  # what the judge said is in there
    if view.format == "stream-json":
        data = as_json(result)
        del data["results"]
        _print_line({**data, "type": "end", "run": result.id})
        return
    if result.kind == "compare":
        from clinvk.cmd import comparing  # other runs have no use for it

        with summary.literally():
            comparing.finish(result, view)
        return
    with summary.literally():
        if view.answers and not view.quiet and not view.answers_at_once:
            for outcome in result.results:
                summary.print_answer(run.with_output(outcome))
        summary.print_summary(result)
    tell_rest(result, view, checkpoint)


def as_json(result: RunResult) -> dict[str, Any]:
    """The object that is printed; of a comparison, with the verdict."""
    if result.kind != "compare":
        return result.to_json()
    from clinvk import comparison

    return comparison.to_json(result)


def tell_rest(result: RunResult, view: View, checkpoint: str | None = None) -> None:
    """Why it ended before its end, and how to go on; on stderr."""
    printer = Printer.for_errors(view.colour)
    if result.why and result.state != "cancelled":
        printer.error(result.why)
    if hint := summary.next_step(result, checkpoint):
        printer.notice(hint)
