"""Stop what a killed clinvk left running of a turn, using the note that it left."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from clinvk.dispatch.off_loop import StoreCalls
from clinvk.process import note as turn_note
from clinvk.process.recovery import end_noted
from clinvk.store.base import Store, TurnLock


def turn_facts(marker: str, session_id: str) -> dict[str, Any]:
    """The note of a turn of this session in this process."""
    return turn_note.make(marker, _turn_of(session_id))


async def end_turn_leftovers(store: Store, turn: TurnLock, session_id: str) -> str:
    """Stop what the last turn of a session left running; return a sentence about it. The caller
    holds `turn`.

    Raises `SessionError` if it was started on another machine or in another container: from here
    it cannot be known to be dead."""

    def running_turns() -> list[dict[str, Any] | None]:
        return [store.running_turn(i) for i in store.running_ids() if i != session_id]

    async def others() -> Iterable[dict[str, Any] | None]:
        return await StoreCalls(store)(running_turns)

    what = f"the last turn of session {session_id}"
    return await end_noted(turn.leftover or {}, what, _turn_of(session_id), turn.location, others)


def _turn_of(session_id: str) -> str:
    return f"session {session_id}"
