"""A turn on a server: a lease that its process renews while it lives.

A server does not see a process die, so a turn is a lease. It says when the next one may start.
Whether this one may still write is a separate question, which `token` answers: it identifies the
last process that took the turn, and the server compares it with every write. So a machine that
slept too long continues if no other process took the turn meanwhile, and does no harm otherwise.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

from clinvk.disk.closing import Closing
from clinvk.disk.waiting import check_may_block
from clinvk.errors import SessionError
from clinvk.model.session import Message, Session
from clinvk.process import note as turn_note
from clinvk.store.base import Change
from clinvk.store.redis import lua
from clinvk.store.redis.client import RedisClient

PREFIX = "clinvk:"
TURNS = f"{PREFIX}turns"  # ids that have or had a lease

Complete = Callable[["LeaseLock", Iterable[Message], Change], Session]


class Renewals:
    """Renews the leases of a store after each third of their time, all of them in one thread."""

    def __init__(self, server: RedisClient, seconds: float) -> None:
        self._server = server
        self._seconds = seconds
        self._closed = False
        self._begin()

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._due: dict[LeaseLock, float] = {}  # by lease: when, on the monotonic clock
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._waits_for_lease = False

    def add(self, lease: LeaseLock) -> None:
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

    def remove(self, lease: LeaseLock) -> None:
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

    def _next(self) -> LeaseLock | None:
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


class LeaseLock(Closing):
    """A lease that is renewed until it is closed."""

    def __init__(
        self,
        server: RedisClient,
        session_id: str,
        token: str,
        seconds: float,
        facts: str,
        renewals: Renewals,
        on_ended: Callable[[LeaseLock], None],
        complete: Complete,
    ) -> None:
        """`facts` is the note of the turn before, if that was killed."""
        self.id = session_id
        self.token = token
        self.leftover = turn_note.decode(facts)
        self.location = f"the key {turn_key(session_id)} of the redis at {server.name}"
        self._server = server
        self._seconds = seconds
        self._renewals = renewals
        self._on_ended = on_ended
        self._complete = complete
        self._released = False
        renewals.add(self)

    def note(self, facts: dict[str, Any]) -> None:
        values = [self.token, json.dumps(facts) if facts else ""]
        with suppress(SessionError):  # only the next clinvk's clean-up is lost
            self._server.run_script(lua.NOTE, [turn_key(self.id)], values)

    def complete(self, messages: Iterable[Message], change: Change) -> Session:
        """Append to the session, and end the turn in the same step. Raises `SessionError`."""
        session = self._complete(self, messages, change)
        self._released = True
        self._give_up()
        return session

    def close(self) -> None:
        self._release("")

    def abandon(self) -> None:
        self._release("leave")

    def renew(self) -> bool:
        """Renew it; False if that is over, since another process has taken the turn."""
        keys = [lease_key(self.id), turn_key(self.id)]
        with suppress(Exception):  # the next write reports it, and this thread renews others, too
            values = [self.token, milliseconds(self._seconds)]
            return bool(self._server.run_script(lua.RENEW, keys, values) != "lost")
        return True

    def _release(self, what: str) -> None:
        if self._released:
            return
        self._give_up()
        check_may_block()  # the part above does not, and may be all that there is time for
        self._released = True
        keys = [lease_key(self.id), turn_key(self.id), TURNS]
        with suppress(SessionError):  # it expires by itself, a little later
            self._server.run_script(lua.END, keys, [self.token, what, self.id])

    def _give_up(self) -> None:
        self._renewals.remove(self)
        self._on_ended(self)


def lease_key(session_id: str) -> str:
    return f"{PREFIX}lease:{session_id}"


def turn_key(session_id: str) -> str:
    return f"{PREFIX}turn:{session_id}"


def milliseconds(seconds: float) -> int:
    return max(1, round(seconds * 1000))
