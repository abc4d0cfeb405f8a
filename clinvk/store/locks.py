"""Turns as locked files: one for each session, in a directory of their own. A turn is free the moment
that nothing runs it, since the kernel frees its lock."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from clinvk.disk.atomic import NoSpace
from clinvk.disk.lockfile import FileTurn, Locks
from clinvk.model.session import check_id
from clinvk.store.codec import is_running, left_behind


class TurnLocks(Locks):
    def turn(self, id_: str) -> FileTurn | None:
        return super().turn(check_id(id_))

    @contextmanager
    def idle(self, id_: str) -> Iterator[None]:
        """Inside, nobody runs a turn of the session; afterwards its lock is gone, since it is for
        who deletes the session. Raises `SessionError`: `LeftBehind` if a turn was killed."""
        try:
            turn = self.turn(id_)
        except NoSpace:
            if self.exists(id_):
                raise
            # There is no lock, so nobody has it. A turn that begins when there is room again has to
            # write before it starts anything, and finds the session gone.
            yield
            return
        if turn is None:
            raise is_running(id_)
        if turn.left:
            turn.abandon()
            raise left_behind(id_)
        try:
            yield
        finally:
            self.forget(id_)
            turn.close()
