"""The changes of a run that another process drives, read from its records: each once, in the order of
the journal.

A position records how far a run was followed: the number of lines of the journal, the number of
changes of the next line, and the offset in the events of each task that was running then. It is
short, since everything else follows from the lines before it.
"""

from __future__ import annotations

import re
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import datetime
from typing import Any, Self

from msgspec import Struct
from msgspec.structs import replace

from clinvk.errors import UsageError
from clinvk.model.events import Event, event_from_json
from clinvk.model.outcome import ACTIVE_STATES, Outcome, until_taken
from clinvk.model.progress import Change, Kind
from clinvk.runs.log import DAMAGE, RunLog
from clinvk.runs.replay import RunState, mark_indeterminate

POLL_INTERVAL = 0.25  # seconds between checks
START = ""  # the position before anything happened
NOW = "now"  # the position after everything so far, except the events of running tasks

_POSITION = re.compile(r"(\d{1,9})\.(\d{1,9})((?:-\d{1,9}:\d{1,20}!?)*)(?:x(\d{1,9}))?")
_TASK = re.compile(r"(\d+):(\d+)(!?)")


class _Reading(Struct):
    """How far the events of a task have been read."""

    offset: int = 0
    is_begun: bool = False  # some of the running attempt was read
    skips: int = 0  # results of earlier attempts that are still to be skipped
    result: dict[str, Any] | None = None  # of the running attempt; empty if it was read before


class RunFollower:
    """The changes of a run since a position. Keeps no file open."""

    def __init__(self, folder: RunLog, position: str = START) -> None:
        """Raises `UsageError` if the position is invalid, `SessionError` if the run is damaged."""
        self.folder = folder
        self.plan = folder.plan()
        self.ended = False
        self._state = RunState(self.plan, folder.id)
        self._reader = folder.reader()
        self._unread: deque[dict[str, Any]] = deque()  # lines that were read and not reported yet
        self._lines = 0  # lines that are reported completely
        self._told = 0  # reported changes of the next line
        self._skipped = 0  # changes of the next line that were reported before this position
        self._interrupted = 0  # tasks reported as interrupted, after the last line
        self._running: set[int] = set()
        self._readings: dict[int, _Reading] = {}
        self._load()
        if position == NOW:
            self._pass_over(len(self._unread))
        elif position:
            self._go_to(position)

    @property
    def outcomes(self) -> tuple[Outcome, ...]:
        """The state of each task after the changes that were returned."""
        return tuple(map(until_taken, self._state.outcomes))

    @property
    def started_at(self) -> datetime | None:
        """When the process that drives the run, or the last one that did, began to."""
        return self._state.driven_since

    def poll(self) -> list[Change]:
        """The changes since the last call; `ended` is true with the last ones. Raises
        `SessionError` if the run is damaged."""
        is_driven = (
            self.folder.find_driver() is not None
        )  # asked first, so that what is read then is complete
        self._load()
        changes = list(self._tell_lines())
        for index in sorted(self._running):
            changes += self._tell_events(self._state.outcomes[index])
        if not (is_driven or self.folder.awaits_driver(has_begun=self._reader.has_begun)):
            changes += self._tell_interrupted()
            self.ended = True
        return changes

    def changes(self) -> Iterator[Change]:
        """All changes until the run ends; blocks between them. Raises `SessionError`."""
        while not self.ended:
            yield from self.poll()
            if not self.ended:
                time.sleep(POLL_INTERVAL)

    # The journal.

    def _load(self) -> None:
        """Read the new complete lines of the journal."""
        self._unread += self._reader.journal()

    def _tell_lines(self) -> Iterator[Change]:
        while self._unread:
            line = self._unread[0]
            try:
                yield from self._tell_line(line)
            except DAMAGE as error:
                raise self.folder.damaged_journal(error) from error
            self._unread.popleft()
            self._lines += 1
            self._told = self._skipped = self._interrupted = 0

    def _tell_line(self, line: dict[str, Any]) -> Iterator[Change]:
        before = self._before(line)
        if line.get("event") == "ended" and line["task"] in self._running:
            events = self._tell_events(before[line["task"]], is_over=True)
            if self._skipped:  # they came before the reported changes
                deque(events, maxlen=0)
            yield from events
        self._apply(line)
        for change in self._changes_of(line, before):
            self._told += 1
            if self._told > self._skipped:
                told = self._with_output(change.outcome) if change.kind == "ended" else None
                yield replace(change, outcome=told or change.outcome, position=self._position())

    def _before(self, line: dict[str, Any]) -> dict[int, Outcome]:
        """The states of the tasks that a line is about."""
        tasks = line.get("tasks", [line["task"]] if "task" in line else [])
        return {i: self._state.outcomes[i] for i in tasks}

    def _apply(self, line: dict[str, Any]) -> None:
        self._state.apply(line)
        for i in (*self._before(line), *line.get("rerun", ())):
            if self._state.outcomes[i].state == "running":
                self._running.add(i)
            else:
                self._running.discard(i)

    def _changes_of(self, line: dict[str, Any], before: dict[int, Outcome]) -> Iterator[Change]:
        """The changes of a line after it is applied, without the events of a task."""
        outcomes = self._state.outcomes
        match line.get("event"):
            case "started":
                self._begin_attempt(line["task"])
                if not outcomes[line["task"]].is_sent:
                    yield Change(kind="started", outcome=outcomes[line["task"]])
            case "node":
                outcome = outcomes[line["task"]]
                if before[line["task"]].is_sent and not outcome.is_sent:
                    yield Change(kind="started", outcome=outcome)
                yield Change(kind="node", outcome=until_taken(outcome))
            case "ended":
                outcome = outcomes[line["task"]]
                if wait := Change.wait_from_json(line, outcome):
                    yield wait
                elif outcome.state == "queued":  # its worker was lost
                    yield Change(kind="node", outcome=replace(outcome, node=None))
                if outcome.state not in ACTIVE_STATES:
                    yield Change(kind="ended", outcome=outcome)
                self._end_attempt(outcome, before[outcome.index])
            case "aside":
                for i in line["tasks"]:
                    if outcomes[i].state not in ACTIVE_STATES and outcomes[i] != before[i]:
                        yield Change(kind="ended", outcome=outcomes[i])

    def _with_output(self, outcome: Outcome | None) -> Outcome | None:
        if outcome is None or not outcome.attempts or _is_not_started(outcome):
            return outcome
        if result := self._reading(outcome.index).result:
            output = str(result.get("content") or "")
            return replace(outcome, output=output, structured=result.get("structured"))
        return self.folder.with_output(outcome)

    def _tell_interrupted(self) -> Iterator[Change]:
        """The tasks that were running when the process that drove the run was killed."""
        for index in sorted(self._running)[self._interrupted :]:
            outcome = self._with_output(mark_indeterminate(self._state.outcomes[index]))
            self._interrupted += 1
            yield self._change("ended", outcome)

    # The events of tasks.

    def _reading(self, index: int) -> _Reading:
        return self._readings.setdefault(index, _Reading())

    def _begin_attempt(self, index: int) -> None:
        reading = self._reading(index)
        reading.result, reading.is_begun = None, False

    def _end_attempt(self, outcome: Outcome, before: Outcome) -> None:
        reading = self._reading(outcome.index)
        if before.state != "running":  # it was copied from another run, with all its attempts
            reading.skips += outcome.attempts
        elif reading.result is None and not _is_not_started(outcome):
            reading.skips += 1  # its result was not read
        reading.result = None

    def _tell_events(self, outcome: Outcome, *, is_over: bool = False) -> Iterator[Change]:
        """The events of the running attempt, as far as they were written."""
        reading = self._reading(outcome.index)
        if reading.result is not None:  # what follows belongs to the next attempt
            return
        for offset, told in self._reader.events(outcome.index, reading.offset):
            reading.offset = offset
            if reading.skips:
                reading.skips -= told.get("type") == "result"
                continue
            reading.is_begun = True
            if told.get("type") == "result":
                reading.result = told
                return
            if event := event_from_json(told):
                yield self._change("event", outcome, event)
        if is_over:
            # It ended without a result. What follows belongs to the next attempt.
            reading.skips, reading.result = 0, {}

    def _change(self, kind: Kind, outcome: Outcome | None, event: Event | None = None) -> Change:
        return Change(kind=kind, outcome=outcome, event=event, position=self._position())

    # Positions.

    def _position(self) -> str:
        tasks = "".join(
            f"-{i}:{r.offset}{'!' if r.result is not None else ''}"
            for i in sorted(self._running)
            if (r := self._reading(i)).is_begun
        )
        interrupted = f"x{self._interrupted}" if self._interrupted else ""
        return f"{self._lines}.{max(self._told, self._skipped)}{tasks}{interrupted}"

    def _go_to(self, position: str) -> None:
        found = _POSITION.fullmatch(position)
        if found is None or int(found[1]) > len(self._unread):
            raise UsageError(
                f"run {self.folder.id} has no position {position[:60]!r}",
                "use the `position` of one of its changes",
            )
        self._pass_over(int(found[1]))
        self._skipped, self._interrupted = int(found[2]), int(found[4] or 0)
        for index, offset, is_over in _TASK.findall(found[3]):
            reading = _Reading(int(offset), is_begun=True, result={} if is_over else None)
            self._readings[int(index)] = reading

    def _pass_over(self, count: int) -> None:
        """Mark the first lines as reported."""
        for _ in range(count):
            line = self._unread.popleft()
            try:
                before = self._before(line)
                self._apply(line)
                deque(self._changes_of(line, before), maxlen=0)
            except DAMAGE as error:
                raise self.folder.damaged_journal(error) from error
        self._lines = count


