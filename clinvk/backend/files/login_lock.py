"""Some CLIs do not coordinate renewing a login, so one of several starts alone.

What each CLI does is in `docs/logins.md`. Only the age of the login's file is read, never its
content.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import anyio

from clinvk.backend.command.environment import expand_home
from clinvk.backend.manifest import Manifest
from clinvk.disk.opening import open_own

SETTLED_AFTER = 60.0  # seconds after a start alone in which no other run waits
BEGIN_TIMEOUT = 10.0  # seconds: a CLI that has not started by then is not busy with its login
POLL_INTERVAL = 0.05  # seconds between checks of a lock that another process holds


@asynccontextmanager
async def login_lock(
    manifest: Manifest, env: Mapping[str, str], home: Path
) -> AsyncIterator[Callable[[], None]]:
    """Enter it before the CLI starts, and call the yielded function once the CLI has started:
    waiting runs then start. Leaving the block does the same.

    `env` is the environment of the CLI, `home` the directory of clinvk. It waits only if the login
    may have to be renewed, and not for long. Without a lock it does not wait at all.
    """
    note = home / "logins" / manifest.name
    fd = _open_note(note) if may_renew_login(manifest, env, note) else None
    if fd is None:
        yield lambda: None
        return
    try:
        alone = await _try_begin_alone(fd, lambda: may_renew_login(manifest, env, note))

        def on_begun() -> None:
            nonlocal alone
            if alone:
                alone = False
                _release(fd)

        try:
            yield on_begun
        finally:
            on_begun()
    finally:
        os.close(fd)


def may_renew_login(manifest: Manifest, env: Mapping[str, str], note: Path) -> bool:
    """Whether a run that starts now may renew the login: its file is old, and no other run has just
    started with it. `note` is the file whose time says when one last did."""
    minutes = manifest.login.fresh_minutes
    if minutes is None:
        return False
    found = (_seconds_since_write(Path(file)) for file in login_files(manifest, env))
    login = next((seconds for seconds in found if seconds is not None), None)
    if login is None or login < minutes * 60:
        return False
    last = _seconds_since_write(note)
    return last is None or last >= SETTLED_AFTER


def login_files(manifest: Manifest, env: Mapping[str, str]) -> Iterator[str]:
    """The paths where its login may be, in order of precedence, whether or not they exist."""
    for file in manifest.login.files:
        if file.startswith("$"):
            variable, _, rest = file[1:].partition("/")
            if env.get(variable):
                yield f"{env[variable]}/{rest}"
        else:
            yield expand_home(file, env)


def _seconds_since_write(file: Path) -> float | None:
    """The seconds since it was written; None if it is empty or missing."""
    try:
        stat = file.stat()
    except OSError:
        return None
    # A clock that was set back must not make a file fresh forever.
    return abs(time.time() - stat.st_mtime) if stat.st_size else None


def _open_note(note: Path) -> int | None:
    with suppress(OSError):
        note.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        return open_own(note, os.O_RDWR | os.O_CREAT)
    return None


async def _try_begin_alone(fd: int, due: Callable[[], bool]) -> bool:
    """Whether this run starts alone, holding the lock; otherwise another run did, or took too
    long."""
    deadline = anyio.current_time() + BEGIN_TIMEOUT
    while due() and anyio.current_time() < deadline:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            await anyio.sleep(POLL_INTERVAL)
        except OSError:
            return False
        else:
            if due():
                return True
            fcntl.flock(fd, fcntl.LOCK_UN)
    return False


def _release(fd: int) -> None:
    with suppress(OSError):
        os.pwrite(fd, b"\n", 0)  # its time is what counts
    fcntl.flock(fd, fcntl.LOCK_UN)
