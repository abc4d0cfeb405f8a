"""What the live picture of a run knows: where each task stands, and what it said last."""

from __future__ import annotations

import heapq
from collections import Counter, deque
from datetime import datetime

from msgspec import Struct, field

from clinvk.model.events import Event, Text, Tool
from clinvk.model.outcome import UNDERWAY, Outcome
from clinvk.terminal.live import cells, ending, plain
from clinvk.text.sanitize import Cleaner

PIECES = 64  # of an answer, that are kept for the next frame
SAID_KEPT = 1000  # characters

DOING = {
    "started": "thinking",
    "thinking": "thinking",
    "tool_result": "thinking",
    "denied": "thinking",
    "text": "answering",
    "finished": "ending",
    "failed": "ending",
}


class Row(Struct, kw_only=True):
    """A task that is running, or waits for another try."""

    name: str
    backend: str
    began: float
    heard: float  # when it last said something
    slot: int | None = None  # its place on the board; none where it waits
    doing: str = "starting"
    tokens: int = 0
    until: datetime | None = None  # it waits
    why: str = ""
    streamed: bool = False  # what it says now came in pieces so far
    said: str = ""  # its last line
    shown: str = ""  # the same, as it fitted
    pieces: deque[str] = field(default_factory=lambda: deque(maxlen=PIECES))
    cleaner: Cleaner = field(default_factory=Cleaner)

    def took(self, event: Event) -> None:
        """Note what it does now; and what it says, where that has not come in pieces."""
        if isinstance(event, Text) and not self.streamed:
            self.pieces.append(event.text[-SAID_KEPT:])
        if self.streamed or isinstance(event, Text):
            self.pieces.append("\n")
            self.streamed = False
        if isinstance(event, Tool):
            self.doing = f"tool {event.name[:40]}"
        else:
            self.doing = DOING.get(event.type, self.doing)

    def words(self, room: int) -> str:
        """The last line that it said, or the end of that."""
        if self.pieces:
            said = self.said + self.cleaner.feed("".join(self.pieces))
            self.pieces.clear()
            self.said = said[said.rstrip().rfind("\n") + 1 :][-SAID_KEPT:]
        elif self.shown and cells(self.shown) <= room:
            return self.shown
        self.shown = plain(self.said)
        if cells(self.shown) > room:
            self.shown = ending(self.shown, room)
            self.said = self.shown + self.said[len(self.said.rstrip()) :]
        return self.shown


class Rows:
    """The tasks that are seen. Each stays where it is while others end, and the next one that is
    started takes the place of one that has ended."""

    def __init__(self) -> None:
        self.known: dict[int, Row] = {}
        self._slots: list[Row | None] = []
        self._holes: list[int] = []

    def run(self, index: int, row: Row) -> None:
        self.drop(index)
        row.slot = heapq.heappop(self._holes) if self._holes else len(self._slots)
        self._slots[row.slot : row.slot + 1] = [row]
        self.known[index] = row

    def hold(self, index: int, row: Row) -> None:
        """It waits for another try."""
        self.drop(index)
        self.known[index] = row

    def drop(self, index: int) -> None:
        row = self.known.pop(index, None)
        if row is not None and row.slot is not None:
            self._slots[row.slot] = None
            heapq.heappush(self._holes, row.slot)

    def running(self) -> list[Row]:
        return [row for row in self._slots if row is not None]

    def waiting(self) -> list[Row]:
        return [row for row in self.known.values() if row.slot is None]


class Tally:
    """How many tasks are in each state, and what they have taken."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.tokens = 0
        self.cost = 0.0
        self._known: dict[int, tuple[str, int, float]] = {}

    @property
    def over(self) -> int:
        return sum(n for state, n in self.counts.items() if state not in UNDERWAY)

    def put(self, outcome: Outcome, state: str) -> None:
        """Count the task under `state`, and no longer where it was before."""
        tokens, cost = outcome.usage.total if outcome.usage else 0, outcome.cost or 0.0
        before, tokens_before, cost_before = self._known.get(outcome.index, ("", 0, 0.0))
        if before:
            self.counts[before] -= 1
        self.counts[state] += 1
        self.tokens += tokens - tokens_before
        self.cost += cost - cost_before
        self._known[outcome.index] = (state, tokens, cost)
