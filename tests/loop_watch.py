"""Notices what blocks the event loop: git, locks that are waited for, sleep, and commands of Redis."""

import asyncio
import fcntl
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import redis.connection
import trio


class _Watch:
    found: list[str] | None = None  # as long as somebody watches
    is_installed = False


def _has_loop() -> bool:
    """Whether this thread runs an event loop now."""
    return asyncio._get_running_loop() is not None or trio.lowlevel.in_trio_run()


def _note(what: str) -> None:
    frames = traceback.extract_stack()
    ours = [f for f in frames if "/clinvk/" in f.filename and "/tests/" not in f.filename]
    if _Watch.found is not None and ours and _has_loop():
        shown = " < ".join(f"{f.filename.rpartition('/clinvk/')[2]}:{f.lineno}" for f in ours[::-1])
        _Watch.found.append(f"{what}: {shown}")


def _audit(event: str, args: tuple[Any, ...]) -> None:
    if _Watch.found is None:
        return
    # Programs that are waited for without blocking are started by anyio: those that block are git's.
    if (
        event == "subprocess.Popen"
        and str(args[0]) == "git"
        and "core.hooksPath=/dev/null" in args[1]
    ):
        _note("git")
    elif event == "fcntl.flock" and not args[1] & (fcntl.LOCK_NB | fcntl.LOCK_UN):
        _note("lock")
    elif event == "time.sleep" and args[0] > 0.01:
        _note("sleep")


@contextmanager
def watching_loop(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """What has blocked the event loop, and where, while the block ran."""
    if not _Watch.is_installed:
        sys.addaudithook(_audit)  # for good
        _Watch.is_installed = True
    connection = redis.connection.AbstractConnection
    send = connection.send_packed_command

    def noted(self: Any, command: Any, *args: Any, **more: Any) -> Any:
        _note("redis")
        return send(self, command, *args, **more)

    found = _Watch.found = []
    with monkeypatch.context() as patch:
        patch.setattr(connection, "send_packed_command", noted)
        try:
            yield found
        finally:
            _Watch.found = None
