"""`clinvk runs resume`, `retry` and `cancel`."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clinvk.cmd.app import Commands
from clinvk.cmd.drive import many
from clinvk.cmd.json_errors import run_told_in_json
from clinvk.cmd.options import plan
from clinvk.cmd.options import request as opt
from clinvk.cmd.options.holding import until_end
from clinvk.cmd.options.storage import stored
from clinvk.cmd.runs.common import LastRun, OneRun, runs_of
from clinvk.cmd.views import run as watching
from clinvk.errors import SessionError, UsageError
from clinvk.terminal import printer

if TYPE_CHECKING:
    import psutil

    from clinvk.engine.plan_run import PlanRun
    from clinvk.engine.rerun import Choose
    from clinvk.runs.folder import RunFolder

app = Commands()

PATIENCE = 15.0  # seconds that a run may take to end all that it started
MOMENT = 1.0  # seconds that a run may take to say who drives it
POLL = 0.05  # seconds


@app.command("resume")
@stored
@run_told_in_json
def resume(
    id: LastRun = "last",  # noqa: A002 - the field's name
    rerun_indeterminate: Annotated[
        bool,
        typer.Option(
            "--rerun-indeterminate", help="Run again what had begun when the run was cut off."
        ),
    ] = False,
    max_parallel: plan.MaxParallel = None,
    on_limit: plan.OnLimit = None,
    max_wait: plan.MaxWait = None,
    budget_cost: plan.BudgetCost = None,
    budget_tokens: plan.BudgetTokens = None,
    as_json: opt.Json = False,
    output_format: opt.Format = None,
    quiet: plan.Quiet = False,
    junit: plan.Junit = None,
    report: plan.Report = None,
    config: opt.Config = None,
) -> int:
    """Run what is left of a run that was cut off, and nothing twice.

    A task that had begun may have done a part of its work: it is run again only where you say so,
    or where the task says `idempotent: true`."""
    # Only once something is to run: 10 ms.
    from clinvk.engine.rerun import what_is_left

    def choose(run: PlanRun) -> Choose:
        return what_is_left(run.plan, rerun_indeterminate=rerun_indeterminate)

    loaded = opt.load(config)
    view = many.view_of(loaded, as_json=as_json, output_format=output_format, quiet=quiet)
    rules = {
        "max_parallel": max_parallel, "on_limit": on_limit, "max_wait": max_wait,
        "budget_cost": budget_cost, "budget_tokens": budget_tokens,
    }  # fmt: skip
    return _carry_on(loaded, id, choose, view, plan.reports_of(junit, report), rules)


@app.command("retry")
@stored
@run_told_in_json
def retry(
    id: LastRun = "last",  # noqa: A002 - the field's name
    tasks: Annotated[
        list[str] | None,
        typer.Argument(metavar="[TASK]...", help="These, however they ended."),
    ] = None,
    failed: Annotated[
        bool, typer.Option("--failed", help="What has failed (without TASK, that is meant).")
    ] = False,
    as_json: opt.Json = False,
    output_format: opt.Format = None,
    quiet: plan.Quiet = False,
    junit: plan.Junit = None,
    report: plan.Report = None,
    config: opt.Config = None,
) -> int:
    """Run again what has failed, and what was left out because of that."""
    # Only once something is to run: 10 ms.
    from clinvk.engine.rerun import failed_ones

    def choose(run: PlanRun) -> Choose:
        return failed_ones(run.plan, tasks or (), failed=failed or not tasks)

    loaded = opt.load(config)
    view = many.view_of(loaded, as_json=as_json, output_format=output_format, quiet=quiet)
    return _carry_on(loaded, id, choose, view, plan.reports_of(junit, report))


def _carry_on(
    loaded: Any,
    id_: str,
    choose: Callable[[PlanRun], Choose],
    view: watching.View,
    reports: Any,
    rules: dict[str, Any] | None = None,
) -> int:
    # Only once the flags are valid: it is a third of the start.
    from clinvk.dispatch.dispatcher import Dispatcher
    from clinvk.engine.plan_run import resumed

    folder = runs_of(loaded).find(id_)
    viewer = watching.viewer_for(view)
    run = resumed(
        until_end(Dispatcher(loaded)), folder, observe=viewer.observe, notify=viewer.say,
        rules=lambda kept: plan.with_rules(kept, **(rules or {})),
    )  # fmt: skip
    wanted = choose(run)
    result = many.drive(run, view, viewer, lambda: run.carry_on(wanted))
    return many.conclude(run, result, view, reports)


@app.command("cancel")
def cancel(
    id: OneRun,  # noqa: A002 - the field's name
    now: Annotated[bool, typer.Option("--now", help="At once, without asking.")] = False,
    as_json: opt.Json = False,
    config: opt.Config = None,
) -> int:
    """End a run that is going on, or what one that was cut off has left running."""
    folder = runs_of(opt.load(config)).find(id)
    facts = _driver(folder)
    if facts is None:
        _check_goes_on(folder)
        _give_up(folder)
    else:
        _ask(folder, facts, now=now)
        _give_up(folder)  # a program that drove it may just have died of being asked
    about = folder.summary()
    if as_json:
        printer.print_json({"version": 1, **about})
    else:
        print(f"Run {folder.id} is {about['state']}: {_counts(about)}.")
    return 0


def _check_goes_on(folder: RunFolder) -> None:
    """Raise `UsageError` where there is nothing to end."""
    if not folder.is_idle():
        return
    about = folder.summary()
    if about["state"] != "interrupted":
        raise UsageError(
            f"run {folder.id} has ended already: {about['state']} ({_counts(about)})",
            f"see it with: clinvk runs show {folder.id}",
        )


def _counts(about: dict[str, Any]) -> str:
    return ", ".join(f"{n} {state}" for state, n in about["counts"].items())


def _driver(folder: RunFolder) -> dict[str, Any] | None:
    """Who drives it. They may not have had the time to say so; and what somebody noted who was
    killed stands there until what that one left running has been ended."""
    began = time.monotonic()
    while (facts := folder.running()) is not None:
        if time.monotonic() - began >= _patience(facts):
            break
        time.sleep(POLL)
    return facts


def _patience(facts: dict[str, Any]) -> float:
    """For how many seconds another note may still follow this one."""
    # Only for a run of another process.
    from clinvk.process import note as turn_note

    try:
        return PATIENCE if turn_note.is_gone(turn_note.parse(facts).process) else 0
    except turn_note.InvalidNote:  # there is none yet, or it is being written
        return MOMENT


def _ask(folder: RunFolder, facts: dict[str, Any], *, now: bool) -> None:
    """Tell the clinvk that drives it to end it, and wait until it has. Raises `SessionError` if
    that one cannot be found without doubt: what is in a file alone leads to no signal."""
    # Only for a run of another process.
    from clinvk.process import note as turn_note

    lock = folder.lock_path
    try:
        note = turn_note.parse(facts, f"run {folder.id}")
    except turn_note.InvalidNote as error:
        raise SessionError(
            f"run {folder.id} is running, but its note in {lock} is invalid ({error})",
            f"find the process that has this file open (fuser {lock}) and stop it",
        ) from None
    if not (note.process.is_local and note.process.is_of_this_boot):
        raise SessionError(
            f"run {folder.id} is driven on {note.process.host or 'another machine'}",
            "cancel it there",
        )
    if turn_note.is_gone(note.process):
        return
    driver = turn_note.driver(note.process, lock)
    if driver is None:
        if folder.running() != facts:  # it has just ended
            return
        raise SessionError(
            f"run {folder.id} is running, but not by process {note.process.pid}, as {lock} says",
            f"find the process that has this file open (fuser {lock}) and stop it",
        )
    deadline = time.monotonic() + PATIENCE
    _tell(driver)
    if now:
        time.sleep(POLL)
        if folder.running() == facts:
            _tell(driver)
    while folder.running() is not None:
        if time.monotonic() > deadline:
            raise SessionError(
                f"run {folder.id} has not ended within {PATIENCE:g} s",
                f"end it at once: clinvk runs cancel {folder.id} --now",
            )
        time.sleep(POLL)


def _tell(driver: psutil.Process) -> None:
    from clinvk.process import tree  # psutil, 10 ms: only to cancel

    # SIGTERM, since a shell starts background jobs with SIGINT ignored.
    tree.send(driver, signal.SIGTERM)


def _give_up(folder: RunFolder) -> None:
    """End what was left running, and say of the rest that it was cancelled."""
    # 45 ms, and needed only once something runs.
    import anyio

    # Only once something is to run: 10 ms.
    from clinvk.engine.plan_run import abandon

    if told := anyio.run(abandon, folder):
        printer.Printer.for_errors().notice(told)
