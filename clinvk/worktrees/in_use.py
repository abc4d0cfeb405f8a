"""A worktree is not removed while a turn of a session runs in it, or a prompt is open on it."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from clinvk.disk.lockfile import open_lock
from clinvk.errors import SessionError
from clinvk.process.leftovers import find_working_in
from clinvk.worktrees import names

SUFFIX = ".lock"  # of a file beside the worktree; no slug ends in it


@contextmanager
def keep_worktree(home: Path, cwd: Path) -> Iterator[None]:
    """Keep the worktree that the directory is in, if it is in one. Raises `SessionError` if it is
    being removed."""
    parts = Path(os.path.relpath(cwd, names.folder_of(home))).parts
    if len(parts) < 2 or parts[0] == "..":
        yield
        return
    path = names.path_of(home, parts[0], parts[1])
    if not path.is_dir():
        yield
        return
    try:
        fd = open_lock(_lock_path(path), create_folder=False)
    except (OSError, SessionError):  # a disk that is read-only is no reason to fail
        yield
        return
    try:
        if not _lock(fd, fcntl.LOCK_SH):
            raise SessionError(f"the worktree {path} is being removed", "try again")
        yield
    finally:
        os.close(fd)


@contextmanager
def hold_unused(path: Path) -> Iterator[None]:
    """Keep turns from a worktree while it is removed. Raises `SessionError` if one runs there, or if
    something works there that a turn has started: a killed clinvk may leave its agent running."""
    fd = open_lock(_lock_path(path))
    try:
        if not _lock(fd, fcntl.LOCK_EX):
            raise SessionError(
                f"a turn of a session is running in the worktree {path}, or a prompt is open on it",
                "wait until that has ended, then try again; at the prompt: /drop",
            )
        _check_not_worked_in(path)
        yield
    finally:
        if not path.exists():
            with suppress(OSError):
                os.unlink(_lock_path(path))
            with suppress(OSError):  # the last one of the run
                path.parent.rmdir()
        os.close(fd)


def check_unused(path: Path) -> None:
    """Raise `SessionError` if a turn of a session runs in the worktree."""
    if path.exists():
        with hold_unused(path):
            pass


def _check_not_worked_in(path: Path) -> None:
    pid = find_working_in(os.fspath(path))
    if pid is not None:
        raise SessionError(
            f"process {pid}, which a turn has started, works in the worktree {path}",
            f"see what it is: ps {pid}; end it, or wait until it has ended, then try again",
        )


def _lock_path(path: Path) -> Path:
    return path.with_name(path.name + SUFFIX)


def _lock(fd: int, how: int) -> bool:
    try:
        fcntl.flock(fd, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # the file system has no locks
        pass
    return True
