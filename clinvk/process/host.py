"""Identifies a process and its machine, so that it can be found again and not be confused."""

from __future__ import annotations

import os
import sys
import time
from functools import cache
from typing import Any


def this_process() -> dict[str, Any]:
    return {"clinvk": os.getpid(), "since": time.time(), **this_machine()}


def this_machine() -> dict[str, Any]:
    """`boot` changes at each start of the machine; process ids mean something in one
    `namespace`."""
    # macOS takes its name from the network, so a different name means nothing there. On Linux this
    # is what `socket.gethostname` returns, without the 3 ms of importing it.
    host = None if sys.platform == "darwin" else os.uname().nodename
    return {"host": host, "boot": _boot(), "namespace": _namespace()}


@cache
def _boot() -> str | None:
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            return file.read().strip()
    except OSError:
        return None  # macOS: start times decide alone


def _namespace() -> str | None:
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return None
