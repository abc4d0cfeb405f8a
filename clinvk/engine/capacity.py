"""How many tasks this process can run at a time: each takes open files and processes."""

from __future__ import annotations

import os
import resource
from contextlib import suppress

FILES_OF_A_TASK = 9  # its pipes, its events, its session's lock, and what its end is heard by
SPARE_FILES = 32  # for the journal, the stores, and a program that is being started
PROCESSES_OF_A_TASK = 12  # threads count, and node alone starts eleven
SPARE_PROCESSES = 10  # threads of ours
MANY = 32_768  # processes: a limit above that is not counted against


def room() -> tuple[int, str] | None:
    """How many tasks can run, at least one, and which limit says so; None without a limit."""
    found = [limit for limit in (_by_files(), _by_processes()) if limit is not None]
    return min(found, default=None)


def _by_files() -> tuple[int, str] | None:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return None
    free = soft - _open_files() - SPARE_FILES
    return max(1, free // FILES_OF_A_TASK), f"{soft} open files (ulimit -n)"


def _open_files() -> int:
    with suppress(OSError):
        return len(os.listdir("/dev/fd"))
    return SPARE_FILES


def _by_processes() -> tuple[int, str] | None:
    soft, _ = resource.getrlimit(resource.RLIMIT_NPROC)
    if soft == resource.RLIM_INFINITY or soft > MANY or os.getuid() == 0:
        return None
    free = soft - _processes() - SPARE_PROCESSES
    return max(1, free // PROCESSES_OF_A_TASK), f"{soft} processes (ulimit -u)"


def _processes() -> int:
    """How many processes and threads the user has; 0 where that cannot be seen cheaply."""
    count, uid = 0, os.getuid()
    with suppress(OSError):
        for entry in os.scandir("/proc"):
            with suppress(OSError):  # it has ended meanwhile
                if entry.name.isdecimal() and entry.stat().st_uid == uid:
                    count += len(os.listdir(f"/proc/{entry.name}/task"))
    return count
