"""Empty directories for turns that need no files, each deleted once its turn has ended.

    ~/.clinvk/empty/ID     locked while a turn runs in it

A later turn of the conversation gets an empty one of the same name, since CLIs find a conversation by
its directory.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from clinvk.disk.atomic import file_error, make_folder
from clinvk.disk.trees import remove_tree

EMPTY = "none"  # in place of a directory: one of these; a directory of that name is `./none`
KEPT = 24 * 3600.0  # seconds for which one that a killed process has left is kept, to be resumed


def read_directory(text: str) -> Path:
    """The directory that was typed. `Path(EMPTY)` stands for an empty one; for one of that name, the
    path is absolute."""
    path = Path(text)
    return Path.cwd() / path if path == Path(EMPTY) and text != EMPTY else path


def folder_of(home: Path) -> Path:
    return Path(os.path.realpath(home)) / "empty"


def new_path(home: Path) -> Path:
    """A path that nothing has; no directory is created."""
    return folder_of(home) / os.urandom(8).hex()


def is_empty_directory(home: Path, path: str | Path) -> bool:
    """Whether the path is one of these directories, or in one; it may not exist any more."""
    own = folder_of(home)
    return Path(path) != own and Path(path).is_relative_to(own)


@contextmanager
def hold(home: Path, path: Path) -> Iterator[Callable[[], None] | None]:
    """Have the directory, and keep it while the block runs. What is yielded deletes it; None if it was
    there before, and is for somebody else to delete. Raises `SessionError`."""
    try:
        make_folder(folder_of(home))
        try:
            path.mkdir(mode=0o700)
            is_new = True
        except FileExistsError:
            is_new = False
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise file_error("create", path, error) from error
    try:
        with suppress(OSError):  # the file system has no locks
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        yield (lambda: _delete(path)) if is_new else None
    finally:
        os.close(fd)


def remove_abandoned(home: Path, older_than: float = KEPT) -> list[Path]:
    """Delete what killed processes have left for at least so many seconds; what was deleted."""
    found = []
    with suppress(OSError):
        found = sorted(folder_of(home).iterdir())
    return [path for path in found if _remove_unless_held(path, time.time() - older_than)]


def _remove_unless_held(path: Path, before: float) -> bool:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(fd).st_mtime > before:
            return False
        remove_tree(path)
    except OSError:
        return False
    finally:
        os.close(fd)
    return True


def _delete(path: Path) -> None:
    with suppress(OSError):
        remove_tree(path)
