"""The files of a result whose worktree is not on this machine, for as long as something looks at them."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from msgspec.structs import replace

from clinvk.errors import ClinvkError
from clinvk.model.plan import Worktree
from clinvk.model.result import WorktreeResult
from clinvk.process.threads import in_thread
from clinvk.worktrees.attempt import stoppable
from clinvk.worktrees.create import Place, create_worktree, discard_worktree
from clinvk.worktrees.record import read_record
from clinvk.worktrees.setup import run_setup

# Of the directories that hold them. No run has such an id, so `runs clean` deletes what a killed process
# has left.
PREFIX = "score-"

Tell = Callable[[str], None]


@asynccontextmanager
async def files_of(
    made: WorktreeResult, wanted: Worktree, home: Path, env: Mapping[str, str], tell: Tell
) -> AsyncIterator[Path]:
    """The task's directory with its result: in its worktree, or in a new one that is set up as that was,
    and deleted at the end. Raises `ClinvkError`."""
    own = Path(made.path, wanted.workdir)
    if not wanted.remote and os.path.isdir(own):  # noqa: ASYNC240 - once, and on a local disk
        yield own
        return
    # 45 ms, and needed only once something runs.
    import anyio

    place = _temporary(made, wanted, home, env)
    told: list[str] = []
    try:
        await stoppable(lambda: create_worktree(place, told.append))
        for message in told:
            tell(message)
        cwd = place.path / wanted.workdir
        if wanted.setup:
            await run_setup(wanted.setup, cwd, env)
        yield cwd
    finally:
        with anyio.CancelScope(shield=True):
            await in_thread(lambda: _remove(place))


def _temporary(made: WorktreeResult, wanted: Worktree, home: Path, env: Mapping[str, str]) -> Place:
    # On the machine of the user, who has a working tree, it is created as others there: with ignored files.
    remote = "" if wanted.root else wanted.remote
    local = replace(wanted, commit=made.commit, remote=remote, directory="files")
    return Place(home, f"{PREFIX}{os.urandom(8).hex()}", local, env)


def _remove(place: Place) -> None:
    """Delete it, without a look at what is in it: its commit is in a ref."""
    record = read_record(place.path)
    if record is None:  # it was not created
        return
    with suppress(ClinvkError, OSError):  # `runs clean` tries again
        discard_worktree(place, record)
