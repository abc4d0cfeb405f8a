"""The process that ends what a worker leaves running: the programs of attempts whose Celery worker was
killed, or whose lease was not renewed for too long.

One for each worker, in a session of its own. It reads lines of JSON from a pipe that all processes of
the worker can write to, and ends once all of them are gone:

    {"marker": …, "pid": …, "until": …, "owner": …}   an attempt runs; end it if `pid` exits first, or at
                                                      `until`
    {"marker": …}                                     it has ended

Once nothing is left of what an attempt of a killed process has started, it prints the owner of that attempt
in a line of JSON.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from msgspec import Struct

CHECK_INTERVAL = 0.5  # seconds between looks at processes whose exit is not signalled
CHUNK_SIZE = 64 * 1024  # bytes
LOOKS = 2  # for what is left, after all was ended
LOOK_PAUSE = 0.05  # seconds before each
# However long ago it was started: each attempt has a marker of its own, and the clock may have been set.
WHENEVER = 0.0


def boot_clock() -> float:
    """Seconds on a clock that all processes of this machine share, and that goes on while it
    sleeps."""
    clock = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
    return time.clock_gettime(clock)


class Guard:
    """The worker's side: its end of the pipe."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def watch(self, marker: str, until: float, owner: Mapping[str, Any]) -> None:
        """Have what carries the marker ended when this process exits, or at `until` of
        `boot_clock`. `owner` is what the node is told in the first case."""
        line = {"marker": marker, "pid": os.getpid(), "until": until, "owner": owner}
        self._say(line)

    def release(self, marker: str) -> None:
        self._say({"marker": marker})

    def _say(self, line: dict[str, Any]) -> None:
        # Shorter than a pipe writes at once, so lines of several processes do not mix. If the
        # supervisor is gone, the worker will notice, and end.
        with suppress(BrokenPipeError):
            os.write(self.fd, json.dumps(line).encode() + b"\n")


class Watched(Struct):
    """An attempt that is running."""

    pid: int
    until: float
    pidfd: int | None
    owner: Any = None


class Supervisor:
    def __init__(self, pipe: int) -> None:
        self.pipe = pipe
        self.selector = selectors.DefaultSelector()
        self.selector.register(pipe, selectors.EVENT_READ)
        self.watched: dict[str, Watched] = {}
        self._rest = b""
        self._is_open = True

    def run(self) -> None:
        """Watch until all processes of the worker are gone."""
        while self._is_open:
            ready = self.selector.select(self._seconds_until_next())
            if any(key.fileobj == self.pipe for key, _ in ready):
                self._read()
            self._end_abandoned()
        for watched in self.watched.values():  # nobody else can write to the pipe any more
            watched.pid = 0
        self._end_abandoned()

    def _seconds_until_next(self) -> float | None:
        if any(each.pidfd is None for each in self.watched.values()):
            return CHECK_INTERVAL
        times = [each.until for each in self.watched.values()]
        return max(0.0, min(times) - boot_clock()) if times else None

    def _read(self) -> None:
        data = os.read(self.pipe, CHUNK_SIZE)
        self._is_open = bool(data)
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._apply(json.loads(line))

    def _apply(self, line: dict[str, Any]) -> None:
        marker = line["marker"]
        if "pid" not in line:
            self._forget(marker)
        elif known := self.watched.get(marker):
            known.until = line["until"]
        else:
            pidfd = _open_pidfd(line["pid"])
            if pidfd is not None:
                self.selector.register(pidfd, selectors.EVENT_READ)
            self.watched[marker] = Watched(line["pid"], line["until"], pidfd, line.get("owner"))

    def _forget(self, marker: str) -> None:
        known = self.watched.pop(marker, None)
        if known is not None and known.pidfd is not None:
            self.selector.unregister(known.pidfd)
            os.close(known.pidfd)

    def _end_abandoned(self) -> None:
        now = boot_clock()
        late = {m: w for m, w in self.watched.items() if w.until <= now}
        orphans = {m: w for m, w in self.watched.items() if m not in late and _is_gone(w.pid)}
        if late or orphans:
            for marker in _end_trees(list(late), list(orphans)):
                _tell_node(orphans[marker].owner)
        for marker in (*late, *orphans):
            self._forget(marker)


def _tell_node(owner: Any) -> None:
    with suppress(OSError):  # it has ended, too
        os.write(1, json.dumps(owner).encode() + b"\n")


def _end_trees(late: list[str], orphans: list[str]) -> list[str]:
    """End all that carries these markers: at once if the lease expires, otherwise politely. Returns the
    orphans of which certainly nothing is left."""
    # 55 ms, and most workers never need it.
    import anyio

    # The same.
    from clinvk.process.tree import ProcessTree

    ended = []

    async def end_orphan(marker: str) -> None:
        await ProcessTree.left_behind(marker, WHENEVER).terminate_then_kill()
        for _ in range(LOOKS):  # a program that is just being started has no environment yet
            await anyio.sleep(LOOK_PAUSE)
            if ProcessTree.left_behind(marker, WHENEVER).alive:
                return
        ended.append(marker)

    async def end() -> None:
        async with anyio.create_task_group() as tasks:
            for marker in late:
                tasks.start_soon(ProcessTree.left_behind(marker, WHENEVER).kill_all)
            for marker in orphans:
                tasks.start_soon(end_orphan, marker)

    anyio.run(end)
    return ended


def _open_pidfd(pid: int) -> int | None:
    with suppress(AttributeError, OSError):  # macOS, or it has exited already
        return os.pidfd_open(pid)
    return None


def _is_gone(pid: int) -> bool:
    if pid <= 0:
        return True
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:  # a zombie runs nothing
            return file.read().rpartition(b")")[2].split()[0] == b"Z"
    except FileNotFoundError:
        if os.path.isdir("/proc/self"):
            return True
    except OSError:
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    return False


def main() -> None:
    """`python -m clinvk.cluster.worker.supervisor FD`."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # it ends when the worker has
    Supervisor(int(sys.argv[1])).run()


if __name__ == "__main__":
    main()
