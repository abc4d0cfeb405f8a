"""A turn on a server: had for a time, and for longer while its process lives.

A server does not see a process die, so a turn is a lease. It says when the next one may begin.
Whether this one may still write is another question, which `token` answers: it names the last one
who took the turn, and the server compares it with every write. So a machine that slept too long
goes on if nobody took the turn meanwhile, and spoils nothing if somebody did.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from clinvk.disk.closing import Closing
from clinvk.errors import SessionError
from clinvk.process import note as turn_note
from clinvk.store.redis import lua
from clinvk.store.redis.client import Server

PREFIX = "clinvk:"
TURNS = f"{PREFIX}turns"  # ids that have, or had, a lease


class LeaseTurn(Closing):
    """Renewed every third of its time by a thread, until it is closed."""

    def __init__(
        self,
        server: Server,
        id_: str,
        token: str,
        seconds: float,
        facts: str,
        ended: Callable[[LeaseTurn], None],
    ) -> None:
        self.id = id_
        self.token = token
        self.left = turn_note.decode(facts)
        self.kept_in = f"the key {turn_key(id_)} of the redis at {server.name}"
        self._server = server
        self._seconds = seconds
        self._ended = ended
        self._over = threading.Event()
        threading.Thread(target=self._renew, name=f"turn of {id_}", daemon=True).start()

    def note(self, facts: dict[str, Any]) -> None:
        values = [self.token, json.dumps(facts) if facts else ""]
        with suppress(SessionError):  # only the next clinvk's clean-up is lost
            self._server.run(lua.NOTE, [turn_key(self.id)], values)

    def close(self) -> None:
        self._end("")

    def abandon(self) -> None:
        self._end("leave")

    def _end(self, what: str) -> None:
        if self._over.is_set():
            return
        self._over.set()
        self._ended(self)
        keys = [lease_key(self.id), turn_key(self.id), TURNS]
        with suppress(SessionError):  # it ends by itself, a little later
            self._server.run(lua.END, keys, [self.token, what, self.id])

    def _renew(self) -> None:
        keys = [lease_key(self.id), turn_key(self.id)]
        values = [self.token, milliseconds(self._seconds)]
        while not self._over.wait(self._seconds / 3):
            with suppress(SessionError):  # the next write says what is wrong with the server
                if self._server.run(lua.RENEW, keys, values) == "lost":
                    return


def lease_key(id_: str) -> str:
    return f"{PREFIX}lease:{id_}"


def turn_key(id_: str) -> str:
    return f"{PREFIX}turn:{id_}"


def milliseconds(seconds: float) -> int:
    return max(1, round(seconds * 1000))
