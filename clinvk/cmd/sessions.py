"""`clinvk sessions`: which subcommands there are, and where."""

from __future__ import annotations

from clinvk.cmd.lazy import Lazy

COMMANDS = {
    "list": ("sessions_list", "List sessions, the one used last first."),
    "show": ("sessions_show", "Show a session."),
    "resume": ("resume", "Go on with a session, and say first what there is of it."),
    "search": ("sessions_search", "Search titles, prompts and messages."),
    "start": ("sessions_make", "Make an empty session, to go on with later."),
    "create": ("sessions_make", "Make an empty session (the same as start)."),
    "edit": ("sessions_make", "Change title, tags, status or metadata."),
    "archive": ("sessions_make", "Put sessions away: kept, but not gone on with."),
    "branch": ("sessions_branch", "Begin a new session with what one began with."),
    "merge": ("sessions_branch", "Make one session of two."),
    "stats": ("sessions_stats", "Show figures of a session."),
    "export": ("sessions_export", "Export a session as markdown, JSON or HTML."),
    "delete": ("sessions_delete", "Delete sessions: ours, not the backend's own."),
    "clean": ("sessions_delete", "Delete sessions that were not used for long."),
    "import": ("sessions_import", "Adopt the sessions that claude, codex and gemini keep."),
    "options": ("sessions_options", "Show the options that a session keeps."),
    "reindex": ("sessions_store", "Make the index anew from the sessions."),
    "migrate": ("sessions_store", "Copy all sessions into another store."),
    "help": ("help", "Show the help of a subcommand."),
}


def group() -> Lazy:
    return Lazy("sessions", "Find, read, keep and move conversations.", COMMANDS)
