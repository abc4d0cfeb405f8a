"""`worktree` of a task, a flag or an argument."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clinvk.errors import UsageError
from clinvk.model.plan import Worktree
from clinvk.plans.schema import WorktreeEntry
from clinvk.plans.taskfile.values import Place, to_list, to_text
from clinvk.text.typed import ShapeError, build_struct


def worktree_of(written: bool | Mapping[str, Any] | None) -> Worktree | None:
    """The worktree that flags or arguments ask for. Raises `UsageError`."""
    try:
        return parse_worktree(written, ("worktree",))
    except ShapeError as error:
        raise UsageError(str(error), error.hint) from error


def parse_worktree(written: bool | Mapping[str, Any] | None, path: Place) -> Worktree | None:
    """What `worktree: true`, or its keys, ask for. Raises `ShapeError`."""
    if written is None or written is False:
        return None
    entry = build_struct(WorktreeEntry, {} if written is True else dict(written), path)
    patterns = to_list(entry.copy)
    for i, pattern in enumerate(patterns):
        if not pattern.strip() or ".." in Path(pattern).parts or pattern.startswith("~"):
            raise ShapeError(
                (*path, "copy", i), f"{pattern!r} is not a pattern of files in the repository"
            )
    if entry.setup is not None and not entry.setup.strip():
        raise ShapeError((*path, "setup"), "the command is empty")
    if entry.base is not None and not to_text(entry.base).strip():
        raise ShapeError((*path, "base"), "the revision is empty")
    return Worktree(
        base=None if entry.base is None else to_text(entry.base), dirty=entry.dirty,
        copy=tuple(patterns), setup=entry.setup, keep=entry.keep,
    )  # fmt: skip
