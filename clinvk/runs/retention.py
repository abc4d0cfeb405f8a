"""Delete runs, and those that ended long ago."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from clinvk.errors import ClinvkError, SessionError
from clinvk.runs.checkpoints import Checkpoints
from clinvk.runs.log import RunLog, Runs

# Deletes what a run has elsewhere, or raises `SessionError` if the run must be kept. It returns what is to
# be called once the run is deleted, if there is anything.
Release = Callable[[RunLog], Callable[[], object] | None]


def check_deletable(folder: RunLog, checkpoints: Checkpoints) -> None:
    """Raise `SessionError` if a checkpoint names the run, which could then no longer be resumed."""
    named, _ = checkpoints.names_by_run()
    if name := named.get(folder.id):
        raise SessionError(
            f"run {folder.id} belongs to checkpoint {name!r}",
            f"delete the checkpoint first: clinvk checkpoints delete {name}",
        )


def delete(folder: RunLog, checkpoints: Checkpoints, release: Release = lambda _: None) -> None:
    """Delete a run: its journal and its events. The sessions of its tasks are kept. Raises
    `SessionError` if a checkpoint names it, if it is running, or if it was interrupted and may have
    left something running. `release` deletes what it has elsewhere, or raises `SessionError`."""
    check_deletable(folder, checkpoints)
    then = release(folder)
    folder.delete()
    if then is not None:
        then()


def clean(
    runs: Runs,
    checkpoints: Checkpoints,
    before: datetime,
    *,
    dry_run: bool = False,
    on_problem: Callable[[ClinvkError], None] = lambda _: None,
    release: Release = lambda _: None,
) -> list[str]:
    """Delete runs not written to since `before`; return their ids, newest first. Runs are kept that
    are running, that were interrupted and may have left something running, or that a checkpoint
    names. If a checkpoint cannot be read, `on_problem` gets the error, and all chains are kept,
    since it may name one of them. `release` deletes what a run has elsewhere, or raises an error for
    one that has to be kept. With `dry_run`, nothing is deleted. Raises `SessionError`."""
    named, problems = checkpoints.names_by_run()
    for problem in problems:
        on_problem(problem)
    deleted: list[str] = []
    for folder in list(runs.newest_first()):
        if folder.id in named or not _is_old(folder, before):
            continue
        if problems and _may_be_chain(folder):
            continue
        try:
            then = release(folder)
            if not dry_run:
                folder.delete()
                if then is not None:
                    then()
            deleted.append(folder.id)
        except SessionError:  # it has been resumed or deleted meanwhile
            continue
    if not dry_run:
        runs.remove_remains()
    return deleted


def _is_old(folder: RunLog, before: datetime) -> bool:
    try:
        return folder.modified_at() < before and folder.is_deletable()
    except FileNotFoundError:  # it was deleted meanwhile
        return False


def _may_be_chain(folder: RunLog) -> bool:
    try:
        return folder.plan().kind == "chain"
    except SessionError:
        return True
