"""What the options of a turn add to its prompt."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from clinvk.knowledge.fast import fast_context_part
from clinvk.knowledge.memory import memory_part
from clinvk.knowledge.part import Part, put_before
from clinvk.store.base import Store

if TYPE_CHECKING:
    from clinvk.knowledge.index import Progress


class Context(Struct, frozen=True):
    """What comes before a prompt. It may be empty."""

    parts: list[Part]

    @property
    def notices(self) -> list[str]:
        """What was added, and how much, for the user."""
        return [part.notice for part in self.parts]

    def put_before(self, prompt: str) -> str:
        return put_before(self.parts, prompt)


class Place(Struct, frozen=True):
    """Where the prompt is sent from."""

    home: Path
    directory: str  # real path
    users_directory: str  # the same, outside of a worktree: that of the user which it belongs to
    open_store: Callable[[], Store]
    storage: str  # the address of the store
    session_id: str | None
    progress: Progress
    writes: bool  # otherwise no index is changed


def find_context(wanted: Mapping[str, Any], prompt: str, place: Place) -> Context:
    """What these options add to the prompt. Raises `ClinvkError`."""
    home, directory = place.home, place.directory
    parts: list[Part] = []
    if wanted.get("memory"):
        parts.append(memory_part(home, place.users_directory))
    parts += [
        fast_context_part(os.path.join(directory, path), directory)
        for path in wanted.get("fast_context") or ()
    ]
    match wanted.get("knowledge"):
        case True:
            # SQLite: only with the option.
            from clinvk.knowledge.conversations import conversations_part

            store = place.open_store()
            parts.append(
                conversations_part(
                    home, store, place.storage, place.session_id, prompt, place.progress,
                    writes=place.writes,
                )
            )  # fmt: skip
        case str() as path:
            # SQLite: only with the option.
            from clinvk.knowledge.documents import documents_part

            path = os.path.join(directory, path)
            parts.append(
                documents_part(home, path, directory, prompt, place.progress, writes=place.writes)
            )
    return Context(parts)
