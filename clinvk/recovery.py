"""What a turn notes so that it can be ended by somebody else, and how that is done."""

from __future__ import annotations

import os
import socket
import time
from typing import Any

from clinvk.errors import SessionError


def facts(marker: str, group: int | None = None) -> dict[str, Any]:
    """Who runs what, where, since when: enough to find it again and to mistake nobody for it."""
    return {
        "run": marker,
        "clinvk": os.getpid(),
        "group": group,
        "since": time.time(),
        "host": socket.gethostname(),
        "boot": _boot(),
        "namespace": _namespace(),
    }


async def end(left: dict[str, Any], id_: str) -> str | None:
    """End what a turn left behind whose clinvk was killed; the sentence that tells of it.

    Raises `SessionError` where the turn was begun on another machine or in another container:
    from here nobody can say that it is dead."""
    if (left.get("host"), left.get("namespace")) != (socket.gethostname(), _namespace()):
        raise SessionError(
            f"session {id_} has a turn that was started on {left.get('host')} and may run there",
            f"make sure that it has ended, then delete locks/{id_} in clinvk's folder",
        )
    told = f"the last turn of session {id_} was cut off: its clinvk was killed"
    if left.get("boot") != _boot():
        return told
    from clinvk.family import Family  # psutil, 10 ms: seldom

    family = Family.left_by(str(left.get("run")), float(left.get("since") or 0))
    count = len(family.alive)
    if count:
        await family.ask_and_end()
        told += f"; {count} process{'es' * (count > 1)} that it left running {'were' if count > 1 else 'was'} ended"
    return told


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
