"""The processes of a run: found by group, descent and marker, and stopped safely.

A process belongs to a run only if it has the same user, was started after the run, and is in the
run's process group, descends from its program, or has the run's marker in its environment. All of
this is checked again before a signal, so that a process that got the same id later is safe.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress

import anyio
import psutil

from clinvk.process.marker import MARKER, PATIENCE, own_id

CLOCK_TOLERANCE = 2.0  # seconds by which a start may seem earlier than it was: clock ticks, and NTP
KILL_TIMEOUT = 1.0  # seconds for killing
POLL_INTERVAL = 0.01  # seconds


class ProcessTree:
    def __init__(self, group: int, marker: str, since: float) -> None:
        """A group that no program of clinvk can lead, and a marker that clinvk did not create,
        match no process."""
        self.group = group if group > 1 and group != os.getpgrp() else 0
        self.since = since
        self._own_marker = own_id(marker)
        self.members: dict[int, psutil.Process] = {}

    @classmethod
    def of_program(cls, pid: int, marker: str) -> ProcessTree:
        """The tree of a running program that leads its own group. Its descendants are recorded now,
        since after its exit their parent is unknown."""
        family = cls(pid, marker, 0.0)
        with suppress(psutil.Error):
            leader = psutil.Process(pid)
            family.since = leader.create_time() - CLOCK_TOLERANCE
            for process in [leader, *leader.children(recursive=True)]:
                family._add(process)
        family.refresh()
        return family

    @classmethod
    def left_behind(cls, marker: str, since: float) -> ProcessTree:
        """The tree of a run whose clinvk is dead: the id of its group is no longer proof, so only
        the marker counts."""
        family = cls(0, marker, since - CLOCK_TOLERANCE)
        family.refresh()
        return family

    @property
    def alive(self) -> list[psutil.Process]:
        return [p for p in self.members.values() if self._is_alive(p)]

    @property
    def oldest(self) -> float:
        """When the first of the members was started, in seconds since 1970."""
        born = [float("inf")]
        for process in self.members.values():
            with suppress(psutil.Error):
                born.append(process.create_time())
        return min(born)

    def refresh(self) -> None:
        """Add processes that have appeared since."""
        for process in self._relatives():
            self._add(process)

    def send_signal(self, number: signal.Signals) -> None:
        """Signal the group at once, then each member outside it."""
        if self.group and self._is_group_alive():
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.group, number)
        for process in self.alive:
            if not self.group or _process_group(process.pid) != self.group:
                send(process, number)

    async def wait_until_gone(self) -> None:
        """Wait until no member is left."""
        while self.alive:  # noqa: ASYNC110 - nobody tells us
            await anyio.sleep(POLL_INTERVAL)

    async def kill_all(self) -> None:
        """Kill until nothing is left, or for a second, including processes started meanwhile."""
        deadline = time.monotonic() + KILL_TIMEOUT
        while time.monotonic() < deadline:
            self.refresh()
            if not self.alive:
                return
            self.send_signal(signal.SIGKILL)
            await anyio.sleep(POLL_INTERVAL)

    async def terminate_then_kill(self) -> None:
        """Terminate, wait, then kill."""
        self.send_signal(signal.SIGTERM)
        with anyio.move_on_after(PATIENCE):
            await self.wait_until_gone()
        await self.kill_all()

    def _add(self, process: psutil.Process) -> None:
        with suppress(psutil.Error):
            if process.create_time() >= self.since and process.pid != os.getpid():
                self.members.setdefault(process.pid, process)

    def _relatives(self) -> Iterator[psutil.Process]:
        me = os.getuid()
        for process in psutil.process_iter():
            with suppress(psutil.Error, ProcessLookupError, PermissionError):
                if process.pid == os.getpid() or process.uids().real != me:
                    continue
                if (self.group and _process_group(process.pid) == self.group) or self._has_marker(
                    process
                ):
                    yield process

    def _has_marker(self, process: psutil.Process) -> bool:
        """Whether it has the marker; False if its environment cannot be read (macOS protects
        some)."""
        with suppress(psutil.Error, OSError):
            chain = process.environ().get(MARKER)
            return (
                chain is not None
                and self._own_marker is not None
                and self._own_marker in chain.split("/")
            )
        return False

    def _is_group_alive(self) -> bool:
        """Whether the group is still the one that the program led."""
        leader = self.members.get(self.group)
        if leader is not None and leader.is_running():
            return True
        return any(_process_group(p.pid) == self.group for p in self.alive)

    @staticmethod
    def _is_alive(process: psutil.Process) -> bool:
        """Whether it is running and still the same: psutil compares start times."""
        with suppress(psutil.Error):
            return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
        return False


def _process_group(pid: int) -> int:
    try:
        return os.getpgid(pid)
    except (ProcessLookupError, PermissionError):
        return -1


def send(process: psutil.Process, number: signal.Signals) -> None:
    """Signal through a pidfd if available, the only way that cannot hit another process."""
    with suppress(psutil.Error, ProcessLookupError, PermissionError):
        if not hasattr(os, "pidfd_open"):
            process.send_signal(number)  # psutil checks the start time first
            return
        fd = os.pidfd_open(process.pid)
        try:
            if process.is_running():
                signal.pidfd_send_signal(fd, number)
        finally:
            os.close(fd)
