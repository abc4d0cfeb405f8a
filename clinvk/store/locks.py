"""Turns as locked files, one per session, in a directory of their own. A turn is free as soon as
its process exits, since the kernel releases its lock."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from clinvk.disk.atomic import NoSpace
from clinvk.disk.lockfile import HeldLock, NamedLocks
from clinvk.model.session import check_id
from clinvk.store.codec import left_behind_error, running_error


class TurnLocks(NamedLocks):
    def acquire(self, session_id: str, *, create_folder: bool = True) -> HeldLock | None:
        return super().acquire(check_id(session_id), create_folder=create_folder)

    @contextmanager
    def idle(self, session_id: str) -> Iterator[None]:
        """A block during which no turn of the session can run, for deleting the session; its lock
        is deleted afterwards. Raises `SessionError`: `LeftBehind` if a turn was killed."""
        try:
            turn = self.acquire(session_id)
        except NoSpace:
            if self.exists(session_id):
                raise
            # There is no lock, so no process holds it. A turn that starts when there is room again
            # has to write before it starts anything, and finds the session deleted.
            yield
            return
        if turn is None:
            raise running_error(session_id)
        if turn.leftover:
            turn.abandon()
            raise left_behind_error(session_id)
        try:
            yield
        finally:
            self.delete(session_id)
            turn.close()