class RunChanges(AsyncIterator[Change]):
    """The same for an event loop, asyncio or trio: `async for change in RunChanges(...)`. Files are
    read in threads, so other tasks continue. No change is lost if waiting for it is cancelled."""

    def __init__(
        self, follow: Callable[[], RunFollower], close: Callable[[], None] = lambda: None
    ) -> None:
        """`follow` is called in a thread, when the first change is asked for. `close` closes what it
        has opened."""
        self._follow = follow
        self._close = close
        self._follower: RunFollower | None = None
        self._changes: deque[Change] = deque()
        self._next_look = float("-inf")  # on the clock of the event loop

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Change:
        # 45 ms, and needed only once something runs.
        import anyio

        while not self._changes:
            if self._follower is not None and self._follower.ended:
                self._close()
                raise StopAsyncIteration
            # Until a fixed time, since a caller may wait for less than the interval, repeatedly.
            await anyio.sleep_until(self._next_look)
            await _run_in_thread(self._look)
            self._next_look = anyio.current_time() + POLL_INTERVAL
        return self._changes.popleft()

    async def aclose(self) -> None:
        """Close the connection to a cluster; files do not stay open between two changes."""
        self._close()

    def _look(self) -> None:
        if self._follower is None:
            self._follower = self._follow()
        self._changes += self._follower.poll()


async def _run_in_thread(function: Callable[[], None]) -> None:
    # 45 ms, and needed only once something runs.
    from anyio import to_thread

    try:
        await to_thread.run_sync(function)
    except RuntimeError:  # no thread can be started: slower, with the same result
        function()


def _is_not_started(outcome: Outcome) -> bool:
    return outcome.error is not None and outcome.error.kind == "not_started"
