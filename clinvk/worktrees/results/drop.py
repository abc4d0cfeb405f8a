"""Drop results: remove their worktrees and refs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from clinvk.errors import ClinvkError, SessionError
from clinvk.runs.folder import RunFolder
from clinvk.worktrees import names
from clinvk.worktrees.create import Place, discard_worktree
from clinvk.worktrees.git import Git, check_version
from clinvk.worktrees.in_use import check_unused, hold_unused
from clinvk.worktrees.record import read_record
from clinvk.worktrees.remove import delete_refs
from clinvk.worktrees.result import save_result
from clinvk.worktrees.results import taken
from clinvk.worktrees.results.applied import read_changes
from clinvk.worktrees.results.dropped import Dropped, DroppedTask, by_task
from clinvk.worktrees.results.reading import TaskResult, find_repository, read_results
from clinvk.worktrees.results.removal import is_settled

VERSION = 1


class Drop:
    """Results that will be dropped: look at `dropped`, then call `run`."""

    def __init__(
        self,
        folder: RunFolder,
        tasks: Sequence[str],
        env: Mapping[str, str],
        *,
        here: Path,
        home: Path,
    ) -> None:
        """Raises `UsageError`, `SessionError`."""
        check_version(env)
        self.folder = folder
        self.results = read_results(folder)
        self._here, self._home, self._env = here, home, env
        chosen = self._select(tasks)
        self._git = {r.worktree.repository: self._find_git(r) for r in chosen}
        for git in filter(None, self._git.values()):
            self.results = self.results.latest(git)
        self.chosen = [r for r in self._select(tasks) if tasks or not r.dropped]
        self._files: dict[int, frozenset[bytes]] = {}  # that each of them changed
        self.dropped = [self._describe(result) for result in self.chosen]

    def by_task(self) -> list[DroppedTask]:
        """What is dropped, with one line for each task as it was written."""
        files = {d.index: self._files[d.index] for d in self.dropped}
        return by_task(self.results.plan, self.results.run.results, self.dropped, files)

    def _select(self, names: Sequence[str]) -> list[TaskResult]:
        """The results of these tasks; if none are named, all of them, each once."""
        if names:
            return self.results.select(names)
        return [r for r in self.results.tasks if not self.results.plan.tasks[r.index].decides]

    def run(self) -> list[Dropped]:
        """Drop them. Raises `SessionError` if the run is in progress or has left something running,
        or if a turn of a session runs in one of the worktrees."""
        turn = self.folder.lock()
        if turn.leftover:
            turn.abandon()
            raise SessionError(
                f"run {self.folder.id} was interrupted, and may have left something running",
                f"stop that first: clinvk runs cancel {self.folder.id}{self.folder.where}",
            )
        try:
            for result in self.chosen:
                wanted = result.worktree
                check_unused(names.path_of(self._home, self.folder.id, wanted.directory))
            # Recorded first: a result that is half removed is not applied, but dropped again.
            taken.record(taken.about(self.folder, [_event(r) for r in self.chosen]))
            # From the last one: what is left in a worktree that steps share is part of its result.
            pairs = [*zip(self.chosen, self.dropped, strict=True)][::-1]
            self.dropped = [self._remove(result, about) for result, about in pairs][::-1]
        finally:
            turn.close()
        return self.dropped

    def _find_git(self, result: TaskResult) -> Git | None:
        """Git in its repository; None if that is gone, and nothing can be removed there."""
        try:
            commits, own = [result.source.commit], names.folder_of(self._home)
            return find_repository(result.worktree, commits, self._here, own).git
        except SessionError:
            return None

    def _describe(self, result: TaskResult, commit: str | None = None) -> Dropped:
        """What is lost with a result, or with this later commit of it."""
        git, source = self._git[result.worktree.repository], result.source
        source = source if commit is None else replace(source, commit=commit)
        files, insertions, deletions = None, 0, 0
        self._files[result.index] = frozenset()
        if git is not None and git.commit_of(source.commit) and git.commit_of(source.base):
            found = read_changes(git, source.base, source.commit)
            self._files[result.index] = frozenset(found)
            files = len(found)
            insertions = sum(added for added, _ in found.values())
            deletions = sum(removed for _, removed in found.values())
        return Dropped(
            index=result.index, name=result.name, commit=source.commit,
            applied=result.applied is not None, files=files, insertions=insertions,
            deletions=deletions,
        )  # fmt: skip

    def _remove(self, result: TaskResult, about: Dropped) -> Dropped:
        git = self._git[result.worktree.repository]
        place = Place(self._home, self.folder.id, result.worktree, self._env)
        if git is not None:
            place.repository = Path(
                git.text("rev-parse", "--path-format=absolute", "--git-common-dir")
            )
        # The worktree of a cluster is on another machine, or that of a worker on this one.
        record = None if result.worktree.remote else read_record(place.path)
        dropping = {i for r in self.chosen for i in r.tasks}
        if record is not None and is_settled(self.results, result.worktree.directory, dropping):
            with hold_unused(place.path):
                if record.state == "ready":
                    # What is in it now may be more than the result. Without it, the result is
                    # dropped all the same: the disk may be full.
                    with suppress(ClinvkError, OSError):
                        later = save_result(place, record).result.commit
                        about = about if later == about.commit else self._describe(result, later)
                discard_worktree(place, record)
        if git is not None:
            delete_refs(place, names.refs_of_task(place.run, place.wanted.slug))
        return about


def _event(result: TaskResult) -> dict[str, Any]:
    return {"task": result.index, "event": "dropped", "result": result.source.commit}
