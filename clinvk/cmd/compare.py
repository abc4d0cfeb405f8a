"""`clinvk compare`: one prompt for several backends."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from clinvk.cmd.app import new_app
from clinvk.cmd.drive import many
from clinvk.cmd.drive.cluster import ClusterUrl, Insecure, adapt, open_place, wants_worktree
from clinvk.cmd.drive.detach import Detach, check_detachable, detach_plan
from clinvk.cmd.drive.unread_stdin import report_unread_stdin
from clinvk.cmd.options import plan as common
from clinvk.cmd.options import request as opt
from clinvk.cmd.options.json_errors import with_run_json_errors
from clinvk.cmd.options.storage import with_storage_options
from clinvk.cmd.options.turn import (
    FROM_TABLE,
    OF_ANY_BACKEND,
    TurnOptions,
    with_turn_options,
)
from clinvk.cmd.views import run as watching
from clinvk.disk.empty import EMPTY
from clinvk.disk.output_file import check_overwriting
from clinvk.disk.reading import directory_problem
from clinvk.errors import UsageError
from clinvk.terminal.printer import Printer

if TYPE_CHECKING:
    from clinvk.backend.selection import BackendSelector
    from clinvk.dispatch.dispatcher import Dispatcher
    from clinvk.engine.driven_run import DrivenRun
    from clinvk.engine.run_context import RunContext
    from clinvk.model.outcome import RunResult
    from clinvk.model.plan import Plan, Rules
    from clinvk.reports import RequestedReport
    from clinvk.runs.folder import RunFolder

app = new_app()

MODELLESS_BACKEND = "echo"  # has no model: used only if there are too few other backends


@app.command()
@with_storage_options
@with_run_json_errors
@with_turn_options(OF_ANY_BACKEND)
def compare(
    words: opt.Prompt = None,
    backends: Annotated[
        list[str] | None,
        typer.Option(
            "--backends",
            "-b",
            metavar="A,B:MODEL",
            help="Backends to compare (repeatable).",
            autocompletion=opt.complete_backends,
        ),
    ] = None,
    all_backends: Annotated[
        bool, typer.Option("--all-backends", help="Compare all installed and enabled backends.")
    ] = False,
    sequential: Annotated[
        bool, typer.Option("--sequential", help="Ask one backend after another.")
    ] = False,
    judge: Annotated[
        str | None,
        typer.Option(
            "--judge",
            metavar="BACKEND[:MODEL]",
            help="Have this backend pick the best answer.",
            autocompletion=opt.complete_backends,
        ),
    ] = None,
    score: common.Score = None,
    lowest: common.Lowest = False,
    apply: Annotated[
        bool, typer.Option("--apply", help="Apply the best result to your files, as runs apply.")
    ] = False,
    html: Annotated[
        Path | None,
        typer.Option(
            "--html", metavar="FILE", help="Write the answers, side by side, to an HTML page."
        ),
    ] = None,
    file: opt.File = None,
    workdir: opt.Workdir = None,
    worktree: opt.InWorktree = False,
    base: opt.Base = None,
    dirty: opt.DirtyFiles = None,
    setup: opt.Setup = None,
    options: TurnOptions = FROM_TABLE,
    timeout: opt.TaskTimeout = None,
    tag: opt.TaskTag = None,
    label: common.Labels = None,
    retries: common.Retries = None,
    on_limit: Annotated[
        str | None,
        typer.Option(
            "--on-limit",
            metavar="ACTION",
            help="What to do at a rate limit: wait (the default) or fail.",
            autocompletion=opt.complete_words(("wait", "fail")),
        ),
    ] = None,
    max_wait: common.MaxWait = None,
    fallback: opt.RunFallback = None,
    ignore_limit: opt.IgnoreLimit = False,
    budget_cost: common.BudgetCost = None,
    budget_tokens: common.BudgetTokens = None,
    ephemeral: opt.Ephemeral = False,
    dry_run: opt.ListTasks = False,
    as_json: opt.Json = False,
    output_format: opt.Format = None,
    quiet: common.Quiet = False,
    plain: opt.Plain = False,
    output_dir: common.OutputDir = None,
    junit: common.Junit = None,
    report: common.Report = None,
    force: common.Force = False,
    cluster: ClusterUrl = None,
    detach: Detach = False,
    insecure: Insecure = False,
    config: opt.Config = None,
) -> int:
    """Send one prompt to several backends and compare the answers.

    Each answer is a session of its own, which can be resumed. A judge is asked twice, the second
    time with the answers in reverse order, and is not told which backend gave which.

    With --worktree, what each changed is ranked: by its --check, then by --score, then by how few
    lines it changed, then by the judge."""
    # Only once the flags are valid: it is a third of the start.
    from clinvk.model.plan import Rules
    from clinvk.plans.halt import configured_limits

    loaded = adapt(opt.load_config(config), cluster)
    about = (base, dirty, setup, score, apply)
    worktree = worktree or wants_worktree(loaded, cluster, *about)
    choice = _choice(score, lowest=lowest, apply=apply, worktree=worktree)
    if detach:
        flags = {"--score": score, "--apply": apply, "--html": html}
        check_detachable(loaded, cluster, flags, insecure=insecure)
    view = many.build_view(loaded, as_json=as_json, output_format=output_format, quiet=quiet)
    # Answers are compared when all are there.
    view = watching.RunView(format=view.format, quiet=view.quiet, color=view.color)
    prompt, _ = opt.read_prompt(words, file, [])
    dispatcher, context = open_place(loaded, cluster, insecure=insecure)
    selector = context.selector
    made = _build_plan(
        selector, prompt, _select_backends(selector, backends or [], view, all_backends=all_backends),
        judge=judge, workdir=workdir, timeout=timeout, tags=tag or [], labels=label or [],
        options=options,
        worktree=opt.worktree_keys(worktree=worktree, base=base, dirty=dirty, setup=setup),
        rules=Rules(
            max_parallel=1 if sequential else loaded.config.parallel.max_workers,
            max_parallel_per_backend=loaded.config.parallel.max_parallel_per_backend,
            limits=configured_limits(loaded.config.unified_flags, switches=False),
            ephemeral=ephemeral, output_dir=_absolute_or_none(output_dir),
        ),
    )  # fmt: skip
    rules = common.RuleFlags(
        retries=retries, on_limit=on_limit, max_wait=max_wait,
        fallback=fallback, ignore_limit=ignore_limit, budget_cost=budget_cost,
        budget_tokens=budget_tokens,
    )  # fmt: skip
    made = common.override_rules(made, rules)
    if dry_run or loaded.config.unified_flags.dry_run:
        # Only for a dry run.
        from clinvk.cmd.views.dry_run import print_plan

        return print_plan(selector, made, view)
    wanted = common.requested_reports(junit, report, force=force)
    if detach:
        return detach_plan(loaded, context, made, view, wanted, cluster, insecure=insecure)
    _check_page(html, force=force)
    with report_unread_stdin(view.color):
        return _execute(dispatcher, context, made, view, wanted, html, choice)


class Choice(NamedTuple):
    """How to choose between what was done in worktrees."""

    score: str | None = None
    lowest: bool = False
    apply: bool = False


def _choice(score: str | None, *, lowest: bool, apply: bool, worktree: bool) -> Choice:
    given = {"--score": score is not None, "--lowest": lowest, "--apply": apply}
    if not worktree and (name := next((n for n, is_given in given.items() if is_given), None)):
        raise UsageError(f"{name} is about results in worktrees", "add --worktree")
    if lowest and score is None:
        raise UsageError("--lowest is about a score", "add --score COMMAND")
    if score is not None:
        # Only with a score.
        from clinvk.api.ranking import check_score

        check_score(score)
    return Choice(score, lowest, apply)


def _select_backends(
    selector: BackendSelector, values: list[str], view: watching.RunView, *, all_backends: bool
) -> list[str]:
    """The backends to compare. Raises `UsageError`."""
    names = [name.strip() for words in values for name in words.split(",") if name.strip()]
    if names and all_backends:
        raise UsageError("--backends and --all-backends cannot be used together", "leave out one")
    if not all_backends:
        return names
    found = selector.installed()
    others = [name for name in found if name != MODELLESS_BACKEND]
    taken = others if len(others) > 1 else found
    if len(taken) > 1:
        what = " (echo has no model: it repeats the prompt)" if taken != others else ""
        Printer.for_errors(view.color).notice(f"comparing {', '.join(taken)}{what}")
    return taken


def _build_plan(
    selector: BackendSelector,
    prompt: str,
    backends: list[str],
    *,
    judge: str | None,
    workdir: Path | None,
    timeout: str | None,
    tags: list[str],
    labels: list[str],
    options: TurnOptions,
    worktree: bool | dict[str, Any] | None,
    rules: Rules,
) -> Plan:
    # Only once the flags are valid.
    from clinvk.plans import comparison
    from clinvk.plans.taskfile.worktree import worktree_of

    options = opt.read_options(options)
    return comparison.build_plan(
        prompt,
        backends,
        judge=judge,
        options=options,
        judge_options=comparison.judge_options(judge, options, selector),
        cwd=_absolute_workdir(workdir),
        timeout=opt.parse_duration("timeout", timeout),
        tags=tags,
        labels=labels,
        worktree=worktree_of(worktree),
        rules=rules,
    )


def _absolute_workdir(workdir: Path | None) -> str:
    """The directory as an absolute path, wherever the run is resumed from."""
    if workdir == Path(EMPTY):
        return EMPTY
    found = os.path.realpath(workdir or os.curdir)
    if problem := directory_problem(found):
        raise UsageError(f"--workdir: {workdir}: {problem}", "name a directory")
    return found


def _absolute_or_none(folder: Path | None) -> str | None:
    return None if folder is None else os.path.abspath(folder.expanduser())


def _execute(
    dispatcher: Dispatcher,
    context: RunContext,
    plan: Plan,
    view: watching.RunView,
    reports: list[RequestedReport],
    html: Path | None,
    choice: Choice,
) -> int:
    """Run the plan, show it, and write its page; return the exit code."""
    # Only once the flags are valid.
    from clinvk.engine.driven_run import DrivenRun

    viewer = watching.create_run_viewer(view)
    run = DrivenRun(context, plan, observe=viewer.observe, notify=viewer.show_notice)
    result = many.drive_run(run, view, viewer)
    if choice.score is not None and run.directory is not None:
        _score(run, choice, dispatcher)
    code = many.finish_run(run, result, view, reports)
    if html is not None:
        try:
            _write_page(html, plan.tasks[0].prompt, run.with_outputs(result))
        except UsageError as error:  # the run itself is complete
            Printer.for_errors(view.color).error(error.message, error.hint)
            code = code or error.exit_code
    if choice.apply and run.directory is not None:
        return _apply_best(dispatcher, run.directory, view, code)
    return code


def _score(run: DrivenRun, choice: Choice, dispatcher: Dispatcher) -> None:
    # 45 ms, and needed only once something runs.
    import anyio

    # Only with a score.
    from clinvk.api.ranking import score_candidates

    folder, command = run.directory, choice.score
    assert folder is not None  # noqa: S101 - the caller has checked it
    assert command is not None  # noqa: S101 - the caller has checked it
    anyio.run(
        partial(score_candidates, folder, command, lowest_wins=choice.lowest, env=dispatcher.env)
    )


def _apply_best(
    dispatcher: Dispatcher, folder: RunFolder, view: watching.RunView, code: int
) -> int:
    """Apply the best result; 0 if that is done, though others may have failed."""
    # Only with --apply.
    from clinvk.api.results import apply_best

    printer = Printer.for_errors(view.color)
    applied = apply_best(dispatcher, folder, notify=printer.notice)
    if applied is None:
        printer.error("nothing was applied: no candidate succeeded and changed something")
        return code or 1
    done = applied.tasks[0]
    printer.notice(
        f"{done.name} applied to {applied.root}: {done.files} file{'s' * (done.files != 1)} "
        f"(+{done.insertions} -{done.deletions}), not committed; the others are kept: "
        f"clinvk runs diff {folder.id}"
    )
    return 0


def _check_page(html: Path | None, *, force: bool) -> None:
    if html is not None:
        from clinvk import reports  # only if a file is wanted

        reports.check_report(html, "html")
        check_overwriting(html, force=force)


def _write_page(path: Path, prompt: str, result: RunResult) -> None:
    """Write the page. Raises `UsageError`; the run itself is complete then."""
    # Only with --html.
    from clinvk.disk.atomic import write_for_user
    from clinvk.reports.comparison_page import render

    data = render(prompt, result).encode("utf-8", "replace")
    try:
        write_for_user(path, data)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}", "choose another file") from error
