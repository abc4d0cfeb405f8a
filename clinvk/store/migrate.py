"""Sessions from one store into another, as they are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from msgspec import Struct

from clinvk.errors import SessionError, SessionNotFound
from clinvk.model.session import Session
from clinvk.store.base import Damaged, Query, Store

Progress = Callable[[int, int], None]


class Plan(Struct):
    """What copying would do, by id."""

    new: list[str]
    same: list[str]  # there already
    different: list[str]  # there, and not the same: another turn, another title
    running: list[str]  # left, since they change
    damaged: list[Damaged]  # left, since nobody can read them


def plan(source: Store, target: Store, progress: Progress = lambda _done, _all: None) -> Plan:
    """What there is to copy. Nothing is written."""
    found = Plan([], [], [], [], [])
    running = set(source.all_running()) | set(target.all_running())
    sessions = source.select(Query())
    for done, session in enumerate(sessions):
        progress(done, len(sessions))
        if isinstance(session, Damaged):
            found.damaged.append(session)
        elif session.id in running:
            found.running.append(session.id)
        else:
            _kind(found, source, target, session.id).append(session.id)
    progress(len(sessions), len(sessions))
    return found


def copy(
    source: Store,
    target: Store,
    ids: list[str],
    *,
    over: bool = False,
    progress: Progress = lambda _done, _all: None,
) -> None:
    """Copy sessions; where `over`, those that the target has are replaced. Each is whole or not
    there, so that a copy which was interrupted can be begun again."""
    for done, id_ in enumerate(ids):
        progress(done, len(ids))
        session, messages = source.get(id_), source.messages(id_)
        if over and target.matching(id_, 1) == [id_]:
            target.rewrite(id_, messages, lambda _, new=session: new)  # type: ignore[misc]
        else:
            target.create(session, messages, exact=True)
    progress(len(ids), len(ids))


def _kind(found: Plan, source: Store, target: Store, id_: str) -> list[str]:
    """The list that the session belongs to."""
    try:
        there = list(_content(target, id_))
    except SessionNotFound:
        return found.new
    except SessionError:  # damaged there
        return found.different
    return found.same if there == list(_content(source, id_)) else found.different


def _content(store: Store, id_: str) -> Iterator[dict[str, Any]]:
    session: Session = store.get(id_)
    yield session.to_json()
    for message in store.messages(id_):
        yield message.to_json()
