"""Open files safely, whatever is at their paths."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

PRIVATE = 0o600


def open_own(path: str | Path, flags: int) -> int:
    """Open a regular file; a new one is private. Raises `OSError` for anything else: planted links
    are not followed, and a FIFO is not waited for."""
    safe = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
    try:
        fd = os.open(path, flags | safe, PRIVATE)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise OSError(errno.ELOOP, "it is a symbolic link, not a file", str(path)) from error
        if error.errno == errno.ENXIO:  # a FIFO without a reader, or a socket
            raise not_regular(path) from error
        raise
    return _if_regular(fd, path)


def open_named(path: str | Path, flags: int) -> int:
    """Like `open_own`, but follows links: for a file that the user names. Raises `OSError`."""
    fd = os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC, PRIVATE)
    return _if_regular(fd, path)


def _if_regular(fd: int, path: str | Path) -> int:
    """The descriptor, if it is a regular file; otherwise closes it. Raises `OSError`."""
    try:
        check_regular(os.fstat(fd), path)
    except BaseException:
        os.close(fd)
        raise
    return fd


def check_regular(found: os.stat_result, path: str | Path) -> None:
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(found.st_mode):
        raise not_regular(path)


def not_regular(path: str | Path) -> OSError:
    return OSError(
        errno.EINVAL, "it is a device, a pipe or a socket, not a regular file", str(path)
    )
