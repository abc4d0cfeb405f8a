"""Read files without trusting their names: a FIFO would block, and a device may never end."""

from __future__ import annotations

import errno
import os
import select
import stat
from pathlib import Path
from typing import BinaryIO

LARGEST = 256 * 1024 * 1024  # bytes of a file that is read completely
ANY = 2**63  # bytes: of clinvk's own files, which may have any length
CHUNK = 256 * 1024
NOT_REGULAR = "not a regular file"
_OWN_STREAMS = ("/dev/stdin", "/dev/fd/", "/proc/self/fd/")


def directory_problem(path: str | Path) -> str | None:
    """Why the path cannot be used as a directory; None if it is one."""
    if os.path.isdir(path):
        return None
    return "not a directory" if os.path.lexists(path) else "no such directory"


def open_regular(path: str | Path, *, follow: bool = True) -> BinaryIO:
    """The open file. Raises `OSError` for anything but a regular file, without waiting for it;
    for a symbolic link too, unless `follow`."""
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    fd = _opened(path, flags if follow else flags | os.O_NOFOLLOW)
    try:
        _check_regular(path, os.fstat(fd).st_mode)
        return os.fdopen(fd, "rb")
    except BaseException:
        os.close(fd)
        raise


def read_file(path: str | Path, *, limit: int = LARGEST, follow: bool = True) -> bytes:
    """The content of a regular file. Raises `OSError`, also for more than `limit` bytes."""
    with open_regular(path, follow=follow) as file:
        if os.fstat(file.fileno()).st_size > limit:
            raise _too_large(path, limit)
        return _bounded(file, path, limit)


def read_with_privacy(path: str | Path, *, limit: int = LARGEST) -> tuple[bytes, bool]:
    """The content of a regular file of clinvk, and whether only the current user can have written
    it: checked on the open file, since others may replace it meanwhile. The target of a symbolic
    link counts as written by others. Raises `OSError`."""
    try:
        file, is_link = open_regular(path, follow=False), False
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        file, is_link = open_regular(path), True
    with file:
        is_private = not is_link and belongs_to_user(os.fstat(file.fileno()))
        return _bounded(file, path, limit), is_private


def belongs_to_user(found: os.stat_result) -> bool:
    """Whether a file belongs to the current user, and no other user can write it."""
    return found.st_uid == os.geteuid() and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def read_named(path: str | Path, *, limit: int = LARGEST, patience: float | None = None) -> bytes:
    """The content of a file that the user named, which may be a pipe: `<(generate)`, `/dev/stdin`.
    Raises `OSError`, also for more than `limit` bytes, and for a FIFO without a writer for
    `patience` seconds."""
    flags = os.O_RDONLY | os.O_NOCTTY | os.O_CLOEXEC
    if patience is not None and _is_named_fifo(path):
        fd = _opened(path, flags | os.O_NONBLOCK)
        # `poll` reports nothing until a writer has written, or opened and closed it.
        if not select.select([fd], [], [], patience)[0] and _is_without_writer(fd):
            os.close(fd)
            raise OSError(errno.EAGAIN, "a FIFO without a writer", str(path))
        os.set_blocking(fd, True)
    else:
        fd = _opened(path, flags)
    try:
        with os.fdopen(fd, "rb", closefd=False) as file:  # raises for a directory
            return _bounded(file, path, limit)
    finally:
        os.close(fd)


def is_null_device(path: str | Path) -> bool:
    """Whether it is /dev/null, or a link to it: an empty file that never makes a reader wait."""
    try:
        found, null = os.stat(path), os.stat(os.devnull)
    except (OSError, ValueError):
        return False
    return stat.S_ISCHR(found.st_mode) and found.st_rdev == null.st_rdev


def is_own_stream(path: str | Path) -> bool:
    """Whether it names an open file of this process, such as /dev/stdin, which was chosen when
    clinvk was started."""
    return os.fspath(path).startswith(_OWN_STREAMS)


def read_stream(file: BinaryIO, name: str, *, limit: int = LARGEST) -> bytes:
    """The rest of an open stream, such as stdin. Raises `OSError`, also for more than `limit`
    bytes."""
    if file.isatty():  # reading in pieces would ask for a second Ctrl-D; nobody types that much
        return file.read()
    return _bounded(file, name, limit)


def _opened(path: str | Path, flags: int) -> int:
    try:
        return os.open(path, flags)
    except ValueError as error:  # a NUL, or half of a surrogate pair
        raise OSError(errno.EINVAL, f"invalid path: {error}", str(path)) from error


def _is_named_fifo(path: str | Path) -> bool:
    """Whether it is a FIFO, not a pipe that is already open, such as `<(generate)`."""
    try:
        is_fifo = stat.S_ISFIFO(os.stat(path).st_mode)
    except (OSError, ValueError):
        return False
    return is_fifo and not os.path.realpath(path).startswith(("/dev/fd/", "/proc/"))


def _is_without_writer(fd: int) -> bool:
    """Wait for data in an empty non-blocking pipe."""
    try:
        return os.read(fd, 1) == b""
    except BlockingIOError:
        return False


def _check_regular(path: str | Path, mode: int) -> None:
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, NOT_REGULAR, str(path))


def _bounded(file: BinaryIO, path: str | Path, limit: int) -> bytes:
    pieces, size = [], 0
    while piece := file.read(CHUNK):
        pieces.append(piece)
        size += len(piece)
        if size > limit:
            raise _too_large(path, limit)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def _too_large(path: str | Path, limit: int) -> OSError:
    return OSError(errno.EFBIG, f"larger than {limit:,} bytes", str(path))
