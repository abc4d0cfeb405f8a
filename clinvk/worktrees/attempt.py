"""An attempt at a task in its worktree: created before, and committed to a ref afterwards."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from subprocess import Popen
from typing import TypeVar

from msgspec.structs import replace

from clinvk.errors import ClinvkError
from clinvk.model.plan import Worktree
from clinvk.model.result import Failure, Result, WorktreeResult
from clinvk.process.threads import in_thread
from clinvk.runs.folder import RunStore
from clinvk.worktrees import names
from clinvk.worktrees.create import (
    Place,
    attach_worktree,
    create_worktree,
    discard_worktree,
    finish_worktree,
)
from clinvk.worktrees.git import kill, running
from clinvk.worktrees.record import Record, is_of_worker, read_record
from clinvk.worktrees.result import save_result
from clinvk.worktrees.setup import run_setup
from clinvk.worktrees.steps import begin_step, end_step, result_so_far

Tell = Callable[[str], None]
T = TypeVar("T")


class AttemptInWorktree:
    """`await begin()`, run the attempt in `cwd`, then `await end()`."""

    def __init__(
        self,
        home: Path,
        run: str,
        wanted: Worktree,
        attempt: int,
        *,
        env: Mapping[str, str],
        notify: Tell,
        copied: tuple[str, ...] = (),
        start: str | None = None,
        tip: str | None = None,
    ) -> None:
        """`env` is that of the programs that are started; `copied` are the ignored files of the
        backend, below the root and the task's directory. `start` is the commit that the worktree
        begins with; None: the one that was recorded when the run started. `tip` is the result so far,
        if that is from another machine."""
        self.place = Place(home, run, wanted, env)
        self.attempt = attempt
        self.notify = notify
        folders = dict.fromkeys(["", wanted.workdir and f"{wanted.workdir}/"])
        self._copied = tuple(f"/{folder}{pattern}" for folder in folders for pattern in copied)
        self._start = start
        self._tip = tip
        self._record: Record | None = None

    @property
    def cwd(self) -> Path:
        """The task's directory in the worktree."""
        return self.place.path / self.place.wanted.workdir

    @property
    def started_in(self) -> Path:
        """The directory that corresponds to it in the user's checkout."""
        return Path(os.path.join(self.place.wanted.root, self.place.wanted.workdir))

    async def begin(self) -> None:
        """Create the worktree, or find that of an earlier attempt. Raises `ClinvkError`."""
        told: list[str] = []
        record = await stoppable(lambda: self._create(told.append))
        for message in told:
            self.notify(message)
        if record.state == "creating":
            if self.place.wanted.setup:
                await run_setup(self.place.wanted.setup, self.cwd, self.place.env)
            record = await in_thread(lambda: finish_worktree(self.place, record))
        self._record = await in_thread(lambda: begin_step(self.place, record, self._start))

    def _create(self, tell: Tell) -> Record:
        place = self.place
        self._set_aside()
        start = self._tip
        if start is None and not place.wanted.remote and place.repository.is_dir():
            start = result_so_far(place.git, place.run, place.wanted, self._start)
        return create_worktree(place, tell, copied=self._copied, start=start or self._start)

    def _set_aside(self) -> None:
        """Save and remove a worktree of the same task that belongs to a copy of its repository: a worker
        of a cluster on this machine has left it, or this is that worker. Raises `ClinvkError`."""
        place = self.place
        record = read_record(place.path)
        if record is None or record.state != "ready" or not place.path.is_dir():
            return
        for_worker = place.repository.is_relative_to(names.caches_of(place.home))
        if is_of_worker(record, place.home) != for_worker:
            other = Place(place.home, place.run, place.wanted, place.env)
            save_result(other, attach_worktree(other, record), counts=False)
            discard_worktree(other, record)

    async def end(self) -> WorktreeResult:
        """The result of the attempt; it is in a ref when this returns. Raises `ClinvkError`."""
        record = self._record
        assert record is not None  # noqa: S101 - `begin` comes first

        def save() -> tuple[WorktreeResult, tuple[str, ...]]:
            saved = save_result(self.place, record, self.attempt)
            end_step(self.place, record, saved.result.commit)
            return saved.result, saved.notices

        result, notices = await in_thread(save)
        for message in notices:
            self.notify(message)
        return result


async def stoppable(work: Callable[[], T]) -> T:
    """`work()` in a thread; cancelling this kills the git command that it is waiting for."""
    # 45 ms, and needed only once something runs.
    import anyio
    from anyio.lowlevel import checkpoint

    held: set[Popen[bytes]] = set()
    token = running.set(held)

    async def kill_if_cancelled() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            for process in list(held):
                kill(process)

    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(kill_if_cancelled)
            try:
                return await in_thread(work)
            except ClinvkError:
                await checkpoint()  # it was killed by the cancellation, which is raised here
                raise
            finally:
                tasks.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        raise group.exceptions[0] from None
    finally:
        running.reset(token)
    raise AssertionError("unreachable: the block returns or raises")


async def with_worktree(result: Result, inside: AttemptInWorktree) -> Result:
    """The result of the turn with that in the worktree. If the latter cannot be saved, the attempt has
    failed; nothing is lost, since the worktree stays."""
    return await _with_changes(result, inside.end, inside.place.path, inside.notify)


async def save_session_result(
    result: Result, notify: Tell, *, home: Path, cwd: Path, env: Mapping[str, str]
) -> Result:
    """The result of a further turn of a session in a worktree, in the directory `cwd`, with what has
    changed there: as of another attempt at the task."""
    place = await in_thread(lambda: find_place(home, cwd, env))
    record = read_record(place.path) if place else None
    if place is None or record is None or record.state != "ready":
        return result
    there, known = place, record

    async def end() -> WorktreeResult:
        def save() -> WorktreeResult:
            found = attach_worktree(there, known)
            saved = save_result(there, found)
            end_step(there, found, saved.result.commit)
            return saved.result

        return await in_thread(save)

    return await _with_changes(result, end, there.path, notify)


async def _with_changes(
    result: Result, end: Callable[[], Awaitable[WorktreeResult]], path: Path, notify: Tell
) -> Result:
    # 45 ms, and needed only once something runs.
    import anyio

    with anyio.CancelScope(shield=True):
        try:
            return replace(result, worktree=await end())
        except ClinvkError as error:
            message = f"the changes in {path} were not committed: {error.message}"
            if result.error is not None:
                notify(message)
                return result
            failure = Failure("error", message, error.hint)
            return replace(result, ok=False, error=failure, exit_code=error.exit_code)
    raise AssertionError("unreachable: the scope is never cancelled")


def find_place(home: Path, cwd: Path, env: Mapping[str, str]) -> Place | None:
    """The worktree that a directory is in; None if it is in none of a known run."""
    parts = Path(os.path.relpath(cwd, names.folder_of(home))).parts
    if len(parts) < 2 or parts[0] == "..":
        return None
    try:
        plan = RunStore(home).find(parts[0]).plan()
    except ClinvkError:
        return None
    found = [t.worktree for t in plan.tasks if t.worktree and t.worktree.directory == parts[1]]
    return Place(home, parts[0], found[-1], env) if found else None
