"""`clinvk runs resume`, `retry` and `cancel`."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clinvk.cmd.app import CommandModule
from clinvk.cmd.drive import many
from clinvk.cmd.json_errors import with_run_json_errors
from clinvk.cmd.options import plan
from clinvk.cmd.options import request as opt
from clinvk.cmd.options.holding import until_end
from clinvk.cmd.options.storage import with_storage_options
from clinvk.cmd.runs.common import LastRun, OneRun, open_runs
from clinvk.cmd.views import run as watching
from clinvk.errors import SessionError, UsageError
from clinvk.terminal import printer

if TYPE_CHECKING:
    import psutil

    from clinvk.engine.plan_run import PlanRun
    from clinvk.engine.rerun import SelectTasks
    from clinvk.runs.folder import RunFolder

app = CommandModule()

CANCEL_TIMEOUT = 15.0  # seconds that a run may take to end all that it started
DRIVER_TIMEOUT = 1.0  # seconds that a run may take to say who drives it
POLL_INTERVAL = 0.05  # seconds


@app.command("resume")
@with_storage_options
@with_run_json_errors
def resume(
    run_id: LastRun = "last",
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
    from clinvk.engine.rerun import unfinished

    def select(run: PlanRun) -> SelectTasks:
        return unfinished(run.plan, rerun_indeterminate=rerun_indeterminate)

    loaded = opt.load_config(config)
    view = many.build_view(loaded, as_json=as_json, output_format=output_format, quiet=quiet)
    rules = {
        "max_parallel": max_parallel, "on_limit": on_limit, "max_wait": max_wait,
        "budget_cost": budget_cost, "budget_tokens": budget_tokens,
    }  # fmt: skip
    return _resume_run(loaded, run_id, select, view, plan.requested_reports(junit, report), rules)


@app.command("retry")
@with_storage_options
@with_run_json_errors
def retry(
    run_id: LastRun = "last",
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
    from clinvk.engine.rerun import failed_or_named

    def select(run: PlanRun) -> SelectTasks:
        return failed_or_named(run.plan, tasks or (), failed=failed or not tasks)

    loaded = opt.load_config(config)
    view = many.build_view(loaded, as_json=as_json, output_format=output_format, quiet=quiet)
    return _resume_run(loaded, run_id, select, view, plan.requested_reports(junit, report))


def _resume_run(
    loaded: Any,
    run_id: str,
    select: Callable[[PlanRun], SelectTasks],
    view: watching.RunView,
    reports: Any,
    rules: dict[str, Any] | None = None,
) -> int:
    # Only once the flags are valid: it is a third of the start.
    from clinvk.dispatch.dispatcher import Dispatcher
    from clinvk.engine.plan_run import prepare_resume

    folder = open_runs(loaded).find(run_id)
    viewer = watching.create_run_viewer(view)
    run = prepare_resume(
        until_end(Dispatcher(loaded)), folder, observe=viewer.observe, notify=viewer.show_notice,
        rules=lambda kept: plan.override_rules(kept, **(rules or {})),
    )  # fmt: skip
    wanted = select(run)
    result = many.drive_run(run, view, viewer, lambda: run.resume(wanted))
    return many.finish_run(run, result, view, reports)


@app.command("cancel")
def cancel(
    run_id: OneRun,
    now: Annotated[bool, typer.Option("--now", help="At once, without asking.")] = False,
    as_json: opt.Json = False,
    config: opt.Config = None,
) -> int:
    """End a run that is going on, or what one that was cut off has left running."""
    folder = open_runs(opt.load_config(config)).find(run_id)
    facts = _find_driver(folder)
    if facts is None:
        _check_unfinished(folder)
        _abandon_run(folder)
    else:
        _read_prompt(folder, facts, now=now)
        _abandon_run(folder)  # a program that drove it may just have died of being asked
    about = folder.summary()
    if as_json:
        printer.print_json({"version": 1, **about})
    else:
        print(f"Run {folder.id} is {about['state']}: {_format_counts(about)}.")
    return 0


def _check_unfinished(folder: RunFolder) -> None:
    """Raise `UsageError` where there is nothing to end."""
    if not folder.is_idle():
        return
    about = folder.summary()
    if about["state"] != "interrupted":
        raise UsageError(
            f"run {folder.id} has ended already: {about['state']} ({_format_counts(about)})",
            f"see it with: clinvk runs show {folder.id}",
        )


def _format_counts(about: dict[str, Any]) -> str:
    return ", ".join(f"{n} {state}" for state, n in about["counts"].items())


def _find_driver(folder: RunFolder) -> dict[str, Any] | None:
    """Who drives it. They may not have had the time to say so; and what somebody noted who was
    killed stands there until what that one left running has been ended."""
    began = time.monotonic()
    while (facts := folder.find_driver()) is not None:
        if time.monotonic() - began >= _patience(facts):
            break
        time.sleep(POLL_INTERVAL)
    return facts


def _patience(facts: dict[str, Any]) -> float:
    """For how many seconds another note may still follow this one."""
    # Only for a run of another process.
    from clinvk.process import note as turn_note

    try:
        return CANCEL_TIMEOUT if turn_note.is_gone(turn_note.parse(facts).process) else 0
    except turn_note.InvalidNote:  # there is none yet, or it is being written
        return DRIVER_TIMEOUT


def _read_prompt(folder: RunFolder, facts: dict[str, Any], *, now: bool) -> None:
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
            f"run {folder.id} is driven on {note.process.place}",
            "cancel it there",
        )
    if turn_note.is_gone(note.process):
        return
    driver = turn_note.driver(note.process, lock)
    if driver is None:
        if folder.find_driver() != facts:  # it has just ended
            return
        raise SessionError(
            f"run {folder.id} is running, but not by process {note.process.pid}, as {lock} says",
            f"find the process that has this file open (fuser {lock}) and stop it",
        )
    deadline = time.monotonic() + CANCEL_TIMEOUT
    _signal_driver(driver)
    if now:
        time.sleep(POLL_INTERVAL)
        if folder.find_driver() == facts:
            _signal_driver(driver)
    while folder.find_driver() is not None:
        if time.monotonic() > deadline:
            raise SessionError(
                f"run {folder.id} has not ended within {CANCEL_TIMEOUT:g} s",
                f"end it at once: clinvk runs cancel {folder.id} --now",
            )
        time.sleep(POLL_INTERVAL)


def _signal_driver(driver: psutil.Process) -> None:
    from clinvk.process import tree  # psutil, 10 ms: only to cancel

    # SIGTERM, since a shell starts background jobs with SIGINT ignored.
    tree.send(driver, signal.SIGTERM)


def _abandon_run(folder: RunFolder) -> None:
    """End what was left running, and say of the rest that it was cancelled."""
    # 45 ms, and needed only once something runs.
    import anyio

    # Only once something is to run: 10 ms.
    from clinvk.engine.plan_run import abandon_run

    if told := anyio.run(abandon_run, folder):
        printer.Printer.for_errors().notice(told)
