"""`clinvk sessions`: which subcommands there are, and where."""

from __future__ import annotations

from clinvk.cmd.lazy import Lazy

COMMANDS = {
    "list": ("sessions_list", "List sessions, the one used last first."),
    "show": ("sessions_show", "Show a session."),
    "search": ("sessions_search", "Search titles, prompts and messages."),
    "delete": ("sessions_delete", "Delete sessions: ours, not the backend's own."),
    "clean": ("sessions_delete", "Delete sessions that were not used for long."),
    "import": ("sessions_import", "Adopt the sessions that claude, codex and gemini keep."),
    "reindex": ("sessions_store", "Make the index anew from the files."),
}


def group() -> Lazy:
    return Lazy("sessions", "List, show, search, delete and clean up sessions.", COMMANDS)
