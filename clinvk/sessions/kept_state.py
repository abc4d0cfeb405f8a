"""Delete the conversations that clinvk keeps for sessions, once the sessions are deleted."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

from clinvk.backend.native import has_any_state, remove_state
from clinvk.errors import SessionError
from clinvk.store.base import Store

T = TypeVar("T")


def with_their_state(
    store: Store, home: Path, session_ids: Callable[[], Iterable[str]], delete: Callable[[], T]
) -> T:
    """Call `delete`, which deletes these sessions; then delete what clinvk kept for those that no
    session continues any more."""
    if not has_any_state(home):
        return delete()
    native_ids = [pair for one in session_ids() for pair in _native_ids(store, one)]
    done = delete()
    for backend, native_id in native_ids:
        if not store.find_by_native_id(backend, native_id):
            remove_state(home, backend, native_id)
    return done


def _native_ids(store: Store, session_id: str) -> list[tuple[str, str]]:
    try:
        return list(store.get(session_id).native_ids.items())
    except SessionError:  # a damaged record
        return []
