"""Ends what tests have started if their process is killed, and with it all fixtures that would.

One process for each process of the tests reads a pipe whose other end only that has. It gets the ids of
processes, and kills them when the pipe is closed. On Linux: elsewhere, nothing certain is known of an id.
"""

import atexit
import os
import select
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from typing import Any, TypeVar

P = TypeVar("P", bound=subprocess.Popen[Any])

_lock = threading.Lock()
_watchman: list[subprocess.Popen[bytes]] = []


def bound(process: P) -> P:
    """The same, which ends with the process of the tests at the latest."""
    if not hasattr(os, "pidfd_open"):
        return process
    with _lock:
        if not _watchman or _watchman[0].poll() is not None:
            _watchman[:] = [_start()]
        pipe = _watchman[0].stdin
        assert pipe is not None
        pipe.write(f"{process.pid}\n".encode())
        pipe.flush()
    return process


def _start() -> subprocess.Popen[bytes]:
    made = subprocess.Popen(
        [sys.executable, "-SE", __file__], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
        env={}, cwd="/", start_new_session=True,
    )  # fmt: skip
    atexit.register(made.communicate)
    return made


def _watch() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    alive: list[int] = []  # each is a descriptor that becomes readable when its process ends
    for line in sys.stdin:
        for fd in [fd for fd in alive if _has_ended(fd)]:
            alive.remove(fd)
            os.close(fd)
        with suppress(ProcessLookupError):
            alive.append(os.pidfd_open(int(line)))
    for fd in alive:
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(fd, signal.SIGKILL)


def _has_ended(fd: int) -> bool:
    look = select.poll()
    look.register(fd, select.POLLIN)
    return bool(look.poll(0))


if __name__ == "__main__":
    _watch()
