"""Deleting sessions, with what else is stored or still runs for them."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from pathlib import Path

from clinvk.config.stored_options import forget_sessions
from clinvk.dispatch import recovery
from clinvk.model.session import Session
from clinvk.sessions.kept_state import with_their_state
from clinvk.store.base import Query, Store
from clinvk.store.codec import LeftBehind, running_error


def delete_from_store(
    store: Store, home: Path, session_id: str, notify: Callable[[str], None] = lambda _: None
) -> None:
    """Delete a session, and the conversation that clinvk keeps for it in its `home`; what its last
    turn left running, if its clinvk was killed, is stopped first, and `notify` gets a message about
    it. Raises `SessionError`."""

    def delete() -> None:
        try:
            store.delete(session_id)
        except LeftBehind:
            if told := _end_leftovers(store, session_id):
                notify(told)
            store.delete(session_id)

    with_their_state(store, home, lambda: [session_id], delete)
    _forget(home, [session_id])


def clean_store(store: Store, home: Path, before: str, *, dry_run: bool) -> list[str]:
    """Delete the sessions that were not used since then; return their ids."""
    if dry_run:
        return store.clean(before, dry_run=True)
    gone = with_their_state(
        store, home, lambda: store.clean(before, dry_run=True), lambda: store.clean(before)
    )
    _forget(home, gone)
    return gone


def find_interrupted(store: Store, before: str, gone: Collection[str]) -> list[str]:
    """Those of the sessions not used since then that `clean_store`, which found those in `gone`,
    leaves alone, since their last turn was killed."""
    old = [s.id for s in store.select(Query(before=before)) if isinstance(s, Session)]
    return [id_ for id_ in old if id_ not in gone and store.running_turn(id_) is None]


def _forget(home: Path, ids: list[str]) -> None:
    """Forget what else is stored of sessions that were deleted."""
    forget_sessions(home, ids)
    if os.path.isdir(home / "knowledge"):
        # SQLite: only if there is an index.
        from clinvk.knowledge.conversations import forget_conversations

        forget_conversations(home, ids)


def _end_leftovers(store: Store, session_id: str) -> str | None:
    """Stop what the last turn left running; return a sentence about it, or None if another clinvk
    has done so meanwhile."""
    # 10 ms, and rarely needed.
    from concurrent.futures import ThreadPoolExecutor

    # 45 ms, and needed only once something runs.
    import anyio

    turn = store.acquire_turn(session_id)
    if turn is None:
        raise running_error(session_id)
    if not turn.leftover:
        turn.close()
        return None
    try:
        # In a thread, since the caller's may run an event loop of its own.
        with ThreadPoolExecutor(1) as pool:
            told = pool.submit(
                anyio.run, recovery.end_turn_leftovers, store, turn, session_id
            ).result()
    except BaseException:
        turn.abandon()
        raise
    turn.close()
    return told
