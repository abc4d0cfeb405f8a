"""`clinvk runs diff` and `apply`."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from clinvk.cmd.app import CommandModule
from clinvk.cmd.drive.cluster import Insecure
from clinvk.cmd.options import request as opt
from clinvk.cmd.runs.common import LastRunHere, RunsCluster
from clinvk.cmd.runs.results import (
    SomeTasks,
    current_directory,
    find_results,
    format_changes,
    tell_run,
)
from clinvk.errors import UsageError
from clinvk.terminal import printer as show

if TYPE_CHECKING:
    from clinvk.worktrees.results.applied import Applied, TaskApplied
    from clinvk.worktrees.results.diff import Diffs
    from clinvk.worktrees.results.taken import How

app = CommandModule()

MARKS = {"applied": "✓", "already applied": "✓", "unchanged": "=", "skipped": "–"}  # otherwise ✗


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
    here = current_directory()
    folder = find_results(loaded, run_id, here, cluster, insecure=insecure)
    diffs = read_diffs(folder, tasks or (), os.environ, here=here, home=loaded.home)
    tell_run(folder)
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
    ask = Ask(tuple(tasks or ()), how, branch, again, current_directory(), keep=keep)
    ownership.prepare_for_turn()
    loaded = opt.load_config(config)
    folder = find_results(loaded, run_id, ask.here, cluster, insecure=insecure)
    tell_run(folder)
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
