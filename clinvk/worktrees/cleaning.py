"""What may be deleted of runs with worktrees: nothing that is not in a ref, and no result that was
neither applied nor dropped."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from clinvk.disk.atomic import remove_leftovers
from clinvk.disk.empty import remove_abandoned
from clinvk.disk.sizes import folder_size
from clinvk.errors import ClinvkError, SessionError
from clinvk.model.plan import Plan
from clinvk.runs.folder import RunFolder, RunStore
from clinvk.runs.log import RunLog
from clinvk.worktrees import names
from clinvk.worktrees.create import Place
from clinvk.worktrees.record import SUFFIX, read_record
from clinvk.worktrees.remove import (
    Removed,
    delete_refs,
    place_of_orphan,
    places_of,
    remove_worktree,
)
from clinvk.worktrees.result import current_result
from clinvk.worktrees.results.reading import same_result
from clinvk.worktrees.results.taken import read_history

FINISHED = ("done", "failed", "cancelled")  # states of a run that is not to be resumed

Report = Callable[[ClinvkError], None]


def release_run(folder: RunLog, env: Mapping[str, str], *, dry_run: bool = False) -> None:
    """Remove the worktrees and refs of a run that is to be deleted; with `dry_run`, only look.
    Raises `SessionError` if a result of it was neither applied nor dropped, or if it is running."""
    home = folder.home
    try:
        plan = folder.plan()
    except SessionError:
        if names.folder_of_run(home, folder.id).exists():
            raise
        return
    places = places_of(home, folder.id, plan, env)
    if not places:
        return
    with _locked(folder):
        is_here = isinstance(folder, RunFolder)
        if untaken := list(_untaken(folder, plan, env) if is_here else _recorded(folder, plan)):
            run = f"{folder.id}{folder.where}"
            raise SessionError(
                f"run {folder.id} has results that were neither applied nor dropped: "
                f"{', '.join(untaken)}",
                f"see them: clinvk runs diff {run}; apply them: clinvk runs apply {run}; "
                f"or drop them: clinvk runs drop {run}",
            )
        if dry_run:
            return
        for place in _distinct(places):
            remove_worktree(place)
        for repository in {place.repository: place for place in places}.values():
            if repository.repository.is_dir():
                delete_refs(repository, names.refs_of_run(folder.id))


def clean_worktrees(
    runs: RunStore, env: Mapping[str, str], on_problem: Report, *, dry_run: bool = False
) -> list[Removed]:
    """Remove the worktrees of runs that have finished, unless they are to be kept, and of those that
    no longer exist; what is in them is in refs then; and the empty directories that killed processes have
    left. With `dry_run`, only list the worktrees."""
    home = runs.folder.parent
    if not dry_run:
        remove_abandoned(home)
    known = set(runs.ids())
    found: list[Removed] = []
    for run, paths in _existing(home):
        if not dry_run:
            remove_leftovers(names.folder_of(home) / run)
        try:
            if run in known:
                found += _clean_run(RunFolder(runs.folder / run), env, on_problem, dry_run=dry_run)
            else:
                orphans = (_orphan(home, path, env) for path in paths)
                found += _remove([p for p in orphans if p], on_problem, dry_run=dry_run)
        except SessionError as error:  # it is running, or damaged
            if not RunFolder(runs.folder / run).find_driver():
                on_problem(error)
    return found


def sizes(home: Path) -> dict[str, tuple[int, int]]:
    """The number of worktrees of each run that has some, and the bytes that they take."""
    found = {}
    for run, paths in _existing(home):
        there = [path for path in paths if path.is_dir()]
        if there:
            found[run] = len(there), sum(map(folder_size, there))
    return found


def _clean_run(
    folder: RunFolder, env: Mapping[str, str], on_problem: Report, *, dry_run: bool
) -> list[Removed]:
    with _locked(folder):
        plan = folder.plan()
        result = folder.result(plan, is_driver=True)
        if result.state not in FINISHED or any(
            o.state in ("waiting", "indeterminate") for o in result.results
        ):
            return []
        places = places_of(folder.home, folder.id, plan, env)
        wanted = [place for place in _distinct(places) if not place.wanted.keep]
        return _remove(wanted, on_problem, dry_run=dry_run)


def _remove(places: list[Place], on_problem: Report, *, dry_run: bool) -> list[Removed]:
    found = []
    for place in places:
        try:
            removed = (
                Removed(place.path, folder_size(place.path)) if dry_run else remove_worktree(place)
            )
            if removed is not None and (not dry_run or place.path.exists()):
                found.append(removed)
        except ClinvkError as error:
            on_problem(SessionError(f"{place.path} was kept: {error.message}", error.hint))
    return found


def _untaken(folder: RunLog, plan: Plan, env: Mapping[str, str]) -> Iterator[str]:
    """The tasks with a result that was neither applied nor dropped."""
    history, home = read_history(folder), folder.home
    run = folder.result(plan, is_driver=True) if any(t.decides for t in plan.tasks) else None
    settled = run.settled_candidates if run else ()
    for index, task in enumerate(plan.tasks):
        same = same_result(plan, run.results, index) if run else (index,)
        if task.worktree is None or (index in settled and same == (index,)):
            continue
        place = Place(home, folder.id, task.worktree, env)
        if not place.repository.is_dir() and not place.path.exists():
            continue  # there is nothing left of it
        saved = current_result(place)
        if saved is None or not saved.result.is_changed:
            continue
        commit = saved.result.commit
        if not (history.applied(same, commit) or history.dropped(same, commit)):
            yield plan.tasks[same[-1]].name


def _recorded(folder: RunLog, plan: Plan) -> Iterator[str]:
    """The same, of a run whose results may not be on this machine: as its journal has them."""
    history, run = read_history(folder), folder.result(plan, is_driver=True)
    for outcome in run.results:
        made, same = outcome.worktree, same_result(plan, run.results, outcome.index)
        if plan.tasks[outcome.index].worktree is None or made is None or not made.is_changed:
            continue
        if outcome.index in run.settled_candidates and same == (outcome.index,):
            continue
        if not (history.applied(same, made.commit) or history.dropped(same, made.commit)):
            yield plan.tasks[same[-1]].name


def _distinct(places: list[Place]) -> list[Place]:
    """One for each worktree: the steps of a chain share one; its last step has the last result."""
    return list({place.path: place for place in places}.values())


def _existing(home: Path) -> list[tuple[str, list[Path]]]:
    """The runs that have worktrees, and their paths."""
    try:
        folders = sorted(p for p in names.folder_of(home).iterdir() if p.is_dir())
    except FileNotFoundError:
        return []
    return [(p.name, [q.with_suffix("") for q in sorted(p.glob(f"*{SUFFIX}"))]) for p in folders]


def _orphan(home: Path, path: Path, env: Mapping[str, str]) -> Place | None:
    record = read_record(path)
    return place_of_orphan(home, path, record, env) if record else None


@contextmanager
def _locked(folder: RunLog) -> Iterator[None]:
    """Nothing else drives the run meanwhile. Raises `SessionError`."""
    lock = folder.lock()
    if lock.leftover and not (isinstance(folder, RunFolder) and folder.has_ended()):
        lock.abandon()
        raise SessionError(
            f"run {folder.id} was interrupted, and may have left something running",
            f"stop that first: clinvk runs cancel {folder.id}{folder.where}",
        )
    try:
        yield
    finally:
        lock.close()
