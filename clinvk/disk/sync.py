"""Flush files to disk, many at once in little more time than one takes."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from clinvk.disk.opening import open_own

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

MAX_SEQUENTIAL = 4  # files that are flushed one by one
SYNC_THREADS = 8
OPEN = 32  # files of many that are open at a time while they are synced


def sync_files(paths: Iterable[str]) -> None:
    """Flush these files and their names to disk; missing files are skipped."""
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
                _sync_and_close(opened)  # too many are open, some of them here
                _open_into(opened, path)
        sync_together(opened, sorted({os.path.dirname(path) for path in paths}))
    finally:
        _close_all(opened)


def _open_into(opened: list[int], path: str) -> None:
    with suppress(FileNotFoundError, NotADirectoryError):
        opened.append(open_own(path, os.O_RDONLY))


def _sync_and_close(opened: list[int]) -> None:
    sync_together(opened)
    _close_all(opened)


def _close_all(opened: list[int]) -> None:
    while opened:
        os.close(opened.pop())


def sync_together(files: list[int], folders: list[str] | None = None) -> None:
    """Flush these open files to disk, then these directories. Writing all of them is started before
    any is waited for, and they are waited for concurrently: so thirty take as long as a few."""
    for fd in files:
        start_writeback(fd)
    if len(files) >= MAX_SEQUENTIAL:
        try:
            with holding_sync_threads():
                threads = _sync_threads.pool()
                list(threads.map(_sync_all, (files[i::SYNC_THREADS] for i in range(SYNC_THREADS))))
                list(threads.map(sync_folder, folders or ()))
            return
        except RuntimeError:  # no thread can be started
            pass
    for fd in files:
        os.fsync(fd)
    for folder in folders or ():
        sync_folder(folder)


def _sync_all(files: list[int]) -> None:
    for fd in files:
        os.fsync(fd)


@contextmanager
def holding_sync_threads() -> Iterator[None]:
    """A block during which the threads that wait for the disk are kept for reuse."""
    held = _sync_threads
    if held.pid != os.getpid():
        held = _start_over()
    with held.lock:
        held.users += 1
    try:
        yield
    finally:
        held.release()


class _SyncThreads:
    """Threads that wait for the disk; they end when the last holder releases them. A fork has
    none."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.lock = threading.Lock()
        self.users = 0
        self._pool: ThreadPoolExecutor | None = None

    def pool(self) -> ThreadPoolExecutor:
        from concurrent.futures import ThreadPoolExecutor  # only to flush many files

        with self.lock:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(SYNC_THREADS, "clinvk-sync")
            return self._pool

    def release(self) -> None:
        with self.lock:
            self.users -= 1
            pool = None if self.users else self._pool
            if pool is not None:
                self._pool = None
        if pool is not None and self.pid == os.getpid():
            pool.shutdown(wait=False)


_sync_threads = _SyncThreads()


def _start_over() -> _SyncThreads:
    """Those of a fork."""
    global _sync_threads  # noqa: PLW0603 - of a process there is one
    _sync_threads = _SyncThreads()
    return _sync_threads


def start_writeback(fd: int) -> None:
    """Let the disk start writing the file before it is waited for."""
    if hasattr(os, "posix_fadvise"):  # not on macOS
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)


def sync_folder(path: str | Path) -> None:
    """Flush a directory, so that the names in it are on disk."""
    with suppress(OSError):  # some file systems do not support it, and the file itself is written
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
