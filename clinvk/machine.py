"""Which process, of which machine: enough to find it again and to mistake nobody for it."""

from __future__ import annotations

import os
import socket
import sys
import time
from functools import cache
from typing import Any


def this_process() -> dict[str, Any]:
    return {"clinvk": os.getpid(), "since": time.time(), **this_machine()}


def this_machine() -> dict[str, Any]:
    """`boot` changes whenever it starts; process numbers mean something in one `namespace`."""
    # macOS takes its name from the network, and another one there would mean nothing.
    host = None if sys.platform == "darwin" else socket.gethostname()
    return {"host": host, "boot": _boot(), "namespace": _namespace()}


def is_gone(process: dict[str, Any]) -> bool:
    """Whether it is known to be dead: one of this machine, since the same start of it, whose
    number nobody has now, or somebody younger has."""
    if {k: process.get(k) for k in ("host", "boot", "namespace")} != this_machine():
        return False
    import psutil  # 10 ms, and asked only where somebody has what we want

    try:
        born = psutil.Process(int(process["clinvk"])).create_time()
    except psutil.NoSuchProcess:
        return True
    except (psutil.Error, KeyError, ValueError):
        return False
    return born > float(process.get("since") or 0) + 1  # clocks are not exact to the second


@cache
def _boot() -> str | None:
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            return file.read().strip()
    except OSError:
        return None  # macOS: the times of birth decide alone


def _namespace() -> str | None:
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return None
