"""`clinvk runs drop`."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

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
from clinvk.terminal import printer as show
from clinvk.terminal import questions
from clinvk.text.json_output import dumps

if TYPE_CHECKING:
    from clinvk.worktrees.results.dropped import DroppedTask

app = CommandModule()


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
    # Only once something is dropped.
    from clinvk.cluster.files.forget import Forgetter

    # Git, and its threads: only once something is dropped.
    from clinvk.worktrees.results.drop import VERSION, Drop

    loaded = opt.load_config(config)
    here = current_directory()
    folder = find_results(loaded, run_id, here, cluster, insecure=insecure)
    doomed = Drop(folder, tasks or (), os.environ, here=here, home=loaded.home)
    tell_run(folder)
    if not doomed.dropped:
        print(f"run {folder.id} has no results to drop", file=sys.stderr)
        return 0
    if not yes:
        for task in doomed.by_task():
            show.Printer.for_errors().line(f"{task.name}: {_describe_loss(task)}")
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
    tasks_dropped = doomed.by_task()
    for task in tasks_dropped:
        undo = f"; undo: {task.last.undo}" if task.files != 0 else ""
        show.print_wrapped(f"Dropped {task.name}: {_describe_loss(task)}{undo}")
    if any(task.has_losers for task in tasks_dropped):
        show.Printer.for_errors().notice(
            f"the commits of the other candidates: clinvk runs show {folder.id}{folder.where}"
        )
    return 0


def _describe_loss(task: DroppedTask) -> str:
    """`3 rounds, 6 candidates, 2 files, +9 -0, not applied`."""
    parts = []
    if len(task.results) > 1:
        parts += [_count(task.rounds, "round")] if task.rounds > 1 else []
        parts += [_count(task.candidates, "candidate")] if task.candidates else []
    if task.files is None:
        return ", ".join([*parts, "its repository is gone"])
    if task.files == 0:
        return ", ".join([*parts, "no changes"])
    changes = format_changes(task.files, task.insertions, task.deletions)
    return ", ".join([*parts, changes, _describe_applied(task)])


def _describe_applied(task: DroppedTask) -> str:
    if task.applied == 0:
        return "not applied"
    if task.applied == len(task.results):
        return "applied before"
    return f"{task.applied} of {len(task.results)} applied before"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"
