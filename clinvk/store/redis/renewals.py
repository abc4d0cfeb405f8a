"""Keeping leases: one thread renews all those of a store."""

from __future__ import annotations

import os
import threading
import time
from typing import Protocol


class Renewable(Protocol):
    def renew(self) -> bool:
        """Renew it; False if that is over. Raises nothing."""
        ...


class Renewals:
    """Renews the leases of a store after each third of their time, all of them in one thread."""

    def __init__(self, seconds: float) -> None:
        """`seconds` is how long each lease lasts."""
        self._seconds = seconds
        self._closed = False
        self._begin()

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._due: dict[Renewable, float] = {}  # by lease: when, on the monotonic clock
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._waits_for_lease = False

    def add(self, lease: Renewable) -> None:
        if self._pid != os.getpid():  # a fork has no threads
            self._begin()
        with self._changed:
            self._due[lease] = time.monotonic() + self._seconds / 3
            if self._thread is None:
                thread = threading.Thread(target=self._run, name="leases", daemon=True)
                thread.start()  # which may fail
                self._thread = thread
            elif self._waits_for_lease:  # otherwise it looks soon enough: this one is the last
                self._changed.notify()

    def remove(self, lease: Renewable) -> None:
        with self._changed:
            self._due.pop(lease, None)
            if self._closed:
                self._changed.notify()

    def close(self) -> None:
        """End the thread once the last lease is given up."""
        with self._changed:
            self._closed = True
            self._changed.notify()

    def _run(self) -> None:
        while (lease := self._next()) is not None:
            if not lease.renew():
                self.remove(lease)

    def _next(self) -> Renewable | None:
        """The next lease that is to be renewed, at the time for that; None at the end."""
        with self._changed:
            while True:
                self._waits_for_lease = not self._due
                if self._waits_for_lease:
                    if self._closed:
                        self._thread = None
                        return None
                    self._changed.wait()
                    continue
                lease = min(self._due, key=self._due.__getitem__)
                now = time.monotonic()
                if self._due[lease] <= now:
                    self._due[lease] = now + self._seconds / 3
                    return lease
                self._changed.wait(self._due[lease] - now)
