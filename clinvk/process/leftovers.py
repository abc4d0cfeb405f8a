"""Who is left of a run that has ended: found by the group of its program, and by its marker."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import cache

from clinvk.process.marker import NO_GROUP, NO_ID, leaders, own_id

CACHE_SECONDS = 1.0  # seconds for which we believe what we saw of other processes
CHUNK_SIZE = 64 * 1024  # bytes


def find_leftovers(group: int, marker: str, gone: float = float("inf")) -> list[int]:
    """Who is left of a run that ended normally: the group, and those with the marker among the
    processes that are younger than the program, which went at `gone` on `time.monotonic`. Cheap,
    since every run asks it."""
    own = (own_id(marker) or NO_ID).encode()
    if group <= 1 or group == os.getpgrp():
        group = NO_GROUP
    try:
        others = _snapshot.taken_after(gone)
    except OSError:  # no such thing on macOS
        return _leftovers_by_group(group, marker)
    return [
        pid
        for pid, its_group, chain in others
        if (its_group == group or own in chain) and _is_leftover(pid, group, own)
    ]


class _ProcessSnapshot:
    """The processes that none of our runs is the program of, each with its group and its markers.
    Runs that end at about the same time meet the same ones, so they are looked at once."""

    def __init__(self) -> None:
        self._found: list[tuple[int, int, bytes]] = []
        self._at = float("-inf")
        self._chains: dict[int, bytes] = {}
        self._chains_until = 0.0

    def taken_after(self, gone: float) -> list[tuple[int, int, bytes]]:
        """As they were after that moment of `time.monotonic`."""
        if not self._at > gone:
            self._at = time.monotonic()
            self._found = list(self._look(min(leaders, default=0)))
        return self._found

    def _look(self, first: int) -> Iterator[tuple[int, int, bytes]]:
        if self._at > self._chains_until:
            self._chains.clear()
            self._chains_until = self._at + CACHE_SECONDS
        for pid in _processes_from(first):
            if pid in leaders:
                continue
            with suppress(OSError):
                group = os.getpgid(pid)
                if group in leaders:
                    yield pid, group, b""  # another run has its own, in a session of its own
                elif group:  # threads of the kernel have none
                    yield pid, group, self._chain(pid)

    def _chain(self, pid: int) -> bytes:
        """As it was a moment ago: nobody gets a marker later than at its birth, and numbers are not
        given out anew so soon."""
        if pid not in self._chains and (environ := _environ(pid)):  # it has none in its `exec`
            self._chains[pid] = _markers_in(environ)
        return self._chains.get(pid, b"")


_snapshot = _ProcessSnapshot()


def _processes_from(first: int) -> list[int]:
    """The numbers of the processes from that one on. They come last in /proc, in order."""
    found = []
    for name in reversed(os.listdir("/proc")):
        if not name.isdigit() or int(name) < first:
            break
        found.append(int(name))
    return found


def _leftovers_by_group(group: int, marker: str) -> list[int]:
    if group == NO_GROUP:
        return []
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, 0)
        from clinvk.process.tree import ProcessTree  # psutil, 10 ms: only where somebody is left

        return [p.pid for p in ProcessTree.of_program(group, marker).alive]
    return []


def _is_leftover(pid: int, group: int, own: bytes) -> bool:
    """Whether the process lives (a zombie does not) and is of the group or carries the marker."""
    if pid in leaders:
        return False
    with suppress(OSError):
        # pid (name, which may hold anything) state parent group … start time …: proc(5)
        about = _read_file(f"/proc/{pid}/stat").rpartition(b")")[2].split()
        if about[0] == b"Z" or int(about[19]) < _own_start_time():
            return False
        return os.getpgid(pid) == group or own in _markers_in(_environ(pid))
    return False


def _environ(pid: int) -> bytes:
    """The environment of a process; nothing where it cannot be read."""
    with suppress(OSError):
        return _read_file(f"/proc/{pid}/environ")
    return b""


def _markers_in(environ: bytes) -> bytes:
    """The markers in an environment."""
    return next((v for v in environ.split(b"\0") if v.startswith(b"CLINVK_RUN=")), b"")


@cache
def _own_start_time() -> int:
    """When this process began, as `stat` says it: who is older can be nobody's child of ours."""
    return int(_read_file("/proc/self/stat").rpartition(b")")[2].split()[19])


def _read_file(path: str) -> bytes:
    """A file of /proc, in a third of the time that `open` takes."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return b"".join(iter(lambda: os.read(fd, CHUNK_SIZE), b""))
    finally:
        os.close(fd)
