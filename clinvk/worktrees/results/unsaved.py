"""Results that were not recorded, since clinvk was killed between the end of a task and that."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from msgspec.structs import replace

from clinvk.model.outcome import Outcome
from clinvk.model.plan import Worktree
from clinvk.worktrees.create import Place, attach_worktree
from clinvk.worktrees.record import is_of_worker, read_record
from clinvk.worktrees.result import save_result
from clinvk.worktrees.steps import end_step


def with_saved_result(
    outcome: Outcome, wanted: Worktree, run: str, home: Path, env: Mapping[str, str]
) -> Outcome:
    """The outcome of a task that has ended, with what is in its worktree, in a ref when this returns.
    Raises `ClinvkError`."""
    place = Place(home, run, wanted, env)
    record = read_record(place.path)
    if (
        record is None
        or is_of_worker(record, home)
        or record.state != "ready"
        or not place.path.is_dir()
    ):
        return outcome
    record = attach_worktree(place, record)
    saved = save_result(place, record, outcome.attempts).result
    end_step(place, record, saved.commit)
    return replace(outcome, worktree=saved)
