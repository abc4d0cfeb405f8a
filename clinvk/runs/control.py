"""Cancel a run from outside: one that another process drives, or the rest of a killed one."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from msgspec.structs import replace

from clinvk.errors import SessionError, UsageError
from clinvk.model.outcome import Outcome, format_counts
from clinvk.model.plan import Plan
from clinvk.model.result import Failure
from clinvk.process import note as turn_note
from clinvk.process.recovery import end_noted
from clinvk.process.threads import in_thread
from clinvk.runs.driver import owner
from clinvk.runs.journal import Journal
from clinvk.runs.log import RunLock, RunLog

CANCEL_TIMEOUT = 15.0  # seconds that a run may take to stop all that it started
DRIVER_TIMEOUT = 1.0  # seconds that a run may take to write the note of its driver
POLL_INTERVAL = 0.05  # seconds


# Stops the last attempts at tasks of a run on other machines, and returns a sentence about what it
# stopped. It blocks.
StopElsewhere = Callable[[Plan, Sequence[Outcome]], str | None]


async def cancel(
    folder: RunLog,
    *,
    now: bool = False,
    notify: Callable[[str], None] = lambda _: None,
    stop_elsewhere: StopElsewhere | None = None,
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
    if told := await abandon_run(folder, stop_elsewhere):
        notify(told)


async def abandon_run(folder: RunLog, stop_elsewhere: StopElsewhere | None = None) -> str | None:
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
        cut_off = [o for o in result.results if o.state == "indeterminate"]
        folder.stop_attempts(cut_off)
        if stop_elsewhere is not None and cut_off:
            also = await in_thread(lambda: stop_elsewhere(plan, cut_off))
            told = "; ".join(filter(None, (told, also))) or None
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


def run_facts(marker: str, folder: RunLog) -> dict[str, Any]:
    """The note of a run that this process drives."""
    return turn_note.make(marker, owner(folder.id))


async def end_leftovers(folder: RunLog, lock: RunLock) -> str:
    """Stop what an interrupted run left running; return a sentence about it. The caller holds
    `lock`. Raises `SessionError` if it was started on another machine or in another container."""

    async def others() -> Iterable[dict[str, Any] | None]:
        return folder.other_drivers()

    what = owner(folder.id)
    return await end_noted(lock.leftover or {}, what, what, lock.location, others)


def _check_unfinished(folder: RunLog) -> None:
    """Raise `UsageError` if there is nothing to cancel."""
    if not folder.is_idle():
        return
    about = folder.summary()
    if about["state"] != "interrupted":
        raise UsageError(
            f"run {folder.id} has ended already: {about['state']} "
            f"({format_counts(about['counts'])})",
            f"see it with: clinvk runs show {folder.id}{folder.where}",
        )


async def _find_driver(folder: RunLog) -> dict[str, Any] | None:
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


async def _stop_driver(folder: RunLog, facts: dict[str, Any], *, now: bool) -> None:
    """Ask the process that drives the run to stop it, and wait until it has. Raises `SessionError`
    if that process cannot be identified with certainty: a note alone is not enough for a signal."""
    # 45 ms, and needed only once something runs.
    import anyio

    if not folder.ask_to_stop(facts):
        return
    deadline = time.monotonic() + CANCEL_TIMEOUT
    if now:
        await anyio.sleep(POLL_INTERVAL)
        if folder.find_driver() == facts:
            folder.ask_to_stop(facts)
    while folder.find_driver() is not None:
        if time.monotonic() > deadline:
            raise SessionError(
                f"run {folder.id} has not stopped within {CANCEL_TIMEOUT:g} s",
                f"stop it immediately: clinvk runs cancel {folder.id} --now{folder.where}",
            )
        await anyio.sleep(POLL_INTERVAL)
