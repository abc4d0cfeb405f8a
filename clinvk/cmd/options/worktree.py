"""The flags of a worktree."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from clinvk.cmd.options.completions import complete_words
from clinvk.errors import UsageError

DIRTY = ("tell", "include", "refuse")

InWorktree = Annotated[
    bool,
    typer.Option("--worktree", help="Work in a git worktree; its result is a commit to apply."),
]
Base = Annotated[
    str | None,
    typer.Option(
        "--base", metavar="REVISION", help="With --worktree: begin with this commit, not HEAD."
    ),
]
DirtyFiles = Annotated[
    str | None,
    typer.Option(
        "--dirty",
        metavar="ACTION",
        help="With --worktree: tell about uncommitted changes, include them, or refuse.",
        autocompletion=complete_words(DIRTY),
    ),
]
Setup = Annotated[
    str | None,
    typer.Option(
        "--setup", metavar="COMMAND", help="With --worktree: run this first, such as 'npm ci'."
    ),
]


def keys_of(
    *, worktree: bool, base: str | None, dirty: str | None, setup: str | None
) -> bool | dict[str, Any] | None:
    """The key `worktree` of a task that the flags ask for; None without --worktree. Raises
    `UsageError`."""
    given = {"base": base, "dirty": dirty, "setup": setup}
    found = {name: value for name, value in given.items() if value is not None}
    if dirty is not None and dirty not in DIRTY:
        raise UsageError(f"--dirty: {dirty!r} is not one of: {', '.join(DIRTY)}")
    if found and not worktree:
        raise UsageError(f"--{next(iter(found))} is about a worktree", "add --worktree")
    return (found or True) if worktree else None
