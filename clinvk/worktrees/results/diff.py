"""What the tasks of a run have changed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from msgspec import Struct, to_builtins

from clinvk.runs.folder import RunFolder
from clinvk.worktrees import names
from clinvk.worktrees.git import Git, check_version, decode
from clinvk.worktrees.results.reading import (
    TaskResult,
    check_objects,
    find_repository,
    read_results,
)
from clinvk.worktrees.results.taken import Taken

VERSION = 1
STATUS = {
    "A": "added", "C": "copied", "D": "deleted", "M": "modified", "R": "renamed", "T": "type changed",
}  # fmt: skip


class FileChange(Struct, frozen=True, kw_only=True):
    """A changed file. A binary one has no lines."""

    path: str
    status: str  # added, copied, deleted, modified, renamed, type changed
    old_path: str | None = None  # of a renamed or copied file
    insertions: int | None = None
    deletions: int | None = None


class TaskDiff(Struct, frozen=True, kw_only=True):
    """What a task changed. `patch` is as `git apply` takes it; its text may have been read from
    files in another encoding than UTF-8, so that some characters were replaced."""

    index: int
    name: str
    state: str  # of the task
    base: str  # commits
    commit: str
    ref: str
    files: tuple[FileChange, ...] = ()
    patch: str = ""
    applied: Taken | None = None
    dropped: Taken | None = None

    @property
    def insertions(self) -> int:
        return sum(f.insertions or 0 for f in self.files)

    @property
    def deletions(self) -> int:
        return sum(f.deletions or 0 for f in self.files)

    def to_json(self) -> dict[str, Any]:
        data: dict[str, Any] = to_builtins(self)
        for name, event in (("applied", self.applied), ("dropped", self.dropped)):
            data[name] = event and event.to_json()
        return data | {"insertions": self.insertions, "deletions": self.deletions}


class Diffs:
    """The changes of some tasks of a run, read from the repository when they are asked for."""

    def __init__(
        self, folder: RunFolder, results: Sequence[TaskResult], places: Mapping[str, Git]
    ) -> None:
        """`places`: git in each of their repositories."""
        self._folder = folder
        self.results = list(results)
        self._places = places

    def git(self, result: TaskResult) -> Git:
        """Git in the repository of a result. Raises `SessionError` if that no longer has it."""
        git = self._places[result.worktree.repository]
        check_objects(git, [result], self._folder)
        return git

    def patch(self, result: TaskResult, *, binary: bool) -> bytes:
        """The patch. Without `binary`, it only says that binary files differ."""
        full = ("--binary", "--full-index") if binary else ()
        return self._run(result, "-p", *full)

    def stat(self, result: TaskResult, width: int) -> bytes:
        return self._run(result, f"--stat={width}", "--summary")

    def files(self, result: TaskResult) -> tuple[FileChange, ...]:
        names = self._run(result, "-z", "--name-status").split(b"\0")
        lines = self._run(result, "-z", "--numstat").split(b"\0")
        return tuple(_files(names, lines))

    def task(self, result: TaskResult, *, patch: bool) -> TaskDiff:
        text = self.patch(result, binary=True).decode("utf-8", "replace") if patch else ""
        return TaskDiff(
            index=result.index, name=result.name, state=result.outcome.state,
            base=result.source.base, commit=result.source.commit, ref=result.ref,
            files=self.files(result), patch=text, applied=result.applied, dropped=result.dropped,
        )  # fmt: skip

    def _run(self, result: TaskResult, *words: str) -> bytes:
        base, commit = result.source.base, result.source.commit
        return self.git(result).run("diff-tree", "-r", "-M", *words, base, commit).stdout


def read_diffs(
    folder: RunFolder, tasks: Sequence[str], env: Mapping[str, str], *, here: Path, home: Path
) -> Diffs:
    """The changes of these tasks; of all that have a result if none are named. Raises
    `UsageError`, `SessionError`."""
    check_version(env)
    results = read_results(folder)
    places: dict[str, Git] = {}
    for result in results.select(tasks):
        repository = result.worktree.repository
        if repository not in places:
            commits, own = [result.source.commit], names.folder_of(home)
            git = find_repository(result.worktree, commits, here, own).git
            places[repository] = git
            results = results.latest(git)
    return Diffs(folder, results.select(tasks), places)


def _files(names: Sequence[bytes], lines: Sequence[bytes]) -> Iterator[FileChange]:
    """The changed files, from what git lists with `-z`: a renamed file has two paths."""
    status, counts = iter(names), iter(lines)
    for letter in status:
        if not letter:
            return
        kind = letter[:1].decode()
        old = next(status) if kind in "RC" else None
        path = next(status)
        added, removed, rest = next(counts).split(b"\t", 2)
        if not rest:  # the two paths follow
            next(counts)
            next(counts)
        yield FileChange(
            path=decode(path), status=STATUS.get(kind, kind), old_path=None if old is None else decode(old),
            insertions=int(added) if added.isdigit() else None,
            deletions=int(removed) if removed.isdigit() else None,
        )  # fmt: skip
