"""The lease of the process that drives a run: it ends by itself when the process has died."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from clinvk.cluster.log import scripts
from clinvk.cluster.log.server import LogServer
from clinvk.disk.closing import Closing
from clinvk.errors import SessionError
from clinvk.runs.log import RunNotFound

LEASE = 15.0  # seconds
RENEWAL_INTERVAL = 0.25  # seconds; it is also how soon a driver knows that it is to stop
WHERE = " --cluster URL"  # what a command needs, unless the address is configured
AT_ONCE = 2  # how often a driver is asked to stop that is to do so at once


class RunLease(Closing):
    """Held while a process drives a run. A thread renews it, and reads how often the driver was
    asked to stop."""

    # What a killed driver left running belongs to the workers, each of which has its own lease.
    leftover: dict[str, Any] | None = None

    def __init__(
        self,
        server: LogServer,
        run: str,
        seconds: float = LEASE,
        on_lost: Callable[[], None] = lambda: None,
        where: str = WHERE,
    ) -> None:
        """`on_lost` is called, in any thread, once another process drives the run; `where` are the flags
        with which a command finds it. Raises `SessionError` if another process has it, `RunNotFound` if
        the run was deleted."""
        keys = server.keys
        self.location = f"the key {keys.driver(run)} of the redis at {server.place}"
        self.token = os.urandom(16).hex()
        self.asked = 0
        self._on_lost = on_lost
        self._server = server
        self._run = run
        self._where = where
        self._keys = [keys.run_log(run), keys.driver(run), keys.due()]
        self._seconds = seconds
        self._ended = threading.Event()
        answer = server.run(scripts.LOCK, self._keys, [self.token, self._lasts, run])
        if answer == "gone":
            raise RunNotFound(
                f"run {run} has been deleted", f"see them all: clinvk runs list{where}"
            )
        if answer != "locked":
            raise SessionError(
                f"run {run} is running",
                f"see it with: clinvk runs watch {run}{where}; cancel it with: "
                f"clinvk runs cancel {run}{where}",
            )
        self._thread = threading.Thread(target=self._renew, name=f"lease of {run}", daemon=True)
        self._thread.start()

    @property
    def _lasts(self) -> int:
        return max(1, round(self._seconds * 1000))

    def note(self, facts: dict[str, Any]) -> None:
        with suppress(SessionError):  # only who drives it is not shown then
            text = json.dumps(facts) if facts else ""
            self._server.run(scripts.NOTE, self._keys[:2], [self.token, text])

    def close(self) -> None:
        if self._ended.is_set():
            return
        self._ended.set()
        self._thread.join()
        journal = self._server.keys.journal(self._run)
        with suppress(SessionError):  # it expires by itself, a little later
            self._server.run(scripts.RELEASE, [*self._keys, journal], [self.token, self._run])

    def abandon(self) -> None:
        self.close()

    def check(self, answer: Any) -> None:
        """Raise `SessionError` if a script has refused to write."""
        if answer == "lost":
            self._on_lost()
            raise SessionError(
                f"run {self._run} is driven by another process now, or was deleted",
                f"see it with: clinvk runs watch {self._run}{self._where}",
            )

    def _renew(self) -> None:
        while not self._ended.wait(min(RENEWAL_INTERVAL, self._seconds / 3)):
            with suppress(SessionError):  # the next write reports the error of the server
                answer = self._server.run(
                    scripts.RENEW, self._keys, [self.token, self._lasts, self._run]
                )
                if answer == "lost":
                    self._on_lost()
                    return
                self.asked = int(answer)
