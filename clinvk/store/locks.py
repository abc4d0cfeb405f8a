"""Turns as locked files: one a session, in a folder of their own.

The kernel lets go of such a lock when its process dies, however it dies; so a turn is free the
moment that nobody runs it.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from clinvk.disk.atomic import NoSpace, open_own
from clinvk.disk.lockfile import FileTurn, facts_in, open_lock, same_file, try_lock
from clinvk.model.session import check_id
from clinvk.store.codec import is_running, left_behind


class Locks:
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def turn(self, id_: str) -> FileTurn | None:
        path = f"{self.folder}/{check_id(id_)}"
        while True:
            fd = open_lock(path)
            if not try_lock(fd, path):
                os.close(fd)
                return None
            if same_file(fd, path):  # else it was deleted while we waited
                return FileTurn(fd, path)
            os.close(fd)

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

    def running(self, id_: str) -> dict[str, Any] | None:
        try:
            fd = open_own(self.folder / id_, os.O_RDONLY)
        except OSError:
            return None
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return facts_in(fd) or {}
        except OSError:
            return None
        finally:
            os.close(fd)
        return None

    def all_running(self) -> list[str]:
        """Ids of the sessions that have a turn now: those whose lock says so, and is held."""
        try:
            with os.scandir(self.folder) as entries:
                ids = [e.name for e in entries]
        except FileNotFoundError:
            return []
        return [id_ for id_ in ids if self._is_noted(id_) and self.running(id_) is not None]

    def is_idle(self, id_: str) -> bool:
        """Whether no turn runs, and none that was killed has left something to end."""
        return not self._is_noted(id_) and self.running(id_) is None

    def _is_noted(self, id_: str) -> bool:
        try:
            return (self.folder / id_).stat().st_size > 0
        except OSError:  # it has ended meanwhile
            return False

    def exists(self, id_: str) -> bool:
        """Whether a turn was ever begun, or is being begun now."""
        return (self.folder / id_).exists()

    def older_than(self, moment: float) -> list[str]:
        """Ids whose turns began or ended before that, in seconds since 1970."""
        try:
            with os.scandir(self.folder) as entries:
                return [e.name for e in entries if e.stat().st_mtime < moment]
        except FileNotFoundError:
            return []

    def forget(self, id_: str) -> None:
        """Take the file away; call it while its turn is held, or nobody can want one."""
        with suppress(OSError):
            os.unlink(self.folder / id_)
