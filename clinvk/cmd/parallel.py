"""`clinvk parallel`: many tasks, each of which is a session."""

from __future__ import annotations

from typing import Annotated

import typer

from clinvk.cmd.app import new_app
from clinvk.cmd.drive import many
from clinvk.cmd.drive.cluster import ClusterUrl, Insecure, adapt, open_place, wants_worktree
from clinvk.cmd.drive.detach import Detach, check_detachable, detach_plan
from clinvk.cmd.drive.unread_stdin import report_unread_stdin
from clinvk.cmd.options import plan
from clinvk.cmd.options import request as opt
from clinvk.cmd.options.json_errors import with_run_json_errors
from clinvk.cmd.options.storage import with_storage_options
from clinvk.cmd.options.turn import FROM_TABLE, OF_RUNS, TurnOptions, with_turn_options

app = new_app()


@app.command()
@with_storage_options
@with_run_json_errors
@with_turn_options(OF_RUNS)
def parallel(
    path: Annotated[
        str | None,
        typer.Argument(metavar="[FILE]", help="Tasks, as YAML, JSON, JSONL or CSV; - is stdin."),
    ] = None,
    file: Annotated[
        str | None, typer.Option("--file", "-f", metavar="FILE", help="Same as the FILE argument.")
    ] = None,
    form: Annotated[
        str | None,
        typer.Option(
            "--format",
            metavar="FORMAT",
            help="Input format: yaml, json, jsonl, csv or lines (default: from the file name).",
            autocompletion=opt.complete_words(("yaml", "json", "jsonl", "csv", "lines")),
        ),
    ] = None,
    null: Annotated[
        bool,
        typer.Option("--null", "-0", help="Tasks are lines that end with a NUL: git ls-files -z."),
    ] = False,
    prompt: Annotated[
        str | None,
        typer.Option(
            "--prompt", metavar="TEXT", help="Prompt of tasks without one: 'review {{file}}'."
        ),
    ] = None,
    backend: opt.Backend = None,
    workdir: opt.Workdir = None,
    worktree: opt.InWorktree = False,
    base: opt.Base = None,
    dirty: opt.DirtyFiles = None,
    setup: opt.Setup = None,
    candidates: plan.Candidates = None,
    score: plan.Score = None,
    lowest: plan.Lowest = False,
    judge: plan.CandidateJudge = None,
    options: TurnOptions = FROM_TABLE,
    timeout: opt.TaskTimeout = None,
    stall_timeout: opt.TaskStall = None,
    tag: opt.TaskTag = None,
    label: plan.Labels = None,
    max_parallel: plan.MaxParallel = None,
    fail_fast: plan.FailFast = None,
    halt: plan.Halt = None,
    retries: plan.Retries = None,
    on_limit: plan.OnLimit = None,
    max_wait: plan.MaxWait = None,
    fallback: opt.RunFallback = None,
    ignore_limit: opt.IgnoreLimit = False,
    budget_cost: plan.BudgetCost = None,
    budget_tokens: plan.BudgetTokens = None,
    ephemeral: opt.Ephemeral = False,
    dry_run: opt.ListTasks = False,
    as_json: opt.Json = False,
    output_format: opt.Format = None,
    quiet: plan.Quiet = False,
    plain: opt.Plain = False,
    output_dir: plan.OutputDir = None,
    junit: plan.Junit = None,
    report: plan.Report = None,
    force: plan.Force = False,
    cluster: ClusterUrl = None,
    detach: Detach = False,
    insecure: Insecure = False,
    config: opt.Config = None,
) -> int:
    """Run the tasks of a file in parallel.

    Tasks are read from a file or standard input, and each is a session. To resume a run that was
    interrupted, by Ctrl-C or a crash: clinvk runs resume."""
    loaded = adapt(opt.load_config(config), cluster)
    worktree = worktree or wants_worktree(loaded, cluster, base, dirty, setup)
    view = many.build_view(loaded, as_json=as_json, output_format=output_format, quiet=quiet)
    defaults = plan.build_defaults(
        loaded, options, prompt=prompt, backend=backend, workdir=str(workdir) if workdir else None,
        timeout=timeout, stall_timeout=stall_timeout, tags=tag or None, labels=label or None,
        worktree=opt.worktree_keys(worktree=worktree, base=base, dirty=dirty, setup=setup),
        **plan.candidate_keys(candidates, score, judge, lowest=lowest),
    )  # fmt: skip
    source = plan.find_source(path, file, "parallel")
    made = plan.read_plan(source, form, "parallel", defaults, null=null)
    rules = plan.RuleFlags(
        max_parallel=max_parallel, fail_fast=fail_fast, halt=halt, retries=retries,
        on_limit=on_limit, max_wait=max_wait,
        fallback=fallback, ignore_limit=ignore_limit, budget_cost=budget_cost,
        budget_tokens=budget_tokens, ephemeral=ephemeral, output_dir=output_dir,
    )  # fmt: skip
    made = plan.override_rules(made, rules)
    if detach:
        check_detachable(loaded, cluster, {}, insecure=insecure)
    _, context = open_place(loaded, cluster, insecure=insecure)
    if dry_run or loaded.config.unified_flags.dry_run:
        # Only for a dry run.
        from clinvk.cmd.views.dry_run import print_plan

        return print_plan(context.selector, made, view)
    reports = plan.requested_reports(junit, report, force=force)
    if detach:
        return detach_plan(loaded, context, made, view, reports, cluster, insecure=insecure)
    with report_unread_stdin(view.color, f"the tasks are in {source}"):
        return many.run_plan(context, made, view, reports)
