"""`clinvk runs resume`, `retry` and `cancel`."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Annotated

import typer

from clinvk.cmd.app import CommandModule
from clinvk.cmd.drive import interrupted, many
from clinvk.cmd.drive.cluster import (
    ClusterUrl,
    Insecure,
    flags_for_cluster,
    open_place_of_run,
    stopper,
)
from clinvk.cmd.options import plan
from clinvk.cmd.options import request as opt
from clinvk.cmd.options.completions import complete_tasks
from clinvk.cmd.options.json_errors import with_run_json_errors
from clinvk.cmd.options.storage import with_storage_options
from clinvk.cmd.runs.common import VERSION, LastRun, OneRun, RunsCluster, open_local_runs, open_runs
from clinvk.cmd.views import run as watching
from clinvk.errors import ClinvkError
from clinvk.model.outcome import format_counts
from clinvk.terminal import printer

if TYPE_CHECKING:
    from clinvk.config.schema import Loaded
    from clinvk.engine.rerun import SelectTasks
    from clinvk.engine.run_context import RunContext
    from clinvk.model.plan import Plan
    from clinvk.reports import RequestedReport
    from clinvk.runs.log import RunLog

app = CommandModule()
LAST = "last"
# The states of a run that each command can do something about.
STATES_LEFT = {
    "resume": ("interrupted", "cancelled", "waiting"),
    "retry": ("failed", "interrupted", "cancelled", "waiting"),
}
MAX_SEARCHED = 100  # runs


@app.command("resume")
@with_storage_options
@with_run_json_errors
def resume(
    run_id: LastRun = "last",
    rerun_indeterminate: interrupted.RerunIndeterminate = None,
    max_parallel: plan.MaxParallel = None,
    on_limit: plan.OnLimit = None,
    max_wait: plan.MaxWait = None,
    fallback: opt.RunFallback = None,
    ignore_limit: opt.IgnoreLimit = False,
    budget_cost: plan.BudgetCost = None,
    budget_tokens: plan.BudgetTokens = None,
    as_json: opt.Json = False,
    output_format: opt.Format = None,
    quiet: plan.Quiet = False,
    plain: opt.Plain = False,
    junit: plan.Junit = None,
    report: plan.Report = None,
    force: plan.Force = False,
    cluster: ClusterUrl = None,
    insecure: Insecure = False,
    config: opt.Config = None,
) -> int:
    """Run the rest of a run that was interrupted.

    Tasks that have ended are not run again, and only new answers are printed. A task that was
    interrupted may have done part of its work: it is run again if its task says
    `idempotent: true`, or if you agree, by --rerun-indeterminate or by answering the question on a
    terminal."""
    # Only once something is to run: 10 ms.
    from clinvk.engine.rerun import select_to_resume
    from clinvk.engine.resumed_run import find_interrupted

    loaded = opt.load_config(config)
    view = many.build_view(loaded, as_json=as_json, output_format=output_format, quiet=quiet)
    rules = plan.RuleFlags(
        max_parallel=max_parallel, on_limit=on_limit, max_wait=max_wait,
        fallback=fallback, ignore_limit=ignore_limit, budget_cost=budget_cost,
        budget_tokens=budget_tokens,
    )  # fmt: skip
    reports = plan.requested_reports(junit, report, force=force)
    folder = open_runs(loaded, cluster, insecure=insecure).find(run_id)
    dispatcher, context = open_place_of_run(loaded, folder, cluster, insecure=insecure)
    if rerun_indeterminate is None:
        cut_off = find_interrupted(folder, dispatcher.store, context.cluster)
        rerun_indeterminate = interrupted.should_rerun(cut_off, view)
    select = partial(select_to_resume, rerun_indeterminate=bool(rerun_indeterminate))
    older = partial(_report_older, loaded, "resume") if run_id == LAST else None
    return _resume_run(context, folder, select, view, reports, rules, older)


@app.command("retry")
@with_storage_options
@with_run_json_errors
def retry(
    run_id: LastRun = "last",
    tasks: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[TASK]...",
            help="Run these tasks again, even if they succeeded.",
            autocompletion=complete_tasks,
        ),
    ] = None,
    failed: Annotated[
        bool,
        typer.Option("--failed", help="Run all failed tasks again (the default without TASK)."),
    ] = False,
    as_json: opt.Json = False,
    output_format: opt.Format = None,
    quiet: plan.Quiet = False,
    plain: opt.Plain = False,
    junit: plan.Junit = None,
    report: plan.Report = None,
    force: plan.Force = False,
    cluster: ClusterUrl = None,
    insecure: Insecure = False,
    config: opt.Config = None,
) -> int:
    """Run failed tasks again, and the tasks that were skipped because of them."""
    # Only once something is to run: 10 ms.
    from clinvk.engine.rerun import select_to_retry

    loaded = opt.load_config(config)
    view = many.build_view(loaded, as_json=as_json, output_format=output_format, quiet=quiet)
    reports = plan.requested_reports(junit, report, force=force)
    folder = open_runs(loaded, cluster, insecure=insecure).find(run_id)
    select = partial(
        select_to_retry, names=tasks or (), failed=failed, run=f"{folder.id}{folder.where}"
    )
    older = partial(_report_older, loaded, "retry") if run_id == LAST and not tasks else None
    _, context = open_place_of_run(loaded, folder, cluster, insecure=insecure)
    return _resume_run(context, folder, select, view, reports, plan.RuleFlags(), older)


def _resume_run(
    context: RunContext,
    folder: RunLog,
    select: Callable[[Plan], SelectTasks],
    view: watching.RunView,
    reports: list[RequestedReport],
    rules: plan.RuleFlags,
    if_nothing_left: Callable[[RunLog], None] | None,
) -> int:
    # Only once the flags are valid: it is a third of the start.
    from clinvk.api.recorded import bring_missing
    from clinvk.engine.resumed_run import ResumedRun

    bring_missing(folder, context.env, trusted=True)
    viewer = watching.create_run_viewer(view)
    run = ResumedRun(
        context, folder, select, observe=viewer.observe, notify=viewer.show_notice,
        rules=lambda kept: plan.override_rules(kept, rules),
    )  # fmt: skip
    result = many.drive_run(run, view, viewer)
    code = many.finish_run(run, result, view, reports)
    if if_nothing_left is not None and not run.new_outcomes(result):
        if_nothing_left(folder)
    return code


def _report_older(loaded: Loaded, command: str, newest: RunLog) -> None:
    """Name an older run that was begun in this directory, and of which something is left."""
    states = STATES_LEFT[command]
    for folder in islice(open_local_runs(loaded).newest_first(), MAX_SEARCHED):
        with suppress(ClinvkError):  # a damaged run cannot be resumed
            is_older = folder.id != newest.id and folder.summary()["state"] in states
            if is_older and (plan := folder.plan()).cwd == os.getcwd():
                where = flags_for_cluster(folder, plan) or ""
                printer.Printer.for_errors().notice(
                    f"something is left of an older run of this directory; {command} it with: "
                    f"clinvk runs {command} {folder.id}{where}"
                )
                return


@app.command("cancel")
def cancel(
    run_id: OneRun,
    now: Annotated[
        bool, typer.Option("--now", help="Cancel at once, without giving tasks time to stop.")
    ] = False,
    as_json: opt.Json = False,
    cluster: RunsCluster = None,
    insecure: Insecure = False,
    config: opt.Config = None,
) -> int:
    """Cancel a run in progress, or stop what an interrupted one left running."""
    # 45 ms, and needed only once something runs.
    import anyio

    # Only to cancel: the subcommands of this module share their imports.
    from clinvk.runs import control
    from clinvk.runs.folder import RunFolder

    loaded = opt.load_config(config)
    folder = open_runs(loaded, cluster, insecure=insecure).find(run_id)
    stop = None
    if isinstance(folder, RunFolder):  # the others know how
        stop = stopper(loaded, cluster, folder.id, insecure=insecure, now=now)

    async def end() -> None:
        await control.cancel(
            folder, now=now, notify=printer.Printer.for_errors().notice, stop_elsewhere=stop
        )

    anyio.run(end)
    about = folder.summary()
    if as_json:
        printer.print_json({"version": VERSION, **about})
    else:
        counts = format_counts(about["counts"])
        printer.print_wrapped(f"Run {folder.id} is {about['state']}: {counts}.")
    return 0
