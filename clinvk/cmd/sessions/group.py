"""`clinvk sessions`: which subcommands there are, and where."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from clinvk.cmd.app import LazyGroup

COMMANDS = {
    "list": ("sessions.list", "List sessions, most recently used first."),
    "show": ("sessions.show", "Show a session."),
    "resume": ("resume", "Resume a session, and show what was restored."),
    "search": ("sessions.search", "Search titles, prompts and messages."),
    "start": ("sessions.start", "Create an empty session, to use later."),
    "create": ("sessions.start", "Create an empty session (the same as start)."),
    "rename": ("sessions.start", "Change the title of a session."),
    "edit": ("sessions.start", "Change title, tags, status or metadata."),
    "archive": ("sessions.start", "Archive sessions: kept, but no longer resumable."),
    "branch": ("sessions.branch", "Start a new session from an existing one."),
    "merge": ("sessions.branch", "Merge two sessions into a new one."),
    "stats": ("sessions.stats", "Show session statistics."),
    "export": ("sessions.export", "Export a session as Markdown, JSON or HTML."),
    "delete": ("sessions.delete", "Delete sessions; the backend's own are kept."),
    "clean": ("sessions.delete", "Delete sessions not used recently."),
    "import": ("sessions.import_native", "Import sessions of claude, codex and gemini."),
    "options": ("sessions.options", "Store options for later prompts, or show them."),
    "reindex": ("sessions.migrate", "Rebuild the index."),
    "migrate": ("sessions.migrate", "Copy all sessions to another store."),
    "help": ("help", "Show the help of a subcommand."),
}


def group() -> LazyGroup:
    from clinvk.cmd.app import LazyGroup  # typer: not needed for the names of the commands

    # It needs typer, too.
    from clinvk.cmd.sessions.option_words import with_options_command

    about = "Find, read, change and move sessions."
    return LazyGroup("sessions", about, COMMANDS, add_command=with_options_command)
