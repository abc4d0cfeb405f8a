"""A turn on a server: a lease that its process renews while it lives.

A server does not see a process die, so a turn is a lease. It says when the next one may start.
Whether this one may still write is a separate question, which `token` answers: it identifies the
last process that took the turn, and the server compares it with every write. So a machine that
slept too long continues if no other process took the turn meanwhile, and does no harm otherwise.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from clinvk.disk.closing import Closing
from clinvk.disk.waiting import check_may_block
from clinvk.errors import SessionError
from clinvk.process import note as turn_note
from clinvk.store.redis import lua
from clinvk.store.redis.client import RedisClient

PREFIX = "clinvk:"
TURNS = f"{PREFIX}turns"  # ids that have or had a lease


class LeaseLock(Closing):
    """A lease that a thread renews after each third of its time, until it is closed."""

    def __init__(
        self,
        server: RedisClient,
        session_id: str,
        token: str,
        seconds: float,
        facts: str,
        on_ended: Callable[[LeaseLock], None],
    ) -> None:
        self.id = session_id
        self.token = token
        self.leftover = turn_note.decode(facts)
        self.location = f"the key {turn_key(session_id)} of the redis at {server.name}"
        self._server = server
        self._seconds = seconds
        self._on_ended = on_ended
        self._stop_renewal = threading.Event()
        self._released = False
        threading.Thread(target=self._renew, name=f"turn of {session_id}", daemon=True).start()

    def note(self, facts: dict[str, Any]) -> None:
        values = [self.token, json.dumps(facts) if facts else ""]
        with suppress(SessionError):  # only the next clinvk's clean-up is lost
            self._server.run_script(lua.NOTE, [turn_key(self.id)], values)

    def close(self) -> None:
        self._release("")

    def abandon(self) -> None:
        self._release("leave")

    def _release(self, what: str) -> None:
        if self._released:
            return
        self._stop_renewal.set()
        self._on_ended(self)
        check_may_block()  # the part above does not, and may be all that there is time for
        self._released = True
        keys = [lease_key(self.id), turn_key(self.id), TURNS]
        with suppress(SessionError):  # it expires by itself, a little later
            self._server.run_script(lua.END, keys, [self.token, what, self.id])

    def _renew(self) -> None:
        keys = [lease_key(self.id), turn_key(self.id)]
        values = [self.token, milliseconds(self._seconds)]
        while not self._stop_renewal.wait(self._seconds / 3):
            with suppress(SessionError):  # the next write reports the error of the server
                if self._server.run_script(lua.RENEW, keys, values) == "lost":
                    return


def lease_key(session_id: str) -> str:
    return f"{PREFIX}lease:{session_id}"


def turn_key(session_id: str) -> str:
    return f"{PREFIX}turn:{session_id}"


def milliseconds(seconds: float) -> int:
    return max(1, round(seconds * 1000))
