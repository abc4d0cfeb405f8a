"""`clinvk runs diff`, `apply` and `drop`."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clinvk.cmd.app import CommandModule
from clinvk.cmd.drive.cluster import Insecure
from clinvk.cmd.options import request as opt
from clinvk.cmd.options.completions import complete_results
from clinvk.cmd.options.holding import enter_until_end
from clinvk.cmd.runs.common import LastRunHere, RunsCluster, open_local_runs, open_runs
from clinvk.errors import UsageError
from clinvk.terminal import printer as show
from clinvk.terminal import questions
from clinvk.text.json_output import dumps

if TYPE_CHECKING:
    from clinvk.config.schema import Loaded
    from clinvk.runs.folder import RunFolder
    from clinvk.worktrees.results.applied import Applied, TaskApplied
    from clinvk.worktrees.results.diff import Diffs
    from clinvk.worktrees.results.drop import Dropped
    from clinvk.worktrees.results.taken import How

app = CommandModule()

SomeTasks = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[TASK...]",
        help="Only these tasks, by name or number.",
        autocompletion=complete_results,
    ),
]
MARKS = {"applied": "✓", "already applied": "✓", "unchanged": "=", "skipped": "–"}  # otherwise ✗


def _here() -> Path:
    try:
        return Path.cwd()
    except FileNotFoundError:
        raise UsageError("the current directory no longer exists", "cd to another one") from None


def _find(
    loaded: Loaded, run_id: str, here: Path, cluster: str | None, *, insecure: bool
) -> RunFolder:
    """The run, with its results in a repository of this machine. Raises `ClinvkError`."""
    # Only for these commands.
    from clinvk.api.recorded import with_results

    local = open_local_runs(loaded)
    is_local = cluster is None and run_id in local.ids()
    runs = local if is_local else open_runs(loaded, cluster, insecure=insecure)
    return enter_until_end(with_results(runs, run_id, here, os.environ))


def _tell_run(folder: RunFolder) -> None:
    """Say on a terminal which run it is, and of which repository: it may be of another one."""
    if not sys.stderr.isatty():
        return
    # Only for these commands.
    from clinvk.worktrees.results.reading import repositories

    places = ", ".join(map(show.short_path, repositories(folder.plan())))
    show.Printer.for_errors().notice(f"run {folder.id}" + (f" of {places}" if places else ""))


@app.command("diff")
def diff(
    run_id: LastRunHere = "last",
    tasks: SomeTasks = None,
    stat: Annotated[
        bool, typer.Option("--stat", help="Show only which files changed, and how much.")
    ] = False,
    as_json: opt.Json = False,
    cluster: RunsCluster = None,
    insecure: Insecure = False,
    config: opt.Config = None,
) -> None:
    """Show what tasks changed in their worktrees.

    On a terminal in color and with the pager of git; otherwise as a patch for git apply."""
    # Only for this command.
    from clinvk.worktrees.results.diff import VERSION, read_diffs

    loaded = opt.load_config(config)
    here = _here()
    folder = _find(loaded, run_id, here, cluster, insecure=insecure)
    diffs = read_diffs(folder, tasks or (), os.environ, here=here, home=loaded.home)
    _tell_run(folder)
    if as_json:
        found = [diffs.task(result, patch=not stat).to_json() for result in diffs.results]
        show.print_json({"version": VERSION, "run": folder.id, "tasks": found})
        return
    for result in diffs.results:
        if result.is_dropped and result.dropped:
            notice = f"task {result.name!r}: {result.dropped.description}"
            show.Printer.for_errors().notice(notice)
    if not diffs.results:
        print(f"run {folder.id} has no results yet", file=sys.stderr)
    elif sys.stdout.isatty() or show.wants_color(sys.stdout):
        # Only for a terminal.
        from clinvk.cmd.views import patch

        patch.show(diffs, stat=stat)
    else:
        _write_plain(diffs, stat=stat)


def _write_plain(diffs: Diffs, *, stat: bool) -> None:
    """Exactly as it is: a patch has to be applicable."""
    for result in diffs.results:
        if len(diffs.results) > 1:
            print(f"# task {result.name}", flush=True)
        data = diffs.stat(result, 80) if stat else diffs.patch(result, binary=True)
        sys.stdout.flush()
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()


@app.command("apply")
def apply(
    run_id: LastRunHere = "last",
    tasks: SomeTasks = None,
    branch: Annotated[
        str | None,
        typer.Option(
            "--branch", metavar="NAME", help="Commit to a new branch; leave the files as they are."
        ),
    ] = None,
    commit: Annotated[
        bool, typer.Option("--commit", help="Also commit, with your hooks and signature.")
    ] = False,
    stage: Annotated[
        bool, typer.Option("--stage", help="Change files and the index; do not commit (default).")
    ] = False,
    resolve: Annotated[
        str | None,
        typer.Option(
            "--resolve",
            metavar="BACKEND",
            help="Let this backend resolve conflicts, in a worktree.",
            autocompletion=opt.complete_backends,
        ),
    ] = None,
    check: Annotated[
        list[str] | None,
        typer.Option(
            "--check",
            metavar="COMMAND",
            help="Apply one by one; take back what fails this command (repeatable).",
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be applied; change nothing.")
    ] = False,
    again: Annotated[
        bool, typer.Option("--again", help="Also apply what was applied before.")
    ] = False,
    keep: Annotated[
        bool, typer.Option("--keep", help="Keep the worktrees, to continue in them.")
    ] = False,
    as_json: opt.Json = False,
    cluster: RunsCluster = None,
    insecure: Insecure = False,
    config: opt.Config = None,
) -> int:
    """Apply the changes of tasks to your files.

    Merges the results of all tasks that are done, in the order of the plan, into the working tree
    that the run was started in, or the one of the same repository that you are in. If that cannot
    be completed, for example because of a conflict, nothing is changed.

    With --resolve, a backend resolves a conflict in a worktree of its own, and the check of the
    task runs again.

    With --check, each result is applied by itself: one that conflicts, or fails the command, is
    taken back and reported, and the others continue."""
    # Only for this command.
    from clinvk.api.results import apply_as_asked
    from clinvk.checks.check import DEFAULT_TIMEOUT
    from clinvk.dispatch.dispatcher import Dispatcher
    from clinvk.process import ownership
    from clinvk.worktrees.results.applied import Ask

    how = _how(branch, commit=commit, stage=stage)
    ask = Ask(tuple(tasks or ()), how, branch, again, _here(), keep=keep)
    ownership.prepare_for_turn()
    loaded = opt.load_config(config)
    folder = _find(loaded, run_id, ask.here, cluster, insecure=insecure)
    _tell_run(folder)
    with Dispatcher(loaded) as dispatcher:
        applied = apply_as_asked(
            dispatcher, folder, ask, dry_run=dry_run, resolve=resolve, commands=tuple(check or ()),
            timeout=DEFAULT_TIMEOUT, notify=show.Printer.for_errors().notice,
        )  # fmt: skip
    if as_json:
        show.print_json(applied.to_json())
    else:
        _print_applied(applied)
    return 0 if applied.ok else 1


def _how(branch: str | None, *, commit: bool, stage: bool) -> How:
    if commit + stage + (branch is not None) > 1:
        raise UsageError("--branch, --commit and --stage exclude each other", "choose one of them")
    return "branch" if branch is not None else "commit" if commit else "stage"


def _print_applied(applied: Applied) -> None:
    for task in applied.tasks:
        show.print_wrapped(f"{MARKS.get(task.state, '✗')} {task.name}: {_describe(task)}")
        if task.output:
            show.print_wrapped(task.output, "  │ ")
    done = applied.applied
    if not done:
        why = "" if applied.tasks else f": run {applied.run} has no results"
        print(f"Nothing to apply{why}.")
        return
    files = f"{len(done)} task{'s' * (len(done) != 1)}"
    would = "Would apply" if applied.is_preview else "Applied"
    where = show.short_path(applied.root)
    if applied.how == "branch":
        print(f"{would} {files} to the new branch {applied.branch}.")
    elif applied.how == "commit":
        print(f"{would} {files} to {where}, and commit." if applied.is_preview else
              f"{would} {files} to {where}, and committed.")  # fmt: skip
    else:
        print(f"{would} {files} to {where}; not committed.")
    for path in dict.fromkeys(path for task in done for path in task.submodules):
        show.Printer.for_errors().notice(
            f"the submodule {path} is at another commit; check it out: git submodule update {path}"
        )


def _describe(task: TaskApplied) -> str:
    if task.state == "check failed" and task.why:
        return task.why  # it says so
    if task.state != "applied":
        return f"{task.state}: {task.why}" if task.why else task.state
    text = f"{format_changes(task.files, task.insertions, task.deletions)}"
    if task.rounds > 1:
        text += f" in {task.rounds} rounds"
    return f"{text} ({' '.join(c[:10] for c in task.commits)})" if task.commits else text


def format_changes(files: int, insertions: int, deletions: int) -> str:
    """`3 files, +10 -2`."""
    return f"{files:,} file{'s' * (files != 1)}, +{insertions:,} -{deletions:,}"


@app.command("drop")
def drop(
    run_id: LastRunHere = "last",
    tasks: SomeTasks = None,
    yes: opt.Yes = False,
    as_json: opt.Json = False,
    cluster: RunsCluster = None,
    insecure: Insecure = False,
    config: opt.Config = None,
) -> int:
    """Drop the results of tasks: remove their worktrees and refs.

    Names what is lost, and asks first. Git keeps the commits for a while; how to get them back is
    printed."""
    # Only for this command.
    from clinvk.cluster.files.forget import Forgetter

    # Only for this command.
    from clinvk.worktrees.results.drop import VERSION, Drop

    loaded = opt.load_config(config)
    here = _here()
    folder = _find(loaded, run_id, here, cluster, insecure=insecure)
    doomed = Drop(folder, tasks or (), os.environ, here=here, home=loaded.home)
    _tell_run(folder)
    if not doomed.dropped:
        print(f"run {folder.id} has no results to drop", file=sys.stderr)
        return 0
    if not yes:
        for result in doomed.dropped:
            show.Printer.for_errors().line(f"{result.name}: {_describe_loss(result)}")
        count = len(doomed.dropped)
        question = f"Drop {count} result{'s' * (count != 1)} of run {folder.id}?"
        if not questions.confirm_deletion(question):
            return 4
    dropped = doomed.run()
    forgetter = Forgetter(loaded.home, os.environ, show.Printer.for_errors().notice)
    forgetter.forget_tasks(folder.id, [result.worktree for result in doomed.chosen])
    if as_json:
        found = [result.to_json() for result in dropped]
        print(dumps({"version": VERSION, "run": folder.id, "dropped": found}))
        return 0
    for result in dropped:
        show.print_wrapped(f"Dropped {result.name}: {_describe_loss(result)}; undo: {result.undo}")
    return 0


def _describe_loss(result: Dropped) -> str:
    if result.files is None:
        return "its repository is gone"
    changes = format_changes(result.files, result.insertions, result.deletions)
    return f"{changes}, {'applied before' if result.applied else 'not applied'}"
