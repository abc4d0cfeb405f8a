"""Stop what a killed clinvk left running, using its note."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from clinvk.errors import SessionError
from clinvk.process import note as turn_note
from clinvk.process.note import InvalidNote, Note

Notes = Callable[
    [], Awaitable[Iterable["dict[str, Any] | None"]]
]  # of everything else that is running


async def end_noted(left: dict[str, Any], what: str, of: str, kept_in: str, others: Notes) -> str:
    """Stop what is still running according to the note `left` in `kept_in`, written for `of`;
    return a sentence about it, in which it is called `what`. Raises `SessionError` if it was
    started on another machine or in another container: from here it cannot be known to be dead."""
    try:
        note = turn_note.parse(left, of)
    except InvalidNote as error:
        return (
            f"{what}: the note in {kept_in} is invalid ({error}), so nothing was stopped because of it; "
            "if any of its processes are still running, stop them yourself"
        )
    if not note.process.is_local:
        raise SessionError(
            f"{what} was started on {note.process.place} and may be running there",
            f"make sure that it has stopped, then delete {kept_in}",
        )
    cut_off = f"{what} was interrupted: its clinvk was killed"
    if not note.process.is_of_this_boot:
        return cut_off
    if not turn_note.is_gone(note.process):
        return (
            f"{what}: the clinvk that the note in {kept_in} names (process {note.process.pid}) is "
            "still alive, so nothing was stopped"
        )
    return await _end_marked(note, what, cut_off, kept_in, others)


async def _end_marked(note: Note, what: str, cut_off: str, kept_in: str, others: Notes) -> str:
    from clinvk.process.tree import ProcessTree  # psutil, 10 ms: rarely needed

    family = ProcessTree.left_behind(note.marker, note.process.since)
    count = len(family.alive)
    if not count:
        return cut_off
    if turn_note.starter_lives(note.marker, family.oldest) or any(
        turn_note.is_marked_by(other, note.marker) for other in await others()
    ):
        return (
            f"{what}: the note in {kept_in} names processes of something else that is "
            "running, so nothing was stopped because of it"
        )
    await family.terminate_then_kill()
    plural = count > 1
    return (
        f"{cut_off}; {count} process{'es' * plural} that it left running "
        f"{'were' if plural else 'was'} stopped"
    )
