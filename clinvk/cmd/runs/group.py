"""`clinvk runs`: which subcommands there are, and where."""

from __future__ import annotations

from clinvk.cmd.app import LazyGroup

COMMANDS = {
    "list": ("runs.list", "List runs, newest first."),
    "show": ("runs.list", "Show a run, or one of its tasks."),
    "watch": ("runs.watch", "Watch a run in progress."),
    "resume": ("runs.resume", "Run the rest of an interrupted run."),
    "retry": ("runs.resume", "Run failed tasks again."),
    "cancel": ("runs.resume", "Cancel a run in progress, or clean up after an interrupted one."),
    "diff": ("runs.apply", "Show what tasks changed in their worktrees."),
    "apply": ("runs.apply", "Apply the changes of tasks to your files."),
    "drop": ("runs.drop", "Drop the results of tasks."),
    "report": ("runs.delete", "Print a report of a run: HTML, Markdown, JUnit, JSON."),
    "delete": ("runs.delete", "Delete runs; their sessions are kept."),
    "clean": ("runs.delete", "Delete old runs."),
    "help": ("help", "Show the help of a subcommand."),
}


def group() -> LazyGroup:
    return LazyGroup("runs", "Watch, resume and clean up runs of tasks.", COMMANDS)
