"""The right to the next turn of a session."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress

import anyio

from clinvk.dispatch import recovery
from clinvk.dispatch.off_loop import StoreCalls, StoreGaveUp
from clinvk.errors import SessionError
from clinvk.process import note
from clinvk.process.marker import own_id
from clinvk.store.base import TurnLock

POLL_INTERVAL = 0.05  # seconds between looks at a turn that another process has


async def acquire_turn(
    calls: StoreCalls, session_id: str, marker: str, *, wait: bool, notify: Callable[[str], None]
) -> TurnLock:
    """The turn, when no other one has it, and what a killed clinvk left of the last one is ended.
    Raises `SessionError` where waiting is not wanted, or would be for ever."""
    told = False
    store = calls.store
    while (turn := await calls(lambda: store.acquire_turn(session_id), _let_go)) is None:
        await _check_not_own_turn(calls, session_id, marker)
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
        facts = recovery.turn_facts(marker, session_id)
        await calls(lambda: turn.note(facts))
    except BaseException:
        await release_turn(calls, turn.abandon)
        raise
    return turn


async def release_turn(calls: StoreCalls, release: Callable[[], None]) -> None:
    """Let go of a turn: `release` is its `close` or `abandon`. Who is cancelled waits for that, and
    not for long."""
    with anyio.CancelScope(shield=True):
        try:
            await calls(release)
        except StoreGaveUp:  # nobody waits for it; a lease that is left has the next turn wait
            with suppress(RuntimeError):  # no thread can be started
                threading.Thread(target=release, name="release of a turn", daemon=True).start()


def _let_go(turn: TurnLock | None) -> None:
    if turn is not None:
        turn.abandon()


async def _check_not_own_turn(calls: StoreCalls, session_id: str, marker: str) -> None:
    """Raise where the turn that runs is the one that this command was started by."""
    try:
        facts = await calls(lambda: calls.store.running_turn(session_id))
        own = own_id(note.parse(facts or {}).marker)
    except note.InvalidNote:  # or it has not said yet
        return
    if own in marker.split("/")[:-1]:
        raise SessionError(
            f"session {session_id} is running this very command, which would wait for itself",
            "use another session, or none",
        )
