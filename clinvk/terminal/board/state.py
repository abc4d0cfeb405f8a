"""What the board of a run shows: its tasks and rate limits, as far as they are known.

Events are only recorded here: twenty events per second from each of a hundred tasks must be cheap.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING

from clinvk.model.events import Delta, Event
from clinvk.model.outcome import Outcome
from clinvk.model.progress import is_lonely
from clinvk.terminal.board.rows import Row, Rows, Tally
from clinvk.terminal.live import normalize_width
from clinvk.terminal.wording import describe_change, format_time
from clinvk.text.sanitize import one_line
from clinvk.text.width import display_width

if TYPE_CHECKING:
    from clinvk.model.progress import Change

MAX_ENDED_SHOWN = 5  # tasks that have ended
MAX_FAILED_SHOWN = 3  # of them: failures are seen longer than successes


class BoardState:
    """The state of one run. Without `has_deltas`, answers are not seen while they are written, so
    neither is how long a task has been silent."""

    def __init__(self, clock: Callable[[], float], wall_clock: Callable[[], datetime]) -> None:
        self.clock = clock
        self.wall_clock = wall_clock
        self.run_id: str | None = None
        self.total = 0
        self.started_at = clock()
        self.has_deltas = True
        self.tally = Tally()
        self.rows = Rows()
        self.pauses: dict[str, datetime | None] = {}  # backend: the end of its rate limit
        self.reasons: dict[int, str] = {}  # why tasks wait for a worker, by their position
        self.last_ended: list[Outcome] = []
        self.node_width = 0  # of the longest name of a worker; 0 until one has taken a task
        self.notices: list[str] = []  # lines to be printed above the board
        self._told: set[str] = set()  # what is said once, though many tasks may meet it

    def begin(self, total: int, run_id: str | None, started_at: datetime | None = None) -> None:
        self.total, self.run_id = total, run_id
        self.started_at = self._to_clock_time(started_at)

    def add_outcomes(self, outcomes: Iterable[Outcome]) -> None:
        """Take tasks that are known to be in these states."""
        for outcome in outcomes:
            self.tally.set_state(outcome, outcome.state)
            if outcome.state == "running":
                self._add_started(outcome)

    def add_event(self, index: int, event: Event) -> None:
        """Take an event of a task."""
        row = self.rows.by_index.get(index)
        if row is None:
            return
        row.last_event_at = self.clock()
        if type(event) is Delta:
            row.activity, row.is_streaming = "answering", True
            row.pieces.append(event.text)
            return
        row.apply_event(event)
        if not (self.has_deltas or row.activity.startswith("tool ")):
            row.activity = "running"

    def add_change(self, change: Change) -> None:
        """Take a change of a task, other than an event, or what is to be told of the run."""
        outcome = change.outcome
        if is_lonely(change):
            if change.message not in self._told:
                self._told.add(change.message)
                self.notices.append(one_line(change.message))
        elif outcome is None or change.kind in ("event", "notice"):
            if text := describe_change(change):
                self.notices.append(text)
        elif change.kind == "started":
            self.tally.set_state(outcome, "running")
            self._add_started(outcome)
        elif change.kind == "node" and outcome.node is None:
            self.tally.set_state(outcome, "queued")
            self.rows.remove(outcome.index)
        elif change.kind == "node":
            if row := self.rows.by_index.get(outcome.index):
                self._set_node(row, outcome)
        elif change.kind == "ended":
            self.tally.set_state(outcome, outcome.state)
            self._add_ended(outcome)
        else:
            self.tally.set_state(outcome, "queued")
            self._add_waiting(outcome, change)

    def set_reasons(self, reasons: Mapping[int, str]) -> None:
        """Why tasks wait for a worker, by their position; some may have been taken since that was
        asked."""
        self.reasons = {i: why for i, why in reasons.items() if i not in self.rows.by_index}

    def _add_started(self, outcome: Outcome) -> None:
        row = self._row(outcome, self._to_clock_time(outcome.started_at))
        self._set_node(row, outcome)
        self.rows.start(outcome.index, row)

    def _set_node(self, row: Row, outcome: Outcome) -> None:
        row.node = normalize_width(outcome.node or "")
        self.reasons.pop(outcome.index, None)
        self.node_width = max(self.node_width, display_width(row.node))

    def _row(self, outcome: Outcome, began: float) -> Row:
        return Row(
            name=normalize_width(outcome.name), backend=normalize_width(outcome.backend or "-"), started_at=began,
            last_event_at=self.clock(), activity=("starting" if self.has_deltas else "running") if outcome.backend else "choosing",
            tokens=outcome.usage.counted if outcome.usage else 0,
        )  # fmt: skip

    def _add_waiting(self, outcome: Outcome, change: Change) -> None:
        row = self._row(outcome, self.clock())
        row.until = change.until
        self.rows.wait(outcome.index, row)
        if change.kind == "limit":
            row.activity = f"waiting for rate limit until {format_time(change.until)}"
            self.pauses[outcome.backend or "-"] = change.until
            if change.instead and (text := describe_change(change)) and text not in self._told:
                self._told.add(text)
                self.notices.append(text)
        else:
            row.activity = f"retry at {format_time(change.until, '%H:%M:%S')}"
            row.reason = outcome.error.message if outcome.error else ""

    def _add_ended(self, outcome: Outcome) -> None:
        self.rows.remove(outcome.index)
        self.reasons.pop(outcome.index, None)
        if outcome.ok:
            self.pauses.pop(outcome.backend or "-", None)
        if not outcome.attempts or outcome.state == "queued":
            return  # it was never started
        self.last_ended.append(outcome)
        if len(self.last_ended) > MAX_ENDED_SHOWN:
            crowded = sum(not o.ok for o in self.last_ended) > MAX_FAILED_SHOWN
            gone = next(o for o in self.last_ended if o.ok is not crowded)
            self.last_ended.remove(gone)

    def _to_clock_time(self, moment: datetime | None) -> float:
        passed = (self.wall_clock() - moment).total_seconds() if moment else 0.0
        return self.clock() - max(0.0, passed)
