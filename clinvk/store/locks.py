"""Turns as locked files: one for each session, in a directory of their own. A turn is free the moment
that nothing runs it, since the kernel frees its lock."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from clinvk.disk.atomic import NoSpace
from clinvk.disk.lockfile import HeldLock, NamedLocks
from clinvk.model.session import check_id
from clinvk.store.codec import left_behind_error, running_error


class TurnLocks(NamedLocks):
    def acquire(self, session_id: str) -> HeldLock | None:
        return super().acquire(check_id(session_id))

    @contextmanager
    def idle(self, session_id: str) -> Iterator[None]:
        """Inside, nobody runs a turn of the session; afterwards its lock is gone, since it is for
        who deletes the session. Raises `SessionError`: `LeftBehind` if a turn was killed."""
        try:
            turn = self.acquire(session_id)
        except NoSpace:
            if self.exists(session_id):
                raise
            # There is no lock, so nobody has it. A turn that begins when there is room again has to
            # write before it starts anything, and finds the session gone.
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
