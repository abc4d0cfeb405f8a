"""The process on this machine that drives a run: how to ask it to stop."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clinvk.errors import SessionError
from clinvk.process import note as turn_note

if TYPE_CHECKING:
    import psutil

Find = Callable[[], "dict[str, Any] | None"]


def ask_to_stop(run_id: str, lock: Path, facts: dict[str, Any], find: Find) -> bool:
    """Ask the process that drives the run, according to the note `facts`, to stop it; False if it
    has exited meanwhile. `find` reads that note again. Raises `SessionError` if the process cannot
    be identified with certainty: a note alone is not enough for a signal."""
    driver = _identify_driver(run_id, lock, facts, find)
    if driver is None:
        return False
    from clinvk.process import tree  # psutil, 10 ms: only to cancel

    # SIGTERM, since a shell starts background jobs with SIGINT ignored.
    tree.send(driver, signal.SIGTERM)
    return True


def _identify_driver(
    run_id: str, lock: Path, facts: dict[str, Any], find: Find
) -> psutil.Process | None:
    """The process that drives the run; None if it has exited meanwhile. Raises `SessionError`."""
    try:
        note = turn_note.parse(facts, owner(run_id))
    except turn_note.InvalidNote as error:
        raise SessionError(
            f"run {run_id} is running, but its note in {lock} is invalid ({error})",
            f"find the process that has this file open (fuser {lock}) and stop it",
        ) from None
    if not (note.process.is_local and note.process.is_of_this_boot):
        raise SessionError(
            f"run {run_id} is driven on {note.process.place}",
            "cancel it there",
        )
    if turn_note.is_gone(note.process):
        return None
    driver = turn_note.driver(note.process, lock)
    if driver is None:
        if find() != facts:  # it has just exited
            return None
        raise SessionError(
            f"run {run_id} is running, but not by process {note.process.pid}, as {lock} says",
            f"find the process that has this file open (fuser {lock}) and stop it",
        )
    if driver.pid == os.getpid():  # the signal would stop the calling program
        raise SessionError(
            f"run {run_id} is driven by this process",
            "cancel the task that awaits it, or call `stop()` of its `PlanRun`",
        )
    return driver


def owner(run_id: str) -> str:
    """What the note of the process is about."""
    return f"run {run_id}"
