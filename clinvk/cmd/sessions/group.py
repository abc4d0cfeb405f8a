"""`clinvk sessions`: which subcommands there are, and where."""

from __future__ import annotations

from clinvk.cmd.app import LazyGroup

COMMANDS = {
    "list": ("sessions.list", "List sessions, the one used last first."),
    "show": ("sessions.show", "Show a session."),
    "resume": ("resume", "Go on with a session, and say first what there is of it."),
    "search": ("sessions.search", "Search titles, prompts and messages."),
    "start": ("sessions.start", "Make an empty session, to go on with later."),
    "create": ("sessions.start", "Make an empty session (the same as start)."),
    "edit": ("sessions.start", "Change title, tags, status or metadata."),
    "archive": ("sessions.start", "Archive sessions: kept, but no longer resumable."),
    "branch": ("sessions.branch", "Begin a new session with what one began with."),
    "merge": ("sessions.branch", "Make one session of two."),
    "stats": ("sessions.stats", "Show figures of a session."),
    "export": ("sessions.export", "Export a session as markdown, JSON or HTML."),
    "delete": ("sessions.delete", "Delete sessions: ours, not the backend's own."),
    "clean": ("sessions.delete", "Delete sessions that were not used for long."),
    "import": ("sessions.import_native", "Adopt the sessions that claude, codex and gemini keep."),
    "options": ("sessions.options", "Show the options that a session keeps."),
    "reindex": ("sessions.migrate", "Rebuild the index from the sessions."),
    "migrate": ("sessions.migrate", "Copy all sessions into another store."),
    "help": ("help", "Show the help of a subcommand."),
}


def group() -> LazyGroup:
    return LazyGroup("sessions", "Find, read, keep and move conversations.", COMMANDS)
