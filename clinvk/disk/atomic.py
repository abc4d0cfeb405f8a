"""Write files atomically: they have their old or their new content, whatever happens."""

from __future__ import annotations

import errno
import os
import re
import stat
import time
from contextlib import suppress
from pathlib import Path

from clinvk.disk.opening import PRIVATE, check_regular, not_regular, open_own
from clinvk.disk.reading import belongs_to_user
from clinvk.disk.sync import sync_folder
from clinvk.errors import SessionError

LINKS = 40  # links in a row, as in Linux
NAME = 200  # bytes of a file's name in the name of its temporary file: file systems allow 255
CACHE_SECONDS = 1.0  # seconds for which a directory is known not to be behind a planted link
MOST_EXAMINED = 64  # directories
ABANDONED = 3600.0  # seconds after which a temporary file is no longer being written

# `.NAME.<random>.tmp`; and `.NAME.PID` of clinvk 0.1, of what a store writes most.
_LEFTOVER = r"(?s:\..+)\.(?:[0-9a-f]{16}\.tmp|jsonl?\.[0-9]{1,10})"
MAKE_ROOM = (
    "make room on that disk, e.g. with: clinvk sessions clean --older-than 30d; "
    "nothing stored before is lost"
)
NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


_examined: dict[str, float] = {}  # directory: when the way to it was last examined


class NoSpace(SessionError):  # noqa: N818 - reads as what it says
    """The disk is full."""


def replace_file(path: str | Path, data: bytes, *, durable: bool) -> None:
    """Write a file of the user atomically: it has either its old content or `data`, even after a
    power cut if `durable`. A symbolic link is followed and kept. An existing file keeps its owner,
    group and mode; a new one is private.

    A file that cannot be replaced is written in place: another user's, or one in a directory that
    is not writable. Raises `OSError`, also for a target that is not a regular file, which is left
    unchanged."""
    target = _target(os.fspath(path))
    if target is None:
        raise not_regular(path)
    try:
        found = os.lstat(target)
    except FileNotFoundError:
        _replace(target, data, durable=durable)
        return
    check_regular(found, path)
    try:
        _replace(target, data, durable=durable, like=found)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EACCES, errno.EROFS):
            raise
        _write_in_place(target, data, durable=durable)


def replace_own(path: str | Path, data: bytes, *, durable: bool) -> None:
    """Write a file of clinvk's store in the same way; a link in its place is replaced, not
    followed."""
    path = os.fspath(path)
    with suppress(FileNotFoundError):
        found = os.lstat(path)
        if not stat.S_ISLNK(found.st_mode):
            check_regular(found, path)
    _replace(path, data, durable=durable)


def write_for_user(path: str | Path, data: bytes, *, durable: bool = False) -> None:
    """`replace_file`, or a direct write to a pipe or a device, which are not replaced. Raises
    `OSError`."""
    if is_stream(path):
        fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_NOCTTY | os.O_CLOEXEC)
        try:
            write_all(fd, data)
        finally:
            os.close(fd)
    else:
        replace_file(path, data, durable=durable)


def is_stream(path: str | Path) -> bool:
    """Whether it is a pipe, a device, or an open file of a process, such as /dev/stdout. Raises
    `OSError` for a link that must not be followed."""
    target = _target(os.fspath(path))
    return target is None or (os.path.exists(target) and not os.path.isfile(target))


def is_private(path: str | Path) -> bool:
    """Whether a file belongs to the current user, and no other user can write it. Users who can
    replace it, since they can write its directory, cannot make it belong to the current user."""
    try:
        return belongs_to_user(os.stat(path))
    except OSError:
        return False


def check_writable(folder: str | Path) -> None:
    """Raise `OSError` if no file can be created in the directory."""
    fd, path = _temporary(f"{os.fspath(folder)}/clinvk")
    os.close(fd)
    os.unlink(path)


def remove_leftovers(folder: str | Path) -> None:
    """Delete the temporary files that killed processes left in a directory of clinvk: those older
    than any write takes."""
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith(".") and re.fullmatch(_LEFTOVER, entry.name):
                with suppress(OSError):
                    found = entry.stat(follow_symlinks=False)
                    if stat.S_ISREG(found.st_mode) and time.time() - found.st_mtime > ABANDONED:
                        os.unlink(entry.path)


def _replace(
    target: str, data: bytes, *, durable: bool, like: os.stat_result | None = None
) -> None:
    fd, temporary = _temporary(target)
    try:
        try:
            if like is not None:
                _copy_permissions(fd, like)
            write_all(fd, data)
            if durable:
                os.fsync(fd)
        finally:
            os.close(fd)
        os.replace(temporary, target)
        if durable:
            sync_folder(os.path.dirname(target) or ".")
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise


def _copy_permissions(fd: int, like: os.stat_result) -> None:
    """Raises `PermissionError` if the file cannot have the same owner and group."""
    new = os.fstat(fd)
    if (new.st_uid, new.st_gid) != (like.st_uid, like.st_gid):
        os.fchown(fd, like.st_uid, like.st_gid)
    if like.st_mode & 0o777 != PRIVATE:
        os.fchmod(fd, like.st_mode & 0o777)


def _write_in_place(target: str, data: bytes, *, durable: bool) -> None:
    fd = open_own(target, os.O_WRONLY)
    try:
        write_all(fd, data)
        os.ftruncate(fd, len(data))
        if durable:
            os.fsync(fd)
    finally:
        os.close(fd)


