"""The private files of one turn."""

from __future__ import annotations

import fcntl
import os
import re
import stat
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from clinvk.disk.opening import open_own
from clinvk.errors import ClinvkError
from clinvk.process.command import Command

PAUSE = 60.0  # seconds between two searches for leftovers of other processes
YOUNG = 60.0  # seconds in which an empty directory may be one that is just being created
OLD = 24 * 3600.0  # seconds after which no turn of clinvk 0.1, which held no lock, still reads its

_FOLDER = r"clinvk-(turn-)?[0-9a-f]{16}"
_looked: dict[Path, float] = {}  # directory: when it was last searched for leftovers


def temp_dir_path(env: Mapping[str, str]) -> Path:
    """An unused path; the directory is created only if a turn needs it."""
    return _place(env) / f"clinvk-turn-{os.urandom(8).hex()}"


@contextmanager
def temp_files(command: Command, env: Mapping[str, str]) -> Iterator[None]:
    """Create the files, in a directory that is deleted when the block ends. Leftovers of killed
    processes are deleted first; a turn without private files does not search for any, since the
    place may contain very many other files. Raises `ClinvkError`."""
    if command.temp_dir is None:
        yield
        return
    _sweep_sometimes(_place(env))
    import shutil  # few turns need it

    lock = -1
    try:
        try:
            lock = _made(command.temp_dir)
            for path, text in command.files:
                fd = open_own(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
                with open(fd, "wb") as file:
                    file.write(text.encode("utf-8", "surrogateescape"))
        except OSError as error:
            raise ClinvkError(
                f"{command.temp_dir}: {error.strerror}",
                "set TMPDIR to a writable directory",
            ) from error
        yield
    finally:
        shutil.rmtree(command.temp_dir, ignore_errors=True)
        if lock >= 0:
            os.close(lock)


def remove_leftovers(place: Path) -> None:
    """Delete the directories that killed processes of this user left there. One in use is locked by
    its process; the kernel releases that lock when the process exits, however it exits."""
    with suppress(OSError), os.scandir(place) as entries:
        for entry in entries:
            if entry.name.startswith("clinvk-") and (found := re.fullmatch(_FOLDER, entry.name)):
                with suppress(OSError):
                    _remove_if_left(entry.path, locked=bool(found.group(1)))


def _place(env: Mapping[str, str]) -> Path:
    # Absolute, since the CLI may run in another directory; its folders have names of their own.
    return Path(env.get("TMPDIR") or "/tmp").absolute()  # noqa: S108


def _sweep_sometimes(place: Path) -> None:
    now = time.monotonic()
    if now - _looked.get(place, float("-inf")) >= PAUSE:
        _looked[place] = now
        remove_leftovers(place)


def _made(path: Path) -> int:
    """The new directory, opened, and locked as long as it is open. Raises `OSError`."""
    path.mkdir(mode=0o700)
    fd = os.open(path, _DIRECTORY)
    with suppress(OSError):  # a file system without locks: it is still removed at the end
        fcntl.flock(fd, fcntl.LOCK_EX)
    return fd


def _remove_if_left(path: str, *, locked: bool) -> None:
    # Only rarely needed.
    import shutil

    fd = os.open(path, _DIRECTORY)
    try:
        found = os.fstat(fd)
        if found.st_uid != os.geteuid() or not stat.S_ISDIR(found.st_mode):
            return
        age = time.time() - found.st_mtime
        # A directory is locked before anything is written to it.
        if age < (OLD if not locked else 0 if os.listdir(fd) else YOUNG):
            return
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(found, os.lstat(path)):
            shutil.rmtree(path, ignore_errors=True)
    finally:
        os.close(fd)


_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
