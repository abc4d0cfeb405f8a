"""The data of the live board: the state of each task, and its last output."""

from __future__ import annotations

import heapq
from collections import Counter, deque
from datetime import datetime

from msgspec import Struct, field

from clinvk.model.events import Event, Text, Tool
from clinvk.model.outcome import ACTIVE_STATES, Outcome
from clinvk.terminal.live import normalize_width
from clinvk.text.sanitize import StreamSanitizer
from clinvk.text.width import clip_start, display_width

MAX_PIECES = 64  # pieces of an answer that are kept for the next frame
MAX_TEXT_LENGTH = 1000  # characters

ACTIVITIES = {
    "started": "thinking",
    "thinking": "thinking",
    "tool_result": "thinking",
    "denied": "thinking",
    "text": "answering",
    "checking": "checking",
    "round": "fixing",
    "finished": "ending",
    "failed": "ending",
}


class Row(Struct, kw_only=True):
    """A task that is running or waiting for a retry."""

    name: str
    backend: str
    node: str = ""  # of a cluster
    started_at: float
    last_event_at: float  # when it last sent output
    slot: int | None = None  # its place on the board; None while it is waiting
    activity: str = "starting"
    tokens: int = 0
    until: datetime | None = None  # the end of the wait
    reason: str = ""
    is_streaming: bool = False  # its current output has arrived in pieces
    last_text: str = ""  # its last line
    shown_text: str = ""  # the same, cut to fit
    pieces: deque[str] = field(default_factory=lambda: deque(maxlen=MAX_PIECES))
    sanitizer: StreamSanitizer = field(default_factory=StreamSanitizer)

    def apply_event(self, event: Event) -> None:
        """Record its activity, and its output if that did not arrive in pieces."""
        if isinstance(event, Text) and not self.is_streaming:
            self.pieces.append(event.text[-MAX_TEXT_LENGTH:])
        if self.is_streaming or isinstance(event, Text):
            self.pieces.append("\n")
            self.is_streaming = False
        if isinstance(event, Tool):
            self.activity = f"tool {event.name[:40]}"
        else:
            self.activity = ACTIVITIES.get(event.type, self.activity)

    def last_line(self, room: int) -> str:
        """The last line of its output, or the end of it."""
        if self.pieces:
            said = self.last_text + self.sanitizer.feed("".join(self.pieces))
            self.pieces.clear()
            self.last_text = said[said.rstrip().rfind("\n") + 1 :][-MAX_TEXT_LENGTH:]
        elif self.shown_text and display_width(self.shown_text) <= room:
            return self.shown_text
        self.shown_text = normalize_width(self.last_text)
        if display_width(self.shown_text) > room:
            self.shown_text = clip_start(self.shown_text, room)
            self.last_text = self.shown_text + self.last_text[len(self.last_text.rstrip()) :]
        return self.shown_text


class Rows:
    """The visible tasks. Each keeps its place while others end, and the next task to start takes a
    place that has become free."""

    def __init__(self) -> None:
        self.by_index: dict[int, Row] = {}
        self._slots: list[Row | None] = []
        self._holes: list[int] = []

    def start(self, index: int, row: Row) -> None:
        self.remove(index)
        row.slot = heapq.heappop(self._holes) if self._holes else len(self._slots)
        self._slots[row.slot : row.slot + 1] = [row]
        self.by_index[index] = row

    def wait(self, index: int, row: Row) -> None:
        """Record that the task is waiting for a retry."""
        self.remove(index)
        self.by_index[index] = row

    def remove(self, index: int) -> None:
        row = self.by_index.pop(index, None)
        if row is not None and row.slot is not None:
            self._slots[row.slot] = None
            heapq.heappush(self._holes, row.slot)

    def running(self) -> list[Row]:
        return [row for row in self._slots if row is not None]

    def waiting(self) -> list[Row]:
        return [row for row in self.by_index.values() if row.slot is None]


class Tally:
    """The number of tasks in each state, and their tokens and cost."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.tokens = 0
        self.cost = 0.0
        self._states: dict[int, tuple[str, int, float]] = {}

    @property
    def ended(self) -> int:
        return sum(n for state, n in self.counts.items() if state not in ACTIVE_STATES)

    def set_state(self, outcome: Outcome, state: str) -> None:
        """Count the task under `state` instead of its previous state."""
        tokens, cost = outcome.usage.counted if outcome.usage else 0, outcome.cost or 0.0
        before, tokens_before, cost_before = self._states.get(outcome.index, ("", 0, 0.0))
        if before:
            self.counts[before] -= 1
        self.counts[state] += 1
        self.tokens += tokens - tokens_before
        self.cost += cost - cost_before
        self._states[outcome.index] = (state, tokens, cost)
