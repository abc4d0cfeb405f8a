"""How many tasks this process can run at a time: each takes open files and processes."""

from __future__ import annotations

import os
import resource
from contextlib import suppress

FILES_OF_A_TASK = 9  # its pipes, event log, session lock, and the file that signals its exit
SPARE_FILES = 32  # for the journal, the stores, and a program that is being started
PROCESSES_OF_A_TASK = 12  # threads count, and node alone starts eleven
SPARE_PROCESSES = 10  # threads of clinvk
MANY = 32_768  # a higher limit on processes is not checked


def room() -> tuple[int, str] | None:
    """How many tasks can run, at least one, and the limit that decides it; None without a limit."""
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
    """The number of processes and threads of the user; 0 if that cannot be read cheaply."""
    count, uid = 0, os.getuid()
    with suppress(OSError):
        for entry in os.scandir("/proc"):
            with suppress(OSError):  # it has exited meanwhile
                if entry.name.isdecimal() and entry.stat().st_uid == uid:
                    count += len(os.listdir(f"/proc/{entry.name}/task"))
    return count
