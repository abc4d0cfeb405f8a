"""The note that clinvk writes while it runs a turn or a run, and which processes it allows to stop.

A note is read from a lock file or a server, so anyone who can write there may have forged it.
Nothing in it is used before `parse` has checked all of it: an invalid note never leads to a signal.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from clinvk.process import host as machine
from clinvk.process.marker import is_marker, own_id, starter_of

if TYPE_CHECKING:
    import psutil

CLOCK = 2.0  # seconds by which clocks may disagree: ticks, rounding, NTP
MOST = 2**31 - 1  # no system has larger process ids
UNREADABLE = (
    "unreadable"  # key of a note that is not a JSON object; its value is the beginning of it
)
SHOWN = 60  # characters of a value in a message


class InvalidNote(ValueError):  # noqa: N818 - reads as what it says
    """The note was not written by clinvk."""


class Process(Struct, frozen=True):
    """A clinvk process: its id, a time at which it was running (seconds since 1970), and its
    host."""

    pid: int
    since: float
    host: str | None
    boot: str | None
    namespace: str | None

    @property
    def is_local(self) -> bool:
        """Whether it belongs to this machine and this container."""
        here = machine.this_machine()
        return (self.host, self.namespace) == (here["host"], here["namespace"])

    @property
    def place(self) -> str:
        """A description of its host."""
        return self.host or "another machine"

    @property
    def is_of_this_boot(self) -> bool:
        return bool(self.boot == machine.this_machine()["boot"])


class Note(Struct, frozen=True):
    """`marker` is in the environment of everything that `process` started for `of`: "session 12" or
    "run r12", or unknown (None) in the notes of clinvk 0.1."""

    process: Process
    marker: str
    of: str | None


def make(marker: str, of: str) -> dict[str, Any]:
    """The note of this process, as it is stored."""
    return {"run": marker, "of": of, **machine.this_process()}


def decode(data: bytes | str | None) -> dict[str, Any] | None:
    """A note as stored, unchecked; None if there is none."""
    if not data:
        return None
    text = data.decode("utf-8", "replace") if isinstance(data, bytes) else data
    with suppress(ValueError, RecursionError):
        found = json.loads(text)
        if isinstance(found, dict):
            return found or None
    return {UNREADABLE: text[:SHOWN]}


def parse(raw: Mapping[str, Any], of: str | None = None) -> Note:
    """The checked note. Raises `InvalidNote` if clinvk cannot have written it, or if it was written
    for something other than `of`."""
    if UNREADABLE in raw:
        raise InvalidNote(f"not a JSON object: {raw[UNREADABLE]!r}")
    marker = raw.get("run")
    if not is_marker(marker):
        raise InvalidNote(f"'run' is {_shown(marker)}, not a marker of clinvk")
    owner = raw.get("of")
    if not (owner is None or isinstance(owner, str)):
        raise InvalidNote(f"'of' is {_shown(owner)}, not text")
    if of is not None and owner not in (None, of):
        raise InvalidNote(f"it was written for {_shown(owner)}")
    return Note(parse_process(raw), marker, owner)


def parse_process(raw: Mapping[str, Any]) -> Process:
    """The process that a note names, after checks. Raises `InvalidNote`."""
    pid, since = raw.get("clinvk"), raw.get("since")
    if isinstance(pid, bool) or not isinstance(pid, int) or not 1 < pid <= MOST:
        raise InvalidNote(f"'clinvk' is {_shown(pid)}, not a process id")
    if isinstance(since, bool) or not isinstance(since, (int, float)):
        raise InvalidNote(f"'since' is {_shown(since)}, not a time")
    if not 0 < since < 1e11:  # NaN is neither
        raise InvalidNote(f"'since' is {_shown(since)}, not a time in seconds since 1970")
    places = [_text_or_none(raw, name) for name in ("host", "boot", "namespace")]
    process = Process(pid, float(since), *places)
    if process.is_local and process.is_of_this_boot:  # the clocks of other machines may differ
        _check_time(process.since)
    return process


def is_gone(process: Process) -> bool:
    """Whether it is known to be dead: it ran on this machine since the last boot, and its id is
    unused, or belongs to a younger process or a zombie."""
    if not (process.is_local and process.is_of_this_boot):
        return False
    import psutil  # 10 ms, and only needed for a lock that is held

    try:
        found = psutil.Process(process.pid)
        return found.create_time() > process.since + 1 or found.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
    except psutil.Error:
        return False


def starter_lives(marker: str, oldest: float) -> bool:
    """Whether the clinvk that created the marker is still alive, given the start of the oldest
    process that carries it (seconds since 1970). False for a marker of clinvk 0.1, which does not
    name its creator."""
    # 10 ms, and only needed for a turn that was killed.
    import psutil

    pid = starter_of(marker)
    if pid is None:
        return False
    try:
        found = psutil.Process(pid)
        # A process that got the same id later is younger than those that the first one started.
        return found.create_time() <= oldest and found.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
    except psutil.Error:
        return True  # it exists, and nothing more can be found out


def is_marked_by(raw: Mapping[str, Any] | None, marker: str) -> bool:
    """Whether a note belongs to the marker's own turn or run, or to a nested one."""
    if not raw:
        return False
    with suppress(InvalidNote):
        return own_id(marker) in parse(raw).marker.split("/")
    return False


def driver(process: Process, lock: str | os.PathLike[str]) -> psutil.Process | None:
    """The running process that a note names, if it really has the lock file open; otherwise
    None."""
    # 10 ms, and only needed for a turn that was killed.
    import psutil

    try:
        found = psutil.Process(process.pid)
        if found.create_time() > process.since + 1:
            return None
        is_open = any(_is_same(file.path, lock) for file in found.open_files())
    except (psutil.Error, OSError):
        return None
    return found if is_open else None


def _is_same(path: str, other: str | os.PathLike[str]) -> bool:
    with suppress(OSError):
        return os.path.samefile(path, other)
    return False


def _check_time(since: float) -> None:
    # 10 ms, and only needed for a turn that was killed.
    import psutil

    if since > time.time() + CLOCK:
        raise InvalidNote(f"'since' is {_shown(since)}, which is in the future")
    if since < psutil.boot_time() - CLOCK:
        raise InvalidNote(f"'since' is {_shown(since)}, before this machine was started")


def _text_or_none(raw: Mapping[str, Any], name: str) -> str | None:
    value = raw.get(name)
    if value is None or isinstance(value, str):
        return value
    raise InvalidNote(f"{name!r} is {_shown(value)}, not text")


def _shown(value: Any) -> str:
    if value is None:
        return "missing"
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > 10**SHOWN:
        return "a huge number"  # Python refuses to print some of these
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"
