"""Open files without trusting what is in their place."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

PRIVATE = 0o600


def open_own(path: str | Path, flags: int) -> int:
    """A regular file, opened; one that is made is private. Raises `OSError` for anything else: a
    link that somebody has planted leads nowhere, and a FIFO is not waited for."""
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
    """As `open_own`, but through links: for a file that the user names. Raises `OSError`."""
    fd = os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC, PRIVATE)
    return _if_regular(fd, path)


def _if_regular(fd: int, path: str | Path) -> int:
    """The descriptor, if it is of a regular file; else it is closed. Raises `OSError`."""
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
