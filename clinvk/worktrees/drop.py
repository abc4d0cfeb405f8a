"""Drop results: remove their worktrees and refs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from msgspec import Struct, to_builtins

from clinvk.errors import SessionError
from clinvk.runs.folder import RunFolder
from clinvk.worktrees import names, taken
from clinvk.worktrees.apply import count_changes
from clinvk.worktrees.git import Git, check_version
from clinvk.worktrees.results import TaskResult, find_repository, read_results

VERSION = 1


class Dropped(Struct, frozen=True, kw_only=True):
    """A result that was dropped, or that would be."""

    index: int
    name: str
    commit: str
    applied: bool  # so that nothing is lost
    files: int | None  # None: the repository is gone
    insertions: int = 0
    deletions: int = 0

    @property
    def undo(self) -> str:
        """The command that brings the result back, until git removes it (after two weeks)."""
        return f"git branch NAME {self.commit}"

    def to_json(self) -> dict[str, Any]:
        data: dict[str, Any] = to_builtins(self)
        return data | {"undo": self.undo}


class Drop:
    """Results that will be dropped: look at `dropped`, then call `run`."""

    def __init__(
        self,
        folder: RunFolder,
        tasks: Sequence[str],
        env: Mapping[str, str],
        *,
        here: Path,
        own: Path,
    ) -> None:
        """Raises `UsageError`, `SessionError`."""
        check_version(env)
        self.folder = folder
        self.results = read_results(folder)
        self._here, self._own = here, own
        self.chosen = [r for r in self.results.select(tasks) if tasks or not r.dropped]
        self._git = {r.worktree.repository: self._find_git(r) for r in self.chosen}
        self.dropped = [self._describe(result) for result in self.chosen]

    def _find_git(self, result: TaskResult) -> Git | None:
        """Git in its repository; None if that is gone, which leaves nothing to remove there."""
        try:
            commits = [result.source.commit]
            return find_repository(result.worktree, commits, self._here, self._own).git
        except SessionError:
            return None

    def _describe(self, result: TaskResult) -> Dropped:
        git, source = self._git[result.worktree.repository], result.source
        counts: tuple[int | None, int, int] = (None, 0, 0)
        if git is not None and git.commit_of(source.commit) and git.commit_of(source.base):
            counts = count_changes(git, source.base, source.commit)
        return Dropped(
            index=result.index, name=result.name, commit=source.commit,
            applied=result.applied is not None, files=counts[0], insertions=counts[1],
            deletions=counts[2],
        )  # fmt: skip

    def run(self) -> list[Dropped]:
        """Drop them. Raises `SessionError` if the run is in progress, or has left something
        running."""
        turn = self.folder.lock()
        if turn.leftover:
            turn.abandon()
            raise SessionError(
                f"run {self.folder.id} was interrupted, and may have left something running",
                f"stop that first: clinvk runs cancel {self.folder.id}",
            )
        try:
            taken.record(taken.about(self.folder, [_event(r) for r in self.chosen]))
            for result in self.chosen:
                self._remove(result)
        finally:
            turn.close()
        return self.dropped

    def _remove(self, result: TaskResult) -> None:
        git = self._git[result.worktree.repository]
        if git is None:
            return
        if self._is_unused(result):
            _remove_worktree(git, result.path)
        prefix = names.refs_of_task(self.folder.id, result.worktree.slug)
        listed = git.text("for-each-ref", "--format=delete %(refname) %(objectname)", prefix)
        if listed:
            git.run("update-ref", "--stdin", data=f"{listed}\n".encode())

    def _is_unused(self, result: TaskResult) -> bool:
        """Whether no other task needs the worktree: the steps of a chain share one."""
        indexes = {r.index for r in self.chosen}
        gone = {r.index for r in self.results.tasks if r.dropped or r.index in indexes}
        return all(r.index in gone for r in self.results.tasks if r.path == result.path)


def _event(result: TaskResult) -> dict[str, Any]:
    return {"task": result.index, "event": "dropped", "result": result.source.commit}


def _remove_worktree(git: Git, path: Path) -> None:
    if path.exists():
        git.run("worktree", "remove", "--force", "--force", str(path))
