"""What to apply, and what became of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from msgspec import Struct, to_builtins

from clinvk.worktrees.git import Git
from clinvk.worktrees.results.merge import GITLINK, ConflictError, Merged, changes
from clinvk.worktrees.results.taken import How
from clinvk.worktrees.results.target import Target

State = Literal[
    "applied", "already applied", "unchanged", "skipped", "conflict", "blocked", "check failed",
    "commit failed",
]  # fmt: skip
FAILED = ("conflict", "blocked", "check failed", "commit failed")
VERSION = 1
Tell = Callable[[str], None]


class TaskApplied(Struct, frozen=True, kw_only=True):
    """What became of the result of a task."""

    index: int
    name: str
    state: State
    why: str | None = None  # it was not applied
    files: int = 0
    insertions: int = 0
    deletions: int = 0
    commits: tuple[str, ...] = ()  # that were made of it
    submodules: tuple[str, ...] = ()  # that are at another commit now; they are not checked out
    output: str | None = None  # of its check
    rounds: int = 0  # of a loop whose whole result it is


class Applied(Struct, frozen=True, kw_only=True):
    """What `apply` did, or would do if it `is_preview`."""

    run: str
    how: How
    is_preview: bool
    root: str  # the working tree or bare repository
    branch: str | None
    tasks: tuple[TaskApplied, ...]

    @property
    def ok(self) -> bool:
        """Whether every result is applied now."""
        return not any(t.state in FAILED for t in self.tasks)

    @property
    def applied(self) -> tuple[TaskApplied, ...]:
        return tuple(t for t in self.tasks if t.state == "applied")

    def to_json(self) -> dict[str, Any]:
        data: dict[str, Any] = to_builtins(self)
        return {"version": VERSION, "ok": self.ok, **data}


class CheckFailure(NamedTuple):
    """A check that did not pass."""

    message: str
    output: str  # the end of it


# Runs in this directory, for the task of this name. The file says what is running, as long as it
# does: what a killed clinvk left is ended by the next one.
Check = Callable[[Path, str, Path], CheckFailure | None]


class Ask(NamedTuple):
    """What to apply, and how."""

    tasks: Sequence[str] = ()  # names or numbers; empty: all that are done
    how: How = "stage"
    branch: str | None = None
    again: bool = False  # also what was applied already
    here: Path = Path()  # the current directory
    resolve: Callable[[Target, ConflictError], str] | None = None  # returns the tree without it
    check: Check | None = None  # each result is applied by itself, and taken back if it fails
    keep: bool = False  # the worktrees


def task_applied(git: Git, merged: Merged, commits: Sequence[str]) -> TaskApplied:
    """A result that was applied."""
    source = merged.source
    if merged.is_empty:
        is_empty = not changes(git, source.base, source.commit)
        why = "it changed no file" if is_empty else "what it changed is there already"
        return TaskApplied(index=source.index, name=source.name, state="unchanged", why=why,
                           rounds=source.rounds)  # fmt: skip
    files, insertions, deletions = count_changes(git, merged.before, merged.tree)
    return TaskApplied(
        index=source.index, name=source.name, state="applied", files=files,
        insertions=insertions, deletions=deletions, commits=tuple(commits), rounds=source.rounds,
        submodules=tuple(c.path for c in changes(git, merged.before, merged.tree)
                         if c.new and c.new.mode == GITLINK),
    )  # fmt: skip


def count_changes(git: Git, old: str, new: str) -> tuple[int, int, int]:
    """The files that differ, and the lines that were added and removed; binary files have none."""
    found = read_changes(git, old, new).values()
    return len(found), sum(added for added, _ in found), sum(removed for _, removed in found)


def read_changes(git: Git, old: str, new: str) -> dict[bytes, tuple[int, int]]:
    """The files that differ, with the lines that were added to each, and removed from it."""
    words = ("diff-tree", "-r", "-z", "--numstat", "--no-renames", old, new)
    lines = [line.split(b"\t", 2) for line in git.run(*words).stdout.split(b"\0") if line]
    return {path: (_number(added), _number(removed)) for added, removed, path in lines}


def _number(text: bytes) -> int:
    return int(text) if text.isdigit() else 0
