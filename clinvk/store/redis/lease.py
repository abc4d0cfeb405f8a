"""A turn on a server: a lease that its process renews while it lives.

A server does not see a process die, so a turn is a lease. It says when the next one may start.
Whether this one may still write is a separate question, which `token` answers: it identifies the
last process that took the turn, and the server compares it with every write. So a machine that
slept too long continues if no other process took the turn meanwhile, and does no harm otherwise.
"""

from __future__ import annotations

import json
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
from clinvk.store.redis.renewals import Renewals

PREFIX = "clinvk:"
TURNS = f"{PREFIX}turns"  # ids that have or had a lease

Complete = Callable[["LeaseLock", Iterable[Message], Change], Session]


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
