"""The marker of the processes of a turn, and the timing of stopping them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, TypeGuard

PATIENCE = 1.5  # seconds between terminating and killing
MARKER = "CLINVK_RUN"  # in the environment of all that a run starts; nested runs are joined by "/"
ID_DIGITS = (
    32  # of the id of a run; the first ones are the process id of the clinvk that created it
)
PID_DIGITS = 8
NO_ID = "\0"  # which no environment contains
NO_GROUP = -1  # that no process is in
leaders: set[int] = set()  # the programs of all runs of this process, each of a group of its own


def new_marker(env: Mapping[str, str]) -> str:
    """The marker of a new run: its own id, after those of the runs that it was started from. A
    value in the environment that is not from clinvk is ignored."""
    run = f"{os.getpid():0{PID_DIGITS}x}{os.urandom((ID_DIGITS - PID_DIGITS) // 2).hex()}"
    outer = env.get(MARKER)
    return f"{outer}/{run}" if is_marker(outer) else run


def is_marker(value: Any) -> TypeGuard[str]:
    """Whether it has the form of a marker: ids of 32 hexadecimal digits, joined by "/"."""
    return isinstance(value, str) and all(map(_is_id, value.split("/")))


def own_id(marker: str) -> str | None:
    """The id of the marker's own run; None if it is not a marker."""
    return marker.rsplit("/", 1)[-1] if is_marker(marker) else None


def starter_of(marker: str) -> int | None:
    """The process id of the clinvk that created the marker, by which a running turn is recognized,
    whatever its note says. The digits of clinvk 0.1 were random, so the process may not exist; None
    if it cannot."""
    own = own_id(marker)
    pid = int(own[:PID_DIGITS], 16) if own else 0
    return pid if 1 < pid < 2**31 else None


def _is_id(text: str) -> bool:
    return len(text) == ID_DIGITS and not text.strip("0123456789abcdef")
