"""Removes worktrees, once all that they contain is in refs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from clinvk.disk.sizes import folder_size
from clinvk.model.plan import Plan, Worktree
from clinvk.worktrees import names
from clinvk.worktrees.create import Place, attach_worktree, discard_worktree
from clinvk.worktrees.git import GitError
from clinvk.worktrees.in_use import hold_unused
from clinvk.worktrees.record import Record, read_record, write_record
from clinvk.worktrees.result import Saved, save_result
from clinvk.worktrees.steps import owner_of


class Removed(Struct, frozen=True):
    """A worktree that was removed, with its size, and the result that was saved before."""

    path: Path
    size: int  # bytes
    saved: Saved | None = None


def places_of(home: Path, run: str, plan: Plan, env: Mapping[str, str]) -> list[Place]:
    """The worktrees of a run, also those that do not exist; one for each task."""
    return [Place(home, run, t.worktree, env) for t in plan.tasks if t.worktree is not None]


def remove_worktree(place: Place) -> Removed | None:
    """Remove a worktree, after its contents are saved in refs; None if there is none. Files that git
    ignores are deleted. Raises `ClinvkError` if it cannot be saved or is in use, and nothing is removed
    then."""
    record = read_record(place.path)
    if record is None and not place.path.exists():
        return None
    size = folder_size(place.path)
    saved = None
    if record is None:  # nothing is known of it: only what is certainly ours is removed
        raise GitError(
            f"{place.path} is not a worktree that clinvk knows",
            "look at it, and delete it by hand",
        )
    with hold_unused(place.path):
        if record.state == "ready" and place.path.exists():
            record = attach_worktree(place, record)
            saved = save_result(owner_of(place, record), record, counts=False)
            record = replace(record, state="removing")
            write_record(place.path, record)
        discard_worktree(place, record)
    return Removed(place.path, size, saved)


def drop_results(place: Place) -> None:
    """Delete the worktree, whatever is in it, and the results of the task. Raises `ClinvkError`."""
    record = read_record(place.path)
    if record is not None or place.path.exists():
        discard_worktree(place, record)
    delete_refs(place, names.refs_of_task(place.run, place.wanted.slug))


def delete_refs(place: Place, prefix: str) -> None:
    """Delete the refs that begin with this, and those of nested repositories. Raises `GitError`."""
    nested = names.NESTED_REFS + prefix.removeprefix(names.REFS)
    listed = place.git.text("for-each-ref", "--format=delete %(refname)", prefix, nested)
    if listed:
        place.git.run("update-ref", "--stdin", data=listed.encode() + b"\n")


def place_of_orphan(home: Path, path: Path, record: Record, env: Mapping[str, str]) -> Place:
    """Where a worktree is whose run no longer exists."""
    wanted = Worktree(
        repository=record.repository, commit=record.commit, slug=path.name, directory=path.name
    )
    return Place(home, path.parent.name, wanted, env)
