"""`clinvk chain`: steps one after another, each using the answers before it."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Annotated

import typer

from clinvk.cmd.app import new_app
from clinvk.cmd.drive import interrupted, many
from clinvk.cmd.drive.cluster import (
    ClusterUrl,
    Insecure,
    adapt,
    open_place,
    open_place_of,
    wants_worktree,
)
from clinvk.cmd.drive.detach import Detach, check_detachable, detach_plan
from clinvk.cmd.drive.unread_stdin import report_unread_stdin
from clinvk.cmd.options import plan as opts
from clinvk.cmd.options import request as opt
from clinvk.cmd.options.json_errors import with_run_json_errors
from clinvk.cmd.options.storage import with_storage_options
from clinvk.cmd.options.turn import FROM_TABLE, OF_RUNS, TurnOptions, with_turn_options
from clinvk.errors import SessionError, UsageError

if TYPE_CHECKING:
    from clinvk.config.schema import Loaded
    from clinvk.dispatch.dispatcher import Dispatcher
    from clinvk.engine.run_context import RunContext

app = new_app()


@app.command()
@with_storage_options
@with_run_json_errors
@with_turn_options(OF_RUNS)
def chain(
    path: Annotated[
        str | None, typer.Argument(metavar="[FILE]", help="Steps, as YAML or JSON; - is stdin.")
    ] = None,
    file: Annotated[
        str | None, typer.Option("--file", "-f", metavar="FILE", help="Same as the FILE argument.")
    ] = None,
    checkpoint: Annotated[
        str | None,
        typer.Option(
            "--checkpoint",
            metavar="NAME",
            help="Save progress under this name, to resume the chain.",
        ),
    ] = None,
    resume: Annotated[
        str | None,
        typer.Option(
            "--resume",
            metavar="NAME",
            help="Resume the chain of this checkpoint at its first unfinished step.",
            autocompletion=opts.complete_checkpoints,
        ),
    ] = None,
    rerun_indeterminate: interrupted.RerunIndeterminate = None,
    backend: opt.Backend = None,
    workdir: opt.Workdir = None,
    worktree: opt.InWorktree = False,
    base: opt.Base = None,
    dirty: opt.DirtyFiles = None,
    setup: opt.Setup = None,
    candidates: opts.Candidates = None,
    score: opts.Score = None,
    lowest: opts.Lowest = False,
    judge: opts.CandidateJudge = None,
    options: TurnOptions = FROM_TABLE,
    timeout: opt.TaskTimeout = None,
    tag: opt.TaskTag = None,
    label: opts.Labels = None,
    retries: opts.Retries = None,
    on_limit: opts.OnLimit = None,
    max_wait: opts.MaxWait = None,
    fallback: opt.RunFallback = None,
    ignore_limit: opt.IgnoreLimit = False,
    budget_cost: opts.BudgetCost = None,
    budget_tokens: opts.BudgetTokens = None,
    ephemeral: opt.Ephemeral = False,
    dry_run: opt.ListTasks = False,
    as_json: opt.Json = False,
    output_format: opt.Format = None,
    quiet: opts.Quiet = False,
    plain: opt.Plain = False,
    output_dir: opts.OutputDir = None,
    junit: opts.Junit = None,
    report: opts.Report = None,
    force: opts.Force = False,
    cluster: ClusterUrl = None,
    detach: Detach = False,
    insecure: Insecure = False,
    config: opt.Config = None,
) -> int:
    """Run steps one after another, each using the answers before it.

    A prompt can refer to earlier answers: {{previous}}, {{session}}, {{steps.NAME.output}}. With
    `repeat`, steps run again until a check passes or a reviewer finds nothing. A
    chain with a checkpoint can be resumed, even after a crash, with --resume NAME."""
    # Only with a checkpoint.
    from clinvk.api.workflow import WorkflowManager

    if checkpoint and resume and checkpoint != resume:
        raise UsageError(
            "--checkpoint and --resume name different checkpoints", "leave out one of them"
        )
    if rerun_indeterminate is not None and not resume:
        flag = "--rerun-indeterminate" if rerun_indeterminate else "--no-rerun-indeterminate"
        raise UsageError(f"{flag} needs a chain to resume", "add --resume NAME")
    loaded = adapt(opt.load_config(config), cluster)
    worktree = worktree or wants_worktree(loaded, cluster, base, dirty, setup)
    if detach:
        flags = {"--checkpoint": checkpoint, "--resume": resume}
        check_detachable(loaded, cluster, flags, insecure=insecure)
    view = many.build_view(loaded, as_json=as_json, output_format=output_format, quiet=quiet)
    defaults = opts.build_defaults(
        loaded, options, backend=backend, workdir=str(workdir) if workdir else None,
        timeout=timeout, tags=tag or None, labels=label or None,
        worktree=opt.worktree_keys(worktree=worktree, base=base, dirty=dirty, setup=setup),
        **opts.candidate_keys(candidates, score, judge, lowest=lowest),
    )  # fmt: skip
    rules = opts.RuleFlags(
        retries=retries, on_limit=on_limit, max_wait=max_wait,
        fallback=fallback, ignore_limit=ignore_limit, budget_cost=budget_cost,
        budget_tokens=budget_tokens, ephemeral=ephemeral, output_dir=output_dir,
    )  # fmt: skip
    plan, source = None, f"checkpoint {resume}"
    if path or file or not resume:
        source = opts.find_source(path, file, "chain")
        plan = opts.read_plan(source, None, "chain", defaults)
        plan = opts.override_rules(plan, rules)
    elif defaults.flags or rules != opts.RuleFlags():
        raise UsageError(
            "without a file, --resume runs the steps as they were started",
            "name the file as well: clinvk chain FILE --resume NAME",
        )
    dispatcher, context = _open_place(loaded, resume, cluster, insecure=insecure)
    manager = WorkflowManager(dispatcher, context=context)
    if dry_run or loaded.config.unified_flags.dry_run:
        # Only for a dry run.
        from clinvk.cmd.views.dry_run import print_plan

        return print_plan(context.selector, plan or manager.plan(str(resume)), view)
    reports = opts.requested_reports(junit, report, force=force)
    if detach and plan is not None:
        return detach_plan(loaded, context, plan, view, reports, cluster, insecure=insecure)
    if resume and rerun_indeterminate is None:
        cut_off = manager.find_interrupted(resume)
        rerun_indeterminate = interrupted.should_rerun(cut_off, view)
    with report_unread_stdin(view.color, f"the steps are in {source}"):
        return many.run_chain(
            manager, plan, view, reports, checkpoint=checkpoint, resume=resume,
            rerun_indeterminate=bool(rerun_indeterminate),
        )  # fmt: skip


def _open_place(
    loaded: Loaded, resume: str | None, cluster: str | None, *, insecure: bool
) -> tuple[Dispatcher, RunContext]:
    """Where the steps are run: those of a chain that is resumed where it was begun, unless the command
    line says something else. Raises `ClinvkError`."""
    if resume is None:
        return open_place(loaded, cluster, insecure=insecure)
    # Only to resume.
    from clinvk.runs.checkpoints import Checkpoints
    from clinvk.runs.folder import RunStore

    begun_on = None
    with suppress(SessionError):  # which is reported when the run is opened
        run = Checkpoints(loaded.home).find_run_id(resume)
        begun_on = RunStore(loaded.home).find(run).plan().cluster
    return open_place_of(loaded, begun_on, cluster, insecure=insecure)
