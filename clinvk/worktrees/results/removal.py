"""Remove the worktrees of results that need them no longer."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path

from clinvk.errors import ClinvkError, SessionError
from clinvk.model.outcome import ACTIVE_STATES
from clinvk.runs.folder import RunFolder
from clinvk.worktrees.create import Place
from clinvk.worktrees.git import Git
from clinvk.worktrees.remove import remove_worktree
from clinvk.worktrees.results.reading import Results, read_results


def place_of(results: Results, index: int, home: Path, env: Mapping[str, str]) -> Place | None:
    """Where the worktree of a task is; None if it has none."""
    wanted = results.plan.worktree_of(index, results.run.results[index].decision)
    return Place(home, results.folder.id, wanted, env) if wanted is not None else None


def remove_applied(
    folder: RunFolder,
    git: Git | None,
    indexes: Collection[int],
    home: Path,
    env: Mapping[str, str],
    notify: Callable[[str], None],
) -> None:
    """Remove the worktrees of these tasks if their results were applied, unless they are to be kept.
    What is in them is in refs. A problem is only reported: the results are applied. While another
    process drives the run, nothing is removed: it may be about to run a task again. `git` finds later
    results than that of the run."""
    try:
        lock = folder.lock()
    except SessionError:
        return
    if lock.leftover:
        lock.abandon()
        return
    try:
        # Only now is it known how the tasks have ended.
        results = read_results(folder)
        results = results.latest(git) if git is not None else results
        _remove_applied(results, indexes, home, env, notify)
    finally:
        lock.close()


def _remove_applied(
    results: Results,
    indexes: Collection[int],
    home: Path,
    env: Mapping[str, str],
    notify: Callable[[str], None],
) -> None:
    done: set[Path] = set()
    for index in indexes:
        place = place_of(results, index, home, env)
        if place is None or place.wanted.keep or place.path in done:
            continue
        if not is_settled(results, place.wanted.directory):
            continue
        done.add(place.path)
        try:
            removed = remove_worktree(place)
        except (ClinvkError, OSError) as error:
            notify(f"the worktree {place.path} was not removed: {error}")
            continue
        known = {task.source.commit for task in results.tasks}
        if removed and removed.saved and removed.saved.result.commit not in known:
            later = removed.saved.result
            task = _task_of(results, later.ref, index)
            notify(f"the worktree of task {task!r} had changes that are not "
                   f"part of its result; they are in {later.ref}")  # fmt: skip


def _task_of(results: Results, ref: str, index: int) -> str:
    """The name of the task to which this result belongs: the steps of a chain share a worktree."""
    tasks = results.plan.tasks
    slug = ref.rpartition("/")[0].rpartition("/")[2]
    mine = (t.name for t in tasks if t.worktree is not None and t.worktree.slug == slug)
    return next(mine, tasks[index].name)


def is_settled(results: Results, directory: str, dropping: Collection[int] = ()) -> bool:
    """Whether all tasks in this worktree have ended, and their results were applied or dropped: the
    steps of a chain share one."""
    with_result = {task.index: task for task in results.tasks}
    for index, (task, outcome) in enumerate(
        zip(results.plan.tasks, results.run.results, strict=True)
    ):
        if task.worktree is None or task.worktree.directory != directory or index in dropping:
            continue
        found = with_result.get(index)
        if outcome.state in ACTIVE_STATES or outcome.state == "indeterminate":
            return False
        if found is not None and not (found.applied or found.dropped):
            return False
    return True
