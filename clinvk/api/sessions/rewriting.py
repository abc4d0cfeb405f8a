"""Changing stored sessions and transcripts in one step, while others may write to them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from msgspec.structs import replace

from clinvk.errors import SessionError
from clinvk.model.session import Session
from clinvk.sessions import transform
from clinvk.sessions.participants import check_participants
from clinvk.store.base import Store
from clinvk.store.codec import running_error


def save_over(store: Store, given: Session) -> None:
    """Store a session that was read from the store and changed. Raises `SessionError` if the stored one was
    changed meanwhile, and has messages that would be lost."""

    def edit(stored: Session) -> Session:
        if not _is_extension(given, stored) and stored.updated_at != given.updated_at:
            raise SessionError(
                f"session {given.id} was changed since it was read",
                "load it again, or use add_message and update_session_messages",
            )
        check_participants(stored, given.messages[len(stored.messages) :])
        return _keep_turn_fields(given, stored)

    rewrite(store, given.id, edit)


def rewrite(store: Store, session_id: str, edit: Callable[[Session], Session]) -> None:
    """Change session and transcript in one step. If messages are added meanwhile, they are not
    lost: `edit` is called again. Raises `SessionError` while the session is running."""
    with turn_held(store, session_id):
        while True:
            before = store.get(session_id)
            stored = replace(before, messages=store.messages(session_id))
            after = edit(stored)
            natives = stored.native_ids if _is_extension(after, stored) else {}
            after = replace(after, native_ids=natives, updated_at=datetime.now(UTC))
            try:
                store.rewrite(session_id, after.messages, _replace_if_unchanged(before, after))
            except _ConcurrentChange:
                continue
            return


@contextmanager
def turn_held(store: Store, session_id: str) -> Iterator[None]:
    """A block in which no turn of the session is running or can start. Raises `SessionError` while
    one is."""
    turn = store.acquire_turn(session_id)
    if turn is None:
        raise running_error(session_id)
    try:
        yield
    finally:
        if turn.leftover:  # of a killed turn, which the next one has to stop
            turn.abandon()
        else:
            turn.close()


def _keep_turn_fields(given: Session, newest: Session) -> Session:
    """Take the fields that only clinvk sets from the stored record."""
    turned = ("turns", "usage", "cost", "totals", "error", "options_trusted", "native_env")
    return replace(given, **{name: getattr(newest, name) for name in turned})


def _is_extension(new: Session, old: Session) -> bool:
    """Whether all old messages are still there, at the same positions."""
    return transform.common_prefix_length(old.messages, new.messages) == len(old.messages)


class _ConcurrentChange(Exception):  # noqa: N818 - reads as what it says
    """The session was changed by another writer since it was read."""


def _replace_if_unchanged(before: Session, after: Session) -> Callable[[Session], Session]:
    def change(newest: Session) -> Session:
        if newest != before:
            raise _ConcurrentChange
        return after

    return change
