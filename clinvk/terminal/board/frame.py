"""The lines of the board: how its state is drawn, only as much of it as fits on the screen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from clinvk.model.outcome import MARKS, Outcome
from clinvk.terminal.board.rows import Row
from clinvk.terminal.board.state import BoardState
from clinvk.terminal.live import normalize_width
from clinvk.terminal.printer import BOLD, DIM, RED, YELLOW, Printer
from clinvk.terminal.wording import format_time
from clinvk.text import duration
from clinvk.text.width import display_width, pad, truncate

SILENT_AFTER = 30  # seconds without output, after which a task is shown as silent
MAX_REASONS = 3  # why tasks wait for a worker
MAX_NODE_WIDTH = 12  # cells
NARROW_WIDTH = 60  # columns, below which there is no room for text
GREEN, CYAN = "32", "36"

Segment = tuple[str, str]  # text and its color


class BoardFrame:
    """Draws a state, and remembers how wide its columns were."""

    def __init__(self, state: BoardState, printer: Printer) -> None:
        self._state = state
        self._printer = printer
        self._name_width, self._activity_width = 4, 11  # `silent 40 s`

    def lines(self, columns: int, rows: int) -> list[str]:
        """The lines of the board: fewer than `rows`, since the cursor is below them, and none as
        wide as the terminal, since some terminals would then start another line."""
        # All times change at the same moment, which is calmer to look at.
        now = self._state.started_at + int(self._state.clock() - self._state.started_at)
        lines = [self._header(columns - 1, now), *self._body(columns - 1, rows - 2, now)]
        return [self._paint_line(line, columns - 1) for line in lines[: max(0, rows - 1)]]

    def _body(self, width: int, room: int, now: float) -> Iterable[list[Segment]]:
        running, waiting = self._state.rows.running(), self._state.rows.waiting()
        pauses = [*self._pause_lines(), *self._why_lines()][: max(0, room // 3)]
        room -= len(pauses)
        wanted = len(running) + len(waiting)
        last = min(len(self._state.last_ended), max(room - wanted, room // 5, 0))
        room -= last
        seen = wanted if wanted <= room else max(0, room - 1)
        rows = (running + waiting)[:seen]
        self._grow_columns(rows, width)
        for row in rows:
            runs = row.slot is not None
            yield self._running_line(row, width, now) if runs else self._waiting_line(row, width)
        if seen < wanted and room > 0:
            yield [(_more_line(len(running), len(waiting), seen), DIM)]
        yield from pauses
        for outcome in self._state.last_ended[len(self._state.last_ended) - last :]:
            yield self._ended_line(outcome)

    def _header(self, width: int, now: float) -> list[Segment]:
        """The parts that fit, chosen by importance."""
        state = self._state
        tally, counts = state.tally, state.tally.counts
        queued = state.total - tally.ended - counts["running"]
        parts = [  # in the order shown; 0 is the most important
            (5, state.run_id or "", DIM),
            (0, f"{counts['done']}/{state.total} done", BOLD),
            (0, _count_phrase(counts["failed"], "failed"), RED),
            (1, _count_phrase(counts["running"], "running"), ""),
            (3, _count_phrase(queued, "queued"), ""),
            *(
                (4, _count_phrase(counts[s], s), YELLOW)
                for s in ("skipped", "cancelled", "waiting")
            ),
            (2, duration.format_running(now - state.started_at), DIM),
            (7, f"{_shorten_number(tally.tokens)} tokens" if tally.tokens else "", DIM),
            (6, f"${tally.cost:.2f}" if tally.cost else "", DIM),
        ]
        bar = max(4, min(30, width // 6))
        room = width - bar - 1
        kept = []
        for _, i in sorted((part[0], i) for i, part in enumerate(parts) if part[1]):
            if (needed := display_width(parts[i][1]) + 3) <= room + 1:
                room -= needed
                kept.append(i)
        return [*self._bar(bar), (" ", ""), *_join([parts[i][1:] for i in sorted(kept)])]

    def _bar(self, width: int) -> Iterable[Segment]:
        total = max(1, self._state.total)
        full = width * self._state.tally.ended // total
        bad = min(full, -(-width * self._state.tally.counts["failed"] // total))
        yield "━" * (full - bad), GREEN
        yield "━" * bad, RED
        yield "─" * (width - full), DIM

    def _grow_columns(self, rows: list[Row], width: int) -> None:
        """Set the column of names to the width of the longest one. It never shrinks: columns that
        move back and forth are distracting."""
        running = (row for row in rows if row.slot is not None)
        longest = max((display_width(normalize_width(row.activity)) for row in running), default=0)
        self._activity_width = min(max(self._activity_width, longest), 11 + width // 12)
        most = width // 3 - 2 if width >= NARROW_WIDTH - 1 else width - self._activity_width - 12
        longest = max((display_width(row.name) for row in rows), default=0)
        self._name_width = min(max(self._name_width, longest), max(8, most))

    def _running_line(self, row: Row, width: int, now: float) -> list[Segment]:
        quiet = int(now - row.last_event_at)
        state, color = normalize_width(row.activity), CYAN if row.activity == "answering" else ""
        if quiet >= SILENT_AFTER and self._state.has_deltas:
            color = YELLOW
            if not row.activity.startswith("tool "):  # a tool may take long without output
                state = f"silent {quiet} s" if quiet < 60 else f"silent {quiet // 60}m"
        elif row.activity in ("starting", "running"):
            color = DIM
        line = [("• ", CYAN), *self._task_label(row, width), (pad(state, self._activity_width), color),
                (f" {duration.format_running(now - row.started_at):>7}", DIM)]  # fmt: skip
        if row.tokens:
            line.append((f" {_shorten_number(row.tokens):>6}", DIM))
        room = width - sum(display_width(text) for text, _ in line) - 2
        words = row.last_line(room) if width >= NARROW_WIDTH - 1 and room >= 8 else ""
        return [*line, (f"  {words}", DIM)] if words else line

    def _waiting_line(self, row: Row, width: int) -> list[Segment]:
        due = row.until is not None and row.until <= self._state.wall_clock()
        text = "waiting for a free slot" if due else row.activity
        line = [("… ", YELLOW), *self._task_label(row, width), (text, YELLOW)]
        return [*line, (f"  {normalize_width(row.reason[:200])}", DIM)] if row.reason else line

    def _task_label(self, row: Row, width: int) -> Iterable[Segment]:
        yield f"{pad(row.name, self._name_width)}  ", ""
        if width >= NARROW_WIDTH - 1:
            yield f"{pad(row.backend, 7)} ", DIM
            nodes = min(self._state.node_width, MAX_NODE_WIDTH)
            if nodes and row.slot is not None:
                yield f"{pad(truncate(row.node, nodes), nodes)} ", DIM

    def _why_lines(self) -> list[list[Segment]]:
        """Why tasks wait for a worker: each reason once, those of most tasks first."""
        counts = Counter(self._state.reasons.values())
        return [
            [(f"… {count:,} queued: {normalize_width(why)}", YELLOW)]
            for why, count in counts.most_common(MAX_REASONS)
        ]

    def _pause_lines(self) -> list[list[Segment]]:
        now = self._state.wall_clock()
        lines = []
        for backend, until in self._state.pauses.items():
            if until is None:
                lines.append([(f"  {normalize_width(backend)}: rate limit reached", YELLOW)])
            elif until > now:
                left = duration.format_running((until - now).total_seconds())
                text = (
                    f"  {normalize_width(backend)}: rate limit until {format_time(until)} ({left})"
                )
                lines.append([(text, YELLOW)])
        return lines

    def _ended_line(self, outcome: Outcome) -> list[Segment]:
        color = {"done": GREEN, "failed": RED}.get(outcome.state, YELLOW)
        line = [
            (f"{MARKS.get(outcome.state, '·')} ", color),
            (pad(normalize_width(outcome.name), self._name_width), DIM),
            (f"  {duration.format_duration(outcome.seconds):>7}", DIM),
        ]
        if not outcome.ok:
            why = outcome.error.message if outcome.error else outcome.state
            line.append((f"  {normalize_width(why[:300])}", ""))
        return line

    def _paint_line(self, segments: Iterable[Segment], room: int) -> str:
        """The segments in color, cut off at the width of the terminal."""
        painted = []
        for text, color in segments:
            taken = display_width(text)
            kept = text if taken <= room else truncate(text, room)
            room -= taken
            if kept:
                painted.append(self._printer.paint(kept, color) if color else kept)
            if room <= 0:
                break
        return "".join(painted).rstrip()


def _join(parts: Iterable[Segment]) -> Iterable[Segment]:
    for i, part in enumerate(parts):
        if i:
            yield " · ", DIM
        yield part


def _more_line(running: int, waiting: int, seen: int) -> str:
    left, behind = max(0, running - seen), waiting - max(0, seen - running)
    parts = [
        _count_phrase(left, "more running"),
        _count_phrase(behind, "more waiting" if not left else "waiting"),
    ]
    return f"  … and {', '.join(filter(None, parts))}"


def _count_phrase(count: int, what: str) -> str:
    return f"{count:,} {what}" if count > 0 else ""


def _shorten_number(count: int) -> str:
    """`12.4k`: of a changing number, only the first digits are read."""
    for size, unit in ((1_000_000, "M"), (1_000, "k")):
        if count >= size:
            return f"{count / size:.1f}{unit}"
    return str(count)
