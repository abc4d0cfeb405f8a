"""The git worktree that a conversation works in, if it works in one."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec.structs import replace

from clinvk.errors import ClinvkError
from clinvk.model.plan import Plan, Task, Worktree
from clinvk.model.result import Result
from clinvk.model.session import Session

if TYPE_CHECKING:
    from clinvk.worktrees.create import Place
    from clinvk.worktrees.result import Saved


class ConversationWorktree:
    """Its session is created in a worktree, by a run of one task, and further turns work there. Nothing
    removes the worktree while this holds it."""

    def __init__(self, home: Path, env: Mapping[str, str], asked: Worktree | None) -> None:
        """`asked` is what the user wants of the worktrees of this sitting; None: none, unless the
        session has one."""
        self._home = home
        self._env = env
        self._asked = asked
        self._of_session: Worktree | None = None
        self._cwd: str | None = None
        self._held: ExitStack | None = None
        self._commit: str | None = None  # the last known result
        self.place: Place | None = None  # it may no longer exist

    @property
    def wanted(self) -> Worktree | None:
        """What a new worktree is to be like; None if the conversation is to have none."""
        return self._asked or self._of_session

    @property
    def exists(self) -> bool:
        return self.place is not None and self.place.path.is_dir()

    def follow(self, session: Session | None) -> None:
        """The conversation goes on in this session; None: in a new one."""
        cwd = session.cwd if session is not None and session.started_in else None
        if cwd != self._cwd:
            self.release()
            self._cwd, self._of_session, self.place, self._commit = cwd, None, None, None
            if cwd is not None:
                # Only in a worktree.
                from clinvk.worktrees.attempt import find_place

                self.place = find_place(self._home, Path(cwd), self._env)
        self.hold()

    def hold(self) -> None:
        """Keep the worktree, if it exists."""
        place = self.place
        if place is None or self._held is not None or not place.path.is_dir():
            return
        # Only in a worktree.
        from clinvk.worktrees.in_use import keep_worktree

        self._of_session = place.wanted.as_written
        held = ExitStack()
        with suppress(ClinvkError):  # it is being removed
            held.enter_context(keep_worktree(self._home, place.path))
            self._held = held

    def release(self) -> None:
        if self._held is not None:
            self._held.close()
            self._held = None

    def save(self) -> Saved | None:
        """The result so far, with changes that the user made, in a ref when this returns; None if there
        is none. Raises `ClinvkError`."""
        if self.place is None:
            return None
        # Only in a worktree.
        from clinvk.worktrees.result import current_result

        return current_result(self.place)

    def diff(self, *options: str, paths: tuple[str, ...] = ()) -> str:
        """What `git diff` prints about the result so far; `paths` are as seen from the directory of the
        conversation. Raises `ClinvkError`."""
        saved, place = self.save(), self.place
        if saved is None or place is None or saved.result.commit == saved.result.base:
            return ""
        folder = place.wanted.workdir
        specs = (f":(top,literal){os.path.normpath(os.path.join(folder, p))}" for p in paths)
        words = ("diff", "--no-ext-diff", "--find-renames", *options)
        revisions = (saved.result.base, saved.result.commit)
        done = place.git.run(*words, *revisions, "--", *specs)
        return done.stdout.decode("utf-8", "replace")

    def files(self) -> list[str]:
        """The changed files, as seen from the directory of the conversation, also while a turn runs:
        nothing is saved or written. Raises `ClinvkError`."""
        place = self.place
        if place is None:
            return []
        # Only in a worktree.
        from clinvk.worktrees.record import read_record
        from clinvk.worktrees.result import changed_files

        record = read_record(place.path) if self.exists else None
        if record is None or record.state != "ready":
            return []
        names = changed_files(place, record)
        return [os.path.relpath(name, place.wanted.workdir or ".") for name in names]

    def task(self) -> tuple[str, ...]:
        """The words that name the task of the worktree in a command about its run; none for the steps
        of a chain, which share it. Raises `ClinvkError`."""
        # Only in a worktree.
        from clinvk.runs.folder import RunStore

        assert self.place is not None  # noqa: S101 - asked only then
        plan, directory = (
            RunStore(self._home).find(self.place.run).plan(),
            self.place.wanted.directory,
        )
        keys = [t.key for t in plan.tasks if t.worktree and t.worktree.directory == directory]
        return (keys[0],) if len(keys) == 1 else ()

    def describe_unapplied(self) -> str | None:
        """What was changed and neither applied nor dropped, with the command that applies it."""
        if self.place is None:
            return None
        # Only in a worktree.
        from clinvk.runs.folder import RunStore
        from clinvk.worktrees.results.reading import read_results

        with suppress(ClinvkError, OSError):
            saved = self.save()
            if saved is None or not saved.result.is_changed:
                return None
            results = read_results(RunStore(self._home).find(self.place.run))
            tasks = results.latest(self.place.git).tasks
            found = next((t for t in tasks if t.source.commit == saved.result.commit), None)
            if found is None or not (found.applied or found.dropped):
                words = " ".join((self.place.run, *self.task()))
                return f"{_count(saved.result.files)} changed in the worktree, not applied; to apply: clinvk runs apply {words}"
        return None

    def describe(self, result: Result) -> str | None:
        """What a turn has changed in the worktree, and what can be done about it; None if nothing."""
        found, before = result.worktree, self._commit
        if found is None:
            return None
        self._commit = found.commit
        if not found.is_changed or found.commit == before:
            return None
        check = ""
        if result.check is not None and result.check.command is not None:
            check = f", the check {'passed' if result.check.ok else 'failed'}"
        return (
            f"in the worktree so far: {_count(found.files)} changed (+{found.insertions:,} "
            f"-{found.deletions:,}){check}; /diff shows that, /apply takes it, /drop removes it"
        )


def check_possible(wanted: Worktree, directory: str, env: Mapping[str, str]) -> None:
    """Raise `ClinvkError` if there can be no such worktree, before a message is typed."""
    # Only with a worktree.
    from clinvk.worktrees.prepare import prepare_plan

    if wanted.dirty == "include":  # that writes a commit
        wanted = replace(wanted, dirty="tell")
    task = Task(name="prompt", prompt="-", worktree=wanted, cwd=directory)
    prepare_plan(Plan(kind="prompt", tasks=(task,)), env, lambda _: None)


def _count(files: int) -> str:
    return f"{files:,} file{'s' * (files != 1)}"
