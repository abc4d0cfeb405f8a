"""Locked files. The kernel releases a lock when its process exits, however it exits."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from clinvk.disk.atomic import file_error, make_folder
from clinvk.disk.closing import Closing
from clinvk.disk.opening import open_own
from clinvk.disk.waiting import WouldWait, check_may_block, lock_timeout
from clinvk.errors import SessionError
from clinvk.process.threads import Stopped, stop_of_thread

NOTE = 65_536  # bytes
POLL_INTERVAL = 0.002  # seconds between attempts to lock a file that another process holds
LOCKS_UNSUPPORTED = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL)


class HeldLock(Closing):
    """An open, locked file; `close` empties and unlocks it."""

    def __init__(self, fd: int, path: str | Path) -> None:
        self._fd = fd
        self.location = f"the file {path}"
        self.leftover = read_facts(fd)

    def note(self, facts: dict[str, Any]) -> None:
        data = json.dumps(facts).encode() if facts else b""
        with suppress(OSError):  # on a full disk only the next clinvk's clean-up is lost
            if data:
                os.pwrite(self._fd, data, 0)
            os.ftruncate(self._fd, len(data))

    def close(self) -> None:
        if self._fd >= 0:
            self.note({})
            self.abandon()

    def abandon(self) -> None:
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)


class NamedLocks:
    """Locks by name, each a file of the directory that holds the note of its holder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def acquire(self, session_id: str, *, create_folder: bool = True) -> HeldLock | None:
        """The lock; None if another process holds it. Without `create_folder`, raises
        `FileNotFoundError` if the directory does not exist. Raises `SessionError`."""
        path = f"{self.folder}/{session_id}"
        while True:
            fd = open_lock(path, create_folder=create_folder)
            try:
                locked = try_lock(fd, path)
            except WouldWait:
                os.close(fd)
                raise
            if not locked:
                os.close(fd)
                return None
            if is_same_file(fd, path):  # otherwise it was deleted meanwhile
                return HeldLock(fd, path)
            os.close(fd)

    def running_turn(self, session_id: str) -> dict[str, Any] | None:
        try:
            fd = open_own(self.folder / session_id, os.O_RDONLY)
        except OSError:
            return None
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return read_facts(fd) or {}
        except OSError:
            return None
        finally:
            os.close(fd)
        return None

    def running_ids(self) -> list[str]:
        """Ids of the sessions with a running turn: those whose lock has a note, and is held."""
        try:
            with os.scandir(self.folder) as entries:
                ids = [e.name for e in entries]
        except FileNotFoundError:
            return []
        return [id_ for id_ in ids if self._has_facts(id_) and self.running_turn(id_) is not None]

    def is_idle(self, session_id: str) -> bool:
        """Whether no turn is running, and no killed one has left something to stop."""
        return not self._has_facts(session_id) and self.running_turn(session_id) is None

    def _has_facts(self, session_id: str) -> bool:
        try:
            return (self.folder / session_id).stat().st_size > 0
        except OSError:  # it has been deleted meanwhile
            return False

    def exists(self, session_id: str) -> bool:
        """Whether a turn was ever started, or is being started now."""
        return os.path.exists(f"{self.folder}/{session_id}")

    def older_than(self, moment: float) -> list[str]:
        """Ids whose turns started or ended before that time, in seconds since 1970."""
        try:
            with os.scandir(self.folder) as entries:
                return [e.name for e in entries if e.stat().st_mtime < moment]
        except FileNotFoundError:
            return []

    def delete(self, session_id: str) -> None:
        """Delete the file; call it while its turn is held, or cannot be requested."""
        with suppress(OSError):
            os.unlink(self.folder / session_id)


@contextmanager
def hold_lock(path: str | Path, *, timeout: float | None = None) -> Iterator[int]:
    """The lock on a file that is never deleted, as its open descriptor; others wait. `timeout` is
    in seconds; None: as long as the call may block. Raises `SessionError`; `WouldWait` if another
    process still holds the lock after that time."""
    fd = open_lock(path)
    try:
        try:
            _wait_for_lock(fd, path, lock_timeout() if timeout is None else timeout)
        except OSError as error:
            raise locks_unsupported_error(os.path.dirname(path), error) from error
        yield fd
    finally:
        os.close(fd)


def _wait_for_lock(fd: int, path: str | Path, timeout: float | None) -> None:
    stop = stop_of_thread.get()
    if timeout is None and (stop is None or stop.is_set):  # set: it is part of putting things back
        fcntl.flock(fd, fcntl.LOCK_EX)
        return
    deadline = time.monotonic() + (float("inf") if timeout is None else timeout)
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise WouldWait(
                    SessionError(
                        f"another process holds the lock on {path}",
                        "stop that process, or wait until it exits",
                    ),
                    is_held=True,
                ) from None
            time.sleep(POLL_INTERVAL)
            if timeout is None and stop is not None and stop.is_set:
                raise Stopped from None
        else:
            return


def open_lock(path: str | Path, *, create_folder: bool = True) -> int:
    flags = os.O_RDWR | os.O_CREAT
    try:
        try:
            return open_own(path, flags)
        except FileNotFoundError:
            if not create_folder:
                raise
            make_folder(os.path.dirname(path))
            return open_own(path, flags)
    except OSError as error:
        if isinstance(error, FileNotFoundError) and not create_folder:
            raise
        raise file_error("write", path, error) from error


def try_lock(fd: int, path: str | Path) -> bool:
    """Try several times, since a check whether a turn is running holds the lock briefly."""
    for pause in (0.0, 0.002, 0.005):
        if pause:  # even 0 is a pause on a busy machine
            check_may_block()
            time.sleep(pause)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            continue
        except OSError as error:
            os.close(fd)
            raise locks_unsupported_error(path, error) from error
        return True
    return False


def is_same_file(fd: int, path: str | Path) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), os.stat(path))
    except FileNotFoundError:
        return False


def read_facts(fd: int) -> dict[str, Any] | None:
    """The note in a lock file, unchecked."""
    try:
        data = os.pread(fd, NOTE, 0)
    except OSError:
        return None
    if not data:
        return None
    # 5 ms, and most locks hold no note.
    from clinvk.process import note as turn_note

    return turn_note.decode(data)


def locks_unsupported_error(path: str | Path, error: OSError) -> SessionError:
    if error.errno in LOCKS_UNSUPPORTED:
        return SessionError(
            f"{path}: this file system does not support locks",
            "set CLINVK_HOME to a directory on a local disk",
        )
    return file_error("lock", path, error)
