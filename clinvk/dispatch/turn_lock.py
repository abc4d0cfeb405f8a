"""The right to the next turn of a session."""

from __future__ import annotations

from collections.abc import Callable

import anyio

from clinvk.dispatch import recovery
from clinvk.errors import SessionError
from clinvk.process import note
from clinvk.process.marker import own_id
from clinvk.store.base import Store, TurnLock

POLL_INTERVAL = 0.05  # seconds between looks at a turn that another process has


async def acquire_turn(
    store: Store, session_id: str, marker: str, *, wait: bool, notify: Callable[[str], None]
) -> TurnLock:
    """The turn, when no other one has it, and what a killed clinvk left of the last one is ended.
    Raises `SessionError` where waiting is not wanted, or would be for ever."""
    told = False
    while (turn := store.acquire_turn(session_id)) is None:
        _check_not_own_turn(store, session_id, marker)
        if not wait:
            raise SessionError(
                f"session {session_id} is running", "leave out --no-wait to wait for it"
            )
        if not told:
            notify(f"session {session_id} is running; waiting for it to end (Ctrl-C gives up)")
            told = True
        await anyio.sleep(POLL_INTERVAL)
    try:
        if turn.leftover:
            notify(await recovery.end_turn_leftovers(store, turn, session_id))
    except BaseException:
        turn.abandon()
        raise
    turn.note(recovery.turn_facts(marker, session_id))
    return turn


def _check_not_own_turn(store: Store, session_id: str, marker: str) -> None:
    """Raise where the turn that runs is the one that this command was started by."""
    try:
        own = own_id(note.parse(store.running_turn(session_id) or {}).marker)
    except note.InvalidNote:  # or it has not said yet
        return
    if own in marker.split("/")[:-1]:
        raise SessionError(
            f"session {session_id} is running this very command, which would wait for itself",
            "use another session, or none",
        )
