"""`clinvk runs`: which subcommands there are, and where."""

from __future__ import annotations

from clinvk.cmd.app import LazyGroup

COMMANDS = {
    "list": ("runs.list", "List runs, the newest first."),
    "show": ("runs.list", "Show a run, or one of its tasks."),
    "watch": ("runs.watch", "Watch a run that is going on."),
    "resume": ("runs.resume", "Run what is left of a run that was cut off."),
    "retry": ("runs.resume", "Run again what has failed."),
    "cancel": ("runs.resume", "End a run that is going on, or was cut off."),
    "report": ("runs.delete", "Print a report of a run: HTML, Markdown, JUnit, JSON."),
    "delete": ("runs.delete", "Delete runs; their sessions stay."),
    "clean": ("runs.delete", "Delete runs that ended long ago."),
    "help": ("help", "Show the help of a subcommand."),
}


def group() -> LazyGroup:
    return LazyGroup("runs", "See, carry on and clean up runs of many tasks.", COMMANDS)
