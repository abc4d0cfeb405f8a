"""Find processes left from a run that has ended, by the group of its program and by its marker, or
by the directory that they work in."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import cache

from clinvk.process.marker import MARKER, NO_GROUP, NO_ID, leaders, own_id

CACHE_SECONDS = 1.0  # seconds for which information about other processes is cached
CHUNK_SIZE = 64 * 1024  # bytes
_VARIABLE = f"{MARKER}=".encode()


def find_leftovers(group: int, marker: str, gone: float = float("inf")) -> list[int]:
    """The processes left from a run that ended normally: its group, and those with the marker among
    the processes younger than the program, which exited at `gone` on `time.monotonic`. Cheap, since
    every run calls it."""
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


def find_working_in(folder: str) -> int | None:
    """A process whose current directory is in the folder and that a turn has started, whether or not
    its clinvk is still alive; None if there is none, or if the system does not say."""
    place = os.path.realpath(folder)
    try:
        pids = _processes_from(0)
    except OSError:  # no such thing on macOS
        return _find_working_elsewhere(place)
    for pid in pids:
        with suppress(OSError):
            if _is_within(os.readlink(f"/proc/{pid}/cwd"), place) and _markers_in(_environ(pid)):
                return pid
    return None


def _find_working_elsewhere(place: str) -> int | None:
    import psutil  # 10 ms, and only where there is no /proc

    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if _is_within(process.cwd(), place) and MARKER in process.environ():
                return process.pid
    return None


def _is_within(path: str, place: str) -> bool:
    return path == place or path.startswith(f"{place}/")


class _ProcessSnapshot:
    """The processes that are not programs of this process's runs, with their groups and markers.
    Cached, since runs that end at about the same time see the same ones."""

    def __init__(self) -> None:
        self._found: list[tuple[int, int, bytes]] = []
        self._at = float("-inf")
        self._chains: dict[int, bytes] = {}
        self._chains_until = 0.0

    def taken_after(self, gone: float) -> list[tuple[int, int, bytes]]:
        """The processes as of that time of `time.monotonic` or later."""
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
                    yield pid, group, b""  # the program of another run, in its own session
                elif group:  # kernel threads have none
                    yield pid, group, self._chain(pid)

    def _chain(self, pid: int) -> bytes:
        """The cached markers: a process gets its markers at its start, and ids are not reused so
        soon."""
        if pid not in self._chains and (environ := _environ(pid)):  # it has none in its `exec`
            self._chains[pid] = _markers_in(environ)
        return self._chains.get(pid, b"")


_snapshot = _ProcessSnapshot()


def _processes_from(first: int) -> list[int]:
    """The ids of the processes from that one on. They are last in /proc, in order."""
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
        from clinvk.process.tree import ProcessTree  # psutil, 10 ms: only if processes are left

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
    """The environment of a process; empty if it cannot be read."""
    with suppress(OSError):
        return _read_file(f"/proc/{pid}/environ")
    return b""


def _markers_in(environ: bytes) -> bytes:
    """The markers in an environment."""
    if environ.startswith(_VARIABLE):
        return environ.partition(b"\0")[0]
    _, name, rest = environ.partition(b"\0" + _VARIABLE)
    return _VARIABLE + rest.partition(b"\0")[0] if name else b""


@cache
def _own_start_time() -> int:
    """The start of this process, as in `stat`: older processes cannot be its children."""
    return int(_read_file("/proc/self/stat").rpartition(b")")[2].split()[19])


def _read_file(path: str) -> bytes:
    """Read a file of /proc, in a third of the time of `open`."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        data = piece = os.read(fd, CHUNK_SIZE)
        while len(piece) == CHUNK_SIZE:  # otherwise that was all
            data += (piece := os.read(fd, CHUNK_SIZE))
        return data
    finally:
        os.close(fd)
