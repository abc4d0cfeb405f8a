"""The lock for the next turn of a session."""

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

POLL_INTERVAL = 0.05  # seconds between checks of a turn that another process holds


async def acquire_turn(
    calls: StoreCalls, session_id: str, marker: str, *, wait: bool, notify: Callable[[str], None]
) -> TurnLock:
    """Wait for the turn, and stop what a killed clinvk left of the last one. Raises `SessionError`
    if waiting is not wanted, or would never end."""
    told = False
    store = calls.store
    while (turn := await calls(lambda: store.acquire_turn(session_id), _let_go)) is None:
        await _check_not_own_turn(calls, session_id, marker)
        if not wait:
            raise SessionError(
                f"session {session_id} is running", "leave out --no-wait to wait for it"
            )
        if not told:
            notify(f"session {session_id} is running; waiting for it to stop (Ctrl-C to cancel)")
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
    """Release a turn: `release` is its `close` or `abandon`. A cancelled caller waits for that, but
    not for long."""
    with anyio.CancelScope(shield=True):
        try:
            await calls(release)
        except StoreGaveUp:  # not waited for any longer; a remaining lease delays the next turn
            with suppress(RuntimeError):  # no thread can be started
                threading.Thread(target=release, name="release of a turn", daemon=True).start()


def _let_go(turn: TurnLock | None) -> None:
    if turn is not None:
        turn.abandon()


async def _check_not_own_turn(calls: StoreCalls, session_id: str, marker: str) -> None:
    """Raise if the running turn is the one that started this command."""
    try:
        facts = await calls(lambda: calls.store.running_turn(session_id))
        own = own_id(note.parse(facts or {}).marker)
    except note.InvalidNote:  # or it is not written yet
        return
    if own in marker.split("/")[:-1]:
        raise SessionError(
            f"session {session_id} started this command, which would wait for itself",
            "use another session, or --ephemeral",
        )
