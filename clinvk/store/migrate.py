"""Copy sessions unchanged from one store to another."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from clinvk.errors import SessionError, SessionNotFound
from clinvk.model.session import Session, distrust_options
from clinvk.store.base import Damaged, Query, Store

Progress = Callable[[int, int], None]


class MigrationPlan(Struct):
    """What copying would do, as ids."""

    new: list[str]
    same: list[str]  # already in the target
    different: list[str]  # in the target, but different: another turn, another title
    running: list[str]  # skipped, since they may change
    damaged: list[Damaged]  # skipped, since they cannot be read


def plan_migration(
    source: Store, target: Store, progress: Progress = lambda _done, _all: None
) -> MigrationPlan:
    """Compare the stores. Writes nothing."""
    found = MigrationPlan([], [], [], [], [])
    running = set(source.running_ids()) | set(target.running_ids())
    sessions = source.select(Query())
    for done, session in enumerate(sessions):
        progress(done, len(sessions))
        if isinstance(session, Damaged):
            found.damaged.append(session)
        elif session.id in running:
            found.running.append(session.id)
        else:
            _classify(found, source, target, session.id).append(session.id)
    progress(len(sessions), len(sessions))
    return found


def copy_sessions(
    source: Store,
    target: Store,
    session_ids: list[str],
    *,
    overwrite: bool = False,
    progress: Progress = lambda _done, _all: None,
) -> None:
    """Copy sessions; with `over`, replace those that the target has. Each is copied completely or
    not at all, so that an interrupted copy can be repeated."""
    for done, session_id in enumerate(session_ids):
        progress(done, len(session_ids))
        session, messages = _read_session(source, session_id), source.messages(session_id)
        if overwrite and target.find_ids(session_id, 1) == [session_id]:
            target.rewrite(session_id, messages, lambda _, new=session: new)  # type: ignore[misc]
        else:
            target.create(session, messages, exact=True)
    progress(len(session_ids), len(session_ids))


def _classify(found: MigrationPlan, source: Store, target: Store, session_id: str) -> list[str]:
    """The list that the session belongs to."""
    try:
        there = list(_read_content(target, session_id))
    except SessionNotFound:
        return found.new
    except SessionError:  # damaged in the target
        return found.different
    return found.same if there == list(_read_content(source, session_id)) else found.different


def _read_session(store: Store, session_id: str) -> Session:
    """The session as it is copied: marked if other users may have written its options, since the
    copy itself belongs to the user."""
    session = store.get(session_id)
    return session if store.is_own(session_id) else distrust_options(session)


def _read_content(store: Store, session_id: str) -> Iterator[dict[str, Any]]:
    # A server's copy is never trusted; that alone does not make it different.
    yield replace(store.get(session_id), options_trusted=True).to_json()
    for message in store.messages(session_id):
        yield message.to_json()
