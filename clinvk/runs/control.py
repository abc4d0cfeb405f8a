"""Cancel a run from outside: one that another process drives, or the rest of a killed one."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from clinvk.errors import SessionError, UsageError
from clinvk.model.outcome import format_counts
from clinvk.model.result import Failure
from clinvk.process import note as turn_note
from clinvk.process.recovery import end_noted
from clinvk.runs.folder import RunFolder, RunStore
from clinvk.runs.journal import Journal

if TYPE_CHECKING:
    import psutil

    from clinvk.disk.lockfile import HeldLock

CANCEL_TIMEOUT = 15.0  # seconds that a run may take to stop all that it started
DRIVER_TIMEOUT = 1.0  # seconds that a run may take to write the note of its driver
POLL_INTERVAL = 0.05  # seconds


async def cancel(
    folder: RunFolder, *, now: bool = False, notify: Callable[[str], None] = lambda _: None
) -> None:
    """Cancel a run that another process drives, or stop what an interrupted one left running; the
    run is cancelled when this returns. With `now`, programs are killed without time to exit.
    `notify` gets a message about what an interrupted run left.

    Raises `UsageError` if the run has ended already, and `SessionError` if it is driven by this
    process or on another machine, if its driver cannot be identified with certainty, or if it has
    not stopped after `CANCEL_TIMEOUT` seconds."""
    facts = await _find_driver(folder)
    if facts is None:
        _check_unfinished(folder)
    else:
        await _stop_driver(folder, facts, now=now)
    # The program that drove the run may have died from the signal, and left processes running.
    if told := await abandon_run(folder):
        notify(told)


async def abandon_run(folder: RunFolder) -> str | None:
    """Cancel a run that no process drives: stop what it left running, and cancel tasks that had not
    started. Returns a sentence about what was left, if there was anything. Raises
    `SessionError`."""
    lock = folder.lock()
    try:
        told = None
        if lock.leftover:
            told = await end_leftovers(folder, lock)
            lock.note({})  # even if the rest of it cannot be read
        plan = folder.plan()
        result = folder.result(plan, is_driver=True)
        failure = Failure("not_started", "not started: cancelled")
        left = {
            o.index: replace(o, state="cancelled", error=failure)
            for o in result.results
            if o.state == "queued"
        }
        if result.state == "interrupted" or left:
            with Journal(folder, lambda data: data) as journal:
                journal.record_not_started(left.values())
                outcomes = tuple(left.get(o.index, o) for o in result.results)
                journal.record_end(
                    replace(result, state="cancelled", why="cancelled", results=outcomes)
                )
    except BaseException:
        lock.abandon()
        raise
    lock.close()
    return told


def run_facts(marker: str, folder: RunFolder) -> dict[str, Any]:
    """The note of a run that this process drives."""
    return turn_note.make(marker, _owner(folder))


async def end_leftovers(folder: RunFolder, lock: HeldLock) -> str:
    """Stop what an interrupted run left running; return a sentence about it. The caller holds
    `lock`. Raises `SessionError` if it was started on another machine or in another container."""

    async def others() -> Iterable[dict[str, Any] | None]:
        runs = RunStore(folder.path.parent.parent)
        return (RunFolder(runs.folder / i).find_driver() for i in runs.ids() if i != folder.id)

    what = _owner(folder)
    return await end_noted(lock.leftover or {}, what, what, lock.location, others)


def _owner(folder: RunFolder) -> str:
    return f"run {folder.id}"


def _check_unfinished(folder: RunFolder) -> None:
    """Raise `UsageError` if there is nothing to cancel."""
    if not folder.is_idle():
        return
    about = folder.summary()
    if about["state"] != "interrupted":
        raise UsageError(
            f"run {folder.id} has ended already: {about['state']} "
            f"({format_counts(about['counts'])})",
            f"see it with: clinvk runs show {folder.id}",
        )


async def _find_driver(folder: RunFolder) -> dict[str, Any] | None:
    """The note of the process that drives the run. It may not have been written yet; the note of a
    killed process stays until what it left running has been stopped."""
    # 45 ms, and needed only once something runs.
    import anyio

    began = time.monotonic()
    while (facts := folder.find_driver()) is not None:
        if time.monotonic() - began >= _note_timeout(facts):
            break
        await anyio.sleep(POLL_INTERVAL)
    return facts


def _note_timeout(facts: dict[str, Any]) -> float:
    """Seconds for which another note may still replace this one."""
    try:
        return CANCEL_TIMEOUT if turn_note.is_gone(turn_note.parse(facts).process) else 0
    except turn_note.InvalidNote:  # there is none yet, or it is being written
        return DRIVER_TIMEOUT


async def _stop_driver(folder: RunFolder, facts: dict[str, Any], *, now: bool) -> None:
    """Ask the process that drives the run to stop it, and wait until it has. Raises `SessionError`
    if that process cannot be identified with certainty: a note alone is not enough for a signal."""
    # 45 ms, and needed only once something runs.
    import anyio

    driver = _identify_driver(folder, facts)
    if driver is None:
        return
    deadline = time.monotonic() + CANCEL_TIMEOUT
    _send_stop(driver)
    if now:
        await anyio.sleep(POLL_INTERVAL)
        if folder.find_driver() == facts:
            _send_stop(driver)
    while folder.find_driver() is not None:
        if time.monotonic() > deadline:
            raise SessionError(
                f"run {folder.id} has not stopped within {CANCEL_TIMEOUT:g} s",
                f"stop it immediately: clinvk runs cancel {folder.id} --now",
            )
        await anyio.sleep(POLL_INTERVAL)


def _identify_driver(folder: RunFolder, facts: dict[str, Any]) -> psutil.Process | None:
    """The process that drives the run; None if it has exited meanwhile. Raises `SessionError`."""
    lock = folder.lock_path
    try:
        note = turn_note.parse(facts, _owner(folder))
    except turn_note.InvalidNote as error:
        raise SessionError(
            f"run {folder.id} is running, but its note in {lock} is invalid ({error})",
            f"find the process that has this file open (fuser {lock}) and stop it",
        ) from None
    if not (note.process.is_local and note.process.is_of_this_boot):
        raise SessionError(
            f"run {folder.id} is driven on {note.process.place}",
            "cancel it there",
        )
    if turn_note.is_gone(note.process):
        return None
    driver = turn_note.driver(note.process, lock)
    if driver is None:
        if folder.find_driver() != facts:  # it has just exited
            return None
        raise SessionError(
            f"run {folder.id} is running, but not by process {note.process.pid}, as {lock} says",
            f"find the process that has this file open (fuser {lock}) and stop it",
        )
    if driver.pid == os.getpid():  # the signal would stop the calling program
        raise SessionError(
            f"run {folder.id} is driven by this process",
            "cancel the task that awaits it, or call `stop()` of its `PlanRun`",
        )
    return driver


def _send_stop(driver: psutil.Process) -> None:
    from clinvk.process import tree  # psutil, 10 ms: only to cancel

    # SIGTERM, since a shell starts background jobs with SIGINT ignored.
    tree.send(driver, signal.SIGTERM)
