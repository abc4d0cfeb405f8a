"""`clinvk runs`: which subcommands there are, and where."""

from __future__ import annotations

from clinvk.cmd.lazy import Lazy

COMMANDS = {
    "list": ("runs_list", "List runs, the newest first."),
    "show": ("runs_list", "Show a run, or one of its tasks."),
    "watch": ("runs_watch", "Watch a run that is going on."),
    "resume": ("runs_drive", "Run what is left of a run that was cut off."),
    "retry": ("runs_drive", "Run again what has failed."),
    "cancel": ("runs_drive", "End a run that is going on, or was cut off."),
    "report": ("runs_keep", "Print a report of a run: HTML, Markdown, JUnit, JSON."),
    "delete": ("runs_keep", "Delete runs; their sessions stay."),
    "clean": ("runs_keep", "Delete runs that ended long ago."),
    "help": ("help", "Show the help of a subcommand."),
}


def group() -> Lazy:
    return Lazy("runs", "See, carry on and clean up runs of many tasks.", COMMANDS)