def _temporary(target: str) -> tuple[int, str]:
    """A new open file beside `target`, with a name that cannot be guessed, so that nothing can be
    planted there. A long name is shortened."""
    folder, name = os.path.split(target)
    while True:
        kept = os.fsdecode(os.fsencode(name)[:NAME])
        path = os.path.join(folder, f".{kept}.{os.urandom(8).hex()}.tmp")
        with suppress(FileExistsError):
            return open_own(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL), path


def _target(path: str) -> str | None:
    """The path that links lead to; None if that is an open file of a process. Raises `OSError` for
    a link that another user has planted in a world-writable directory, also on the way to the
    file."""
    at, links = "/", 0
    # The current directory may have been deleted: it is asked for only if the path is relative.
    parts = _components(path if os.path.isabs(path) else os.path.join(os.getcwd(), path))
    while parts:
        name = parts.pop()
        if name == "..":
            at = os.path.dirname(at)
            continue
        if not parts and at.startswith(("/proc/", "/dev/fd")):
            return None
        here = os.path.join(at, name)
        try:
            found = os.lstat(here)
        except FileNotFoundError:
            return os.path.join(here, *reversed(parts))
        if not stat.S_ISLNK(found.st_mode):
            at = here
            continue
        links += 1
        if links > LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
        _check_link(found, at, here)
        link = os.readlink(here)
        parts += _components(link)
        if link.startswith("/"):
            at = "/"
    if path.endswith("/") and not os.path.isdir(at):
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path)
    return at


def _components(path: str) -> list[str]:
    """The components of a path, the last one first."""
    return [name for name in reversed(path.split("/")) if name not in ("", ".")]


def _check_link(link: os.stat_result, folder: str, path: str) -> None:
    above = os.stat(folder)
    is_open_to_all = above.st_mode & stat.S_ISVTX and above.st_mode & stat.S_IWOTH
    if is_open_to_all and link.st_uid not in (os.geteuid(), above.st_uid):
        raise OSError(errno.EACCES, "it is a symbolic link of another user", path)


def write_file(path: str, data: bytes) -> None:
    """Write a file that is not read yet; deletes it if there is no room for all of it."""
    fd = open_own(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    try:
        write_all(fd, data)
    except OSError:
        os.unlink(path)
        raise
    finally:
        os.close(fd)


def append_file(
    path: str | Path, data: bytes, *, is_new: bool = False, durable: bool = True
) -> None:
    """Append all of `data` or nothing, on disk if `durable`. A torn last line, left by a killed
    writer, is ended first, so that it does not spoil another line. If the file `is_new`, its name
    may not be on disk yet."""
    is_new = is_new or (durable and not os.path.exists(path))
    fd = open_own(path, os.O_RDWR | os.O_CREAT | os.O_APPEND)
    try:
        end = os.lseek(fd, 0, os.SEEK_END)
        try:
            write_all(fd, b"\n" + data if _is_torn(fd, end) else data)
            if durable:
                os.fsync(fd)
                if is_new:
                    sync_folder(os.path.dirname(path))
        except OSError:
            os.ftruncate(fd, end)
            raise
    finally:
        os.close(fd)


def open_to_append(path: str | Path) -> int:
    """A file of clinvk, opened for appending lines. A torn last line is ended first. Raises
    `OSError`."""
    fd = open_own(path, os.O_RDWR | os.O_CREAT | os.O_APPEND)
    try:
        if _is_torn(fd, os.lseek(fd, 0, os.SEEK_END)):
            write_all(fd, b"\n")
    except OSError:
        os.close(fd)
        raise
    return fd


def _is_torn(fd: int, end: int) -> bool:
    """Whether the last line of a file of that size is incomplete."""
    return end > 0 and os.pread(fd, 1, end - 1) != b"\n"


def write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def make_folder(path: str | Path) -> None:
    """Create the directory and its parents, all private. Raises `OSError`, also for a link that
    another user has planted on the way in a world-writable directory; a directory in which none was
    found a moment ago is not examined again, since a thousand tasks write to the same ones."""
    name, now = os.path.abspath(path), time.monotonic()
    if now - _examined.get(name, float("-inf")) < CACHE_SECONDS and os.path.isdir(name):
        return
    _target(os.fspath(path))
    if not os.path.isdir(path):
        path = Path(path)
        if not path.parent.exists():
            make_folder(path.parent)
        path.mkdir(mode=0o700, exist_ok=True)
    if len(_examined) >= MOST_EXAMINED:
        _examined.clear()
    _examined[name] = now


def file_error(verb: str, path: str | Path, error: OSError) -> SessionError:
    if error.errno in NO_SPACE:
        # A deletion is making room already.
        hint = f"delete it by hand: rm -r {path}" if verb == "delete" else MAKE_ROOM
        return NoSpace(f"cannot {verb} {path}: {error.strerror}", hint)
    hints = {
        errno.EROFS: "set CLINVK_HOME to a writable directory, or use --ephemeral",
        errno.EACCES: "set CLINVK_HOME to a writable directory, or use --ephemeral",
        errno.EPERM: "set CLINVK_HOME to a writable directory, or use --ephemeral",
    }
    if error.errno in (errno.ELOOP, errno.EINVAL):
        return SessionError(f"cannot {verb} {path}: {error.strerror}", f"move {path} away")
    hint = hints.get(error.errno or 0, "set CLINVK_HOME to another directory")
    return SessionError(f"cannot {verb} {path}: {error.strerror}", hint)


def has_room(folder: str | Path) -> bool:
    """Whether the disk has room for a small file there."""
    try:
        fd, path = _temporary(f"{os.fspath(folder)}/room")
        try:
            write_all(fd, bytes(4096))
        finally:
            os.close(fd)
            os.unlink(path)
    except OSError as error:
        return error.errno not in NO_SPACE
    return True
