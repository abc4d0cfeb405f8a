"""The right to the next turn of a session."""

from __future__ import annotations

from collections.abc import Callable

import anyio

from clinvk.dispatch import recovery
from clinvk.errors import SessionError
from clinvk.process import note
from clinvk.process.marker import own_id
from clinvk.store.base import Store, Turn

PAUSE = 0.05  # seconds between looks at a turn that another process has


async def turn_of(
    store: Store, id_: str, marker: str, *, wait: bool, notify: Callable[[str], None]
) -> Turn:
    """The turn, when no other one has it, and what a killed clinvk left of the last one is ended.
    Raises `SessionError` where waiting is not wanted, or would be for ever."""
    told = False
    while (turn := store.turn(id_)) is None:
        _check_not_ours(store, id_, marker)
        if not wait:
            raise SessionError(f"session {id_} is running", "leave out --no-wait to wait for it")
        if not told:
            notify(f"session {id_} is running; waiting for it to end (Ctrl-C gives up)")
            told = True
        await anyio.sleep(PAUSE)
    try:
        if turn.left:
            notify(await recovery.end_turn(store, turn, id_))
    except BaseException:
        turn.abandon()
        raise
    turn.note(recovery.turn_facts(marker, id_))
    return turn


def _check_not_ours(store: Store, id_: str, marker: str) -> None:
    """Raise where the turn that runs is the one that this command was started by."""
    try:
        own = own_id(note.parse(store.running(id_) or {}).marker)
    except note.InvalidNote:  # or it has not said yet
        return
    if own in marker.split("/")[:-1]:
        raise SessionError(
            f"session {id_} is running this very command, which would wait for itself",
            "use another session, or none",
        )
