"""What a running task needs, a worktree or a cache, is not deleted to make room."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from clinvk.disk.lockfile import is_same_file, open_lock


@contextmanager
def keep_in_use(home: Path, name: str) -> Iterator[None]:
    """Keep what has this name, which may not exist yet. Raises `SessionError`."""
    path = _path(home, name)
    while True:
        fd = open_lock(path)
        with suppress(OSError):  # the file system has no locks
            fcntl.flock(fd, fcntl.LOCK_SH)
        if is_same_file(fd, path):  # otherwise it was deleted meanwhile
            break
        os.close(fd)
    try:
        yield
    finally:
        os.close(fd)


@contextmanager
def unless_in_use(home: Path, name: str) -> Iterator[bool]:
    """Whether no task uses what has this name; none begins to as long as the block runs."""
    path = _path(home, name)
    fd = open_lock(path)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(fd)
        yield False
        return
    try:
        yield True
    finally:
        with suppress(OSError):
            path.unlink()
        os.close(fd)


def name_of_worktree(run: str, directory: str) -> str:
    return f"{run}.{directory}"


def _path(home: Path, name: str) -> Path:
    return home / "cluster" / "uses" / name
