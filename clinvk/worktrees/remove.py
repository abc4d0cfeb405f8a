"""Removes worktrees, once all that they contain is in refs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from clinvk.disk.sizes import folder_size
from clinvk.errors import ClinvkError
from clinvk.model.plan import Plan
from clinvk.worktrees import names
from clinvk.worktrees.create import Place, attach_worktree, discard_worktree
from clinvk.worktrees.git import GitError
from clinvk.worktrees.record import SUFFIX, Record, delete_record, read_record, write_record
from clinvk.worktrees.result import Saved, save_result


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
    ignores are deleted. Raises `ClinvkError` if it cannot be saved, and nothing is removed then."""
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
    if record.state == "ready" and place.path.exists():
        record = attach_worktree(place, record)
        saved = save_result(place, record)
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


def remove_all(
    places: Iterable[Place], on_problem: Callable[[ClinvkError], None]
) -> Iterator[Removed]:
    """Remove worktrees; those that cannot be removed are reported. Steps of a chain share one."""
    done: set[Path] = set()
    for place in places:
        if place.path in done:
            continue
        done.add(place.path)
        try:
            removed = remove_worktree(place)
        except ClinvkError as error:
            on_problem(type(error)(f"{place.path} was not removed: {error.message}", error.hint))
            continue
        if removed is not None:
            yield removed


def orphans(home: Path, runs: Iterable[str]) -> list[Path]:
    """Worktrees whose run no longer exists."""
    known = set(runs)
    found = []
    with suppress(OSError):
        for folder in sorted(names.folder_of(home).iterdir()):
            if folder.name.startswith(".") or folder.name in known or not folder.is_dir():
                continue
            found += [p.with_suffix("") for p in sorted(folder.glob(f"*{SUFFIX}"))]
    return found


def place_of_orphan(home: Path, path: Path, record: Record, env: Mapping[str, str]) -> Place:
    """Where a worktree is whose run no longer exists."""
    # Only to clean up.
    from clinvk.model.plan import Worktree

    wanted = Worktree(
        repository=record.repository, commit=record.commit, slug=path.name, directory=path.name
    )
    return Place(home, path.parent.name, wanted, env)


def forget(path: Path) -> None:
    """Delete the record of a worktree that no longer exists."""
    if not path.exists():
        delete_record(path)
