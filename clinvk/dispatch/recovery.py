"""End what a killed clinvk left running, by the note that it left of its turn or its run."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from clinvk.disk.lockfile import HeldLock
from clinvk.errors import SessionError
from clinvk.process import note as turn_note
from clinvk.process.note import InvalidNote, Note
from clinvk.store.base import Store, TurnLock

if TYPE_CHECKING:
    from clinvk.runs.folder import RunFolder

Notes = Callable[[], Iterable["dict[str, Any] | None"]]  # of all that runs beside it


def turn_facts(marker: str, id_: str) -> dict[str, Any]:
    """The note of a turn of this session that we run."""
    return turn_note.make(marker, _turn_of(id_))


def run_facts(marker: str, folder: RunFolder) -> dict[str, Any]:
    """The note of a run that we drive."""
    return turn_note.make(marker, f"run {folder.id}")


async def end_turn_leftovers(store: Store, turn: TurnLock, session_id: str) -> str:
    """End what the last turn of a session left running; a sentence about it. `turn` is ours.

    Raises `SessionError` if it was started on another machine or in another container: from here
    it cannot be known to be dead."""

    def others() -> Iterable[dict[str, Any] | None]:
        return (store.running_turn(i) for i in store.running_ids() if i != session_id)

    what = f"the last turn of session {session_id}"
    return await _end(turn.leftover or {}, what, _turn_of(session_id), turn.location, others)


async def end_run(folder: RunFolder, turn: HeldLock) -> str:
    """The same, of a run."""
    # 10 ms, and a turn of one session has no run.
    from clinvk.runs.folder import RunFolder, RunStore

    def others() -> Iterable[dict[str, Any] | None]:
        runs = RunStore(folder.path.parent.parent)
        return (RunFolder(runs.folder / i).find_driver() for i in runs.ids() if i != folder.id)

    what = f"run {folder.id}"
    return await _end(turn.leftover or {}, what, what, turn.location, others)


async def _end(left: dict[str, Any], what: str, of: str, kept_in: str, others: Notes) -> str:
    try:
        note = turn_note.parse(left, of)
    except InvalidNote as error:
        return (
            f"{what}: the note in {kept_in} is invalid ({error}), so nothing was ended by it; "
            "if something of it still runs, stop it yourself"
        )
    if not note.process.is_local:
        raise SessionError(
            f"{what} was started on {note.process.place} and may be running there",
            f"make sure that it has ended, then delete {kept_in}",
        )
    cut_off = f"{what} was cut off: its clinvk was killed"
    if not note.process.is_of_this_boot:
        return cut_off
    if not turn_note.is_gone(note.process):
        return (
            f"{what}: the clinvk that the note in {kept_in} names (process {note.process.pid}) is "
            "still alive, so nothing was ended"
        )
    return await _end_marked(note, what, cut_off, kept_in, others)


async def _end_marked(note: Note, what: str, cut_off: str, kept_in: str, others: Notes) -> str:
    from clinvk.process.tree import ProcessTree  # psutil, 10 ms: seldom needed

    family = ProcessTree.left_behind(note.marker, note.process.since)
    count = len(family.alive)
    if not count:
        return cut_off
    if turn_note.starter_lives(note.marker, family.oldest) or any(
        turn_note.is_marked_by(other, note.marker) for other in others()
    ):
        return (
            f"{what}: the note in {kept_in} names the processes of something else that is "
            "running, so nothing was ended by it"
        )
    await family.terminate_then_kill()
    plural = count > 1
    return (
        f"{cut_off}; {count} process{'es' * plural} that it left running "
        f"{'were' if plural else 'was'} ended"
    )


def _turn_of(id_: str) -> str:
    return f"session {id_}"
