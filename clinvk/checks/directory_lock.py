"""One check at a time in a directory, also among several processes."""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import anyio

from clinvk.disk.lockfile import is_same_file, open_lock
from clinvk.errors import SessionError
from clinvk.process.marker import own_id

POLL_INTERVAL = 0.05  # seconds between attempts to lock


@asynccontextmanager
async def hold_directory(
    home: Path, folder: Path, marker: str, notify: Callable[[str], None]
) -> AsyncIterator[None]:
    """Wait until no other check runs in the directory, and keep others from it. `marker` is that of
    the check: a check that is started by the one that holds the directory does not wait for it."""
    real = os.path.realpath(folder)  # noqa: ASYNC240 - once
    name = hashlib.blake2b(os.fsencode(real), digest_size=16).hexdigest()
    fd = await _lock(home / "checks" / name, marker, folder, notify)
    try:
        yield
    finally:
        if fd is not None:
            with suppress(OSError):
                os.unlink(home / "checks" / name)
            os.close(fd)


async def _lock(path: Path, marker: str, folder: Path, notify: Callable[[str], None]) -> int | None:
    """The locked file; None if it need not or cannot be locked."""
    told = False
    while True:
        try:
            fd = open_lock(path)
        except SessionError:  # a disk that is full or read-only is no reason to fail the work
            return None
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(fd, 256, 0).decode("ascii", "replace")
            os.close(fd)
            if holder and holder in marker.split("/")[:-1]:
                return None
            if not told:
                told = True
                notify(f"waiting for another check in {folder} to end (Ctrl-C to cancel)")
            await anyio.sleep(POLL_INTERVAL)
            continue
        except OSError:  # the file system has no locks
            os.close(fd)
            return None
        if is_same_file(fd, path):
            with suppress(OSError):
                os.pwrite(fd, (own_id(marker) or "").encode(), 0)
            return fd
        os.close(fd)  # its last holder has deleted it
