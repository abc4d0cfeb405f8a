"""Files that survive what happens to them, and locks."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import time
from collections.abc import Iterable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clinvk import turn_note
from clinvk.errors import SessionError

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

FEW = 4  # files that are waited for one by one
WAITERS = 8
OPEN = 32  # files of many that are open at a time while they are synced
NOTE = 65_536  # bytes
NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL)


class FileTurn:
    """An open, locked file; `close` empties it and lets go."""

    def __init__(self, fd: int, path: str | Path) -> None:
        self._fd = fd
        self.kept_in = f"the file {path}"
        self.left = facts_in(fd)

    def note(self, facts: dict[str, Any]) -> None:
        data = json.dumps(facts).encode() if facts else b""
        with suppress(OSError):  # on a full disk only the next clinvk's clean-up is lost
            if data:
                os.pwrite(self._fd, data, 0)
            os.ftruncate(self._fd, len(data))

    def close(self) -> None:
        self.note({})
        os.close(self._fd)

    def abandon(self) -> None:
        os.close(self._fd)


def replace_file(path: str | Path, data: bytes, *, durable: bool) -> None:
    """The file holds either what it held or `data`, whatever happens; after a power cut too,
    where `durable`."""
    folder, name = os.path.split(path)
    temporary = f"{folder}/.{name}.{os.getpid()}"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        try:
            write_all(fd, data)
            if durable:
                os.fsync(fd)
        finally:
            os.close(fd)
        os.replace(temporary, path)
        if durable:
            sync_folder(folder)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise


def write_file(path: str, data: bytes) -> None:
    """A file that nobody reads yet; gone again where there is no room for all of it."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        write_all(fd, data)
    except OSError:
        os.unlink(path)
        raise
    finally:
        os.close(fd)


def sync_files(paths: Iterable[str]) -> None:
    """Put what is in these files on disk, and their names; one that is not there is passed over."""
    paths = list(paths)
    opened: list[int] = []
    try:
        for path in paths:
            if len(opened) == OPEN:
                _sync_and_close(opened)
            try:
                _open_into(opened, path)
            except OSError as error:
                if error.errno not in (errno.EMFILE, errno.ENFILE) or not opened:
                    raise
                _sync_and_close(opened)  # too many are open: some of them are ours
                _open_into(opened, path)
        sync_together(opened, sorted({os.path.dirname(path) for path in paths}))
    finally:
        _close_all(opened)


def _open_into(opened: list[int], path: str) -> None:
    with suppress(FileNotFoundError, NotADirectoryError):
        opened.append(os.open(path, os.O_RDONLY | os.O_CLOEXEC))


def _sync_and_close(opened: list[int]) -> None:
    sync_together(opened)
    _close_all(opened)


def _close_all(opened: list[int]) -> None:
    while opened:
        os.close(opened.pop())


def sync_together(files: list[int], folders: list[str] | None = None) -> None:
    """Put these open files on disk, then these folders. The disk is told of all of them before any
    is waited for, and they are waited for side by side: so it takes as long for thirty as for a
    few."""
    for fd in files:
        write_soon(fd)
    if len(files) >= FEW:
        try:
            list(_waiters(os.getpid()).map(os.fsync, files))
            list(_waiters(os.getpid()).map(sync_folder, folders or ()))
            return
        except RuntimeError:  # no thread can be started
            pass
    for fd in files:
        os.fsync(fd)
    for folder in folders or ():
        sync_folder(folder)


@cache
def _waiters(_pid: int) -> ThreadPoolExecutor:
    """Threads, which a fork does not have."""
    from concurrent.futures import ThreadPoolExecutor  # only who settles many has a use for it

    return ThreadPoolExecutor(WAITERS, "clinvk-sync")


def write_soon(fd: int) -> None:
    """Let the disk begin with what is in the file, before somebody waits for it."""
    if hasattr(os, "posix_fadvise"):  # not on macOS
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)


def sync_folder(path: str | Path) -> None:
    """The names in a folder are on disk only when it is synced itself."""
    with suppress(OSError):  # some file systems cannot, and the file is written by now
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def append_file(
    path: str | Path, data: bytes, *, is_new: bool = False, durable: bool = True
) -> None:
    """All of `data` behind what is there, on disk where `durable`; or nothing of it. A torn last
    line, left by a writer that was killed, gets its end first, so that it spoils no other line.
    Where the file `is_new`, its name may not be on disk yet."""
    is_new = is_new or (durable and not os.path.exists(path))
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        end = os.lseek(fd, 0, os.SEEK_END)
        if end and os.pread(fd, 1, end - 1) != b"\n":
            data = b"\n" + data
        try:
            write_all(fd, data)
            if durable:
                os.fsync(fd)
                if is_new:
                    sync_folder(os.path.dirname(path))
        except OSError:
            os.ftruncate(fd, end)
            raise
    finally:
        os.close(fd)


def write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def make_folder(path: str | Path) -> None:
    """The folder and those above it, each as private as the store has to be."""
    if not os.path.isdir(path):
        path = Path(path)
        if not path.parent.exists():
            make_folder(path.parent)
        path.mkdir(mode=0o700, exist_ok=True)


def try_lock(fd: int, path: str | Path) -> bool:
    """Several tries, since who only asks whether a turn runs holds the lock for a moment."""
    for pause in (0.0, 0.002, 0.005):
        if pause:  # even none is a pause on a busy machine
            time.sleep(pause)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            continue
        except OSError as error:
            os.close(fd)
            raise no_locks(path, error) from error
        return True
    return False


def same_file(fd: int, path: str | Path) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), os.stat(path))
    except FileNotFoundError:
        return False


def facts_in(fd: int) -> dict[str, Any] | None:
    """The note in a lock file, unchecked."""
    try:
        return turn_note.decode(os.pread(fd, NOTE, 0))
    except OSError:
        return None


def cannot(verb: str, path: str | Path, error: OSError) -> SessionError:
    hints = {
        errno.ENOSPC: "make room on that disk; nothing that was stored before is lost",
        errno.EDQUOT: "make room on that disk; nothing that was stored before is lost",
        errno.EROFS: "set CLINVK_HOME to a folder that can be written, or use --ephemeral",
        errno.EACCES: "set CLINVK_HOME to a folder that can be written, or use --ephemeral",
        errno.EPERM: "set CLINVK_HOME to a folder that can be written, or use --ephemeral",
    }
    hint = hints.get(error.errno or 0, "set CLINVK_HOME to a folder that can be used")
    return SessionError(f"cannot {verb} {path}: {error.strerror}", hint)


def no_locks(path: str | Path, error: OSError) -> SessionError:
    if error.errno in NO_LOCKS:
        return SessionError(
            f"{path}: this file system has no locks", "set CLINVK_HOME to a folder on a local disk"
        )
    return cannot("lock", path, error)
