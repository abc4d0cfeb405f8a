"""The live board of a run of many tasks, on a terminal.

Events are only recorded: twenty events per second from each of a hundred tasks must be cheap. A
frame turns the records into text, only for the tasks that fit on the screen.
"""

from __future__ import annotations

import io
import os
import signal
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from clinvk.model.events import Delta
from clinvk.model.outcome import MARKS, Outcome
from clinvk.terminal.live import GetSize, LiveRegion, normalize_width
from clinvk.terminal.printer import BOLD, DIM, RED, YELLOW, Printer
from clinvk.terminal.rows import Row, Rows, Tally
from clinvk.terminal.wording import describe_change
from clinvk.text import duration
from clinvk.text.width import display_width, pad, truncate

if TYPE_CHECKING:
    from clinvk.engine.driven_run import DrivenRun
    from clinvk.model.progress import Change

FRAME_INTERVAL = 1 / 8  # minimum seconds between two frames
SILENT_AFTER = 30  # seconds without output, after which a task is shown as silent
MAX_ENDED_SHOWN = 5  # tasks that have ended
MAX_FAILED_SHOWN = 3  # of them: failures are seen longer than successes
ASK_INTERVAL = 2.0  # seconds between two looks at the workers of a cluster
MAX_NODE_WIDTH = 12  # cells
NARROW_WIDTH = 60  # columns, below which there is no room for text
GREEN, CYAN = "32", "36"

Segment = tuple[str, str]  # text and its color
AskWhy = Callable[[], Mapping[int, str]]  # why tasks wait for a worker, by their position


class Board:
    """Shows a run: call `begin`, or `begin_with` if another process drives it, then `observe`, with
    `live` running concurrently. Without an event loop, call `tick` several times a second."""

    def __init__(
        self,
        printer: Printer,
        *,
        size: GetSize | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.printer = printer
        self.region = LiveRegion(printer.stream, size)
        self.clock = clock
        self.wall_clock = wall_clock
        self.run_id: str | None = None
        self.total = 0
        self._started_at = clock()
        self._run: DrivenRun | None = None
        self._tally = Tally()
        self._rows = Rows()
        self._pauses: dict[str, datetime | None] = {}
        self._limits: set[str] = set()  # those reported
        self._last_ended: list[Outcome] = []
        self._name_width, self._activity_width = 4, 11  # `silent 40 s`
        self.ask_why: AskWhy | None = None
        self._node_width = 0  # until a worker of a cluster has taken a task
        self._lines_above: list[str] = []
        self._has_deltas = True
        self._changed = False
        self._second = -1
        self._live = False
        self._closed = False

    # Events.

    def begin(self, run: DrivenRun) -> None:
        self._begin(len(run.plan.tasks), run.folder.id if run.folder else None)
        self._run = run
        if (cluster := run.context.cluster) is not None:
            self.ask_why = lambda: cluster.why_waiting(run.plan, run.outcomes)

    def begin_following(
        self,
        total: int,
        run_id: str | None = None,
        outcomes: Iterable[Outcome] = (),
        *,
        started_at: datetime | None = None,
        has_deltas: bool = True,
    ) -> None:
        """For a run that another process drives: the state of its tasks, and when it started.
        Without `has_deltas`, answers are not seen while they are written, so neither is how long a
        task has been silent."""
        self._begin(total, run_id)
        self._started_at = self._to_clock_time(started_at)
        self._has_deltas = has_deltas
        self._add_outcomes(outcomes)
        self._live = True

    def _begin(self, total: int, run_id: str | None) -> None:
        self.total, self.run_id = total, run_id
        self._started_at = self.clock()

    def _add_outcomes(self, outcomes: Iterable[Outcome]) -> None:
        for outcome in outcomes:
            self._tally.set_state(outcome, outcome.state)
            if outcome.state == "running":
                self._handle_started(outcome)

    def observe(self, change: Change) -> None:
        event, outcome = change.event, change.outcome
        if event is not None and outcome is not None:
            row = self._rows.by_index.get(outcome.index)
            if row is not None:
                row.last_event_at = self.clock()
                if type(event) is Delta:
                    row.activity, row.is_streaming = "answering", True
                    row.pieces.append(event.text)
                else:
                    row.apply_event(event)
                    if not (self._has_deltas or row.activity.startswith("tool ")):
                        row.activity = "running"
            self._changed = True
            if event.type not in ("notice", "round"):
                return
        self._handle_change(change)

    def _handle_change(self, change: Change) -> None:
        if self._run is not None:
            # Only now is it known which tasks of a resumed run were done before.
            self._add_outcomes(self._run.outcomes)
            self._run = None
        self._live = self._changed = True
        outcome = change.outcome
        if outcome is None or change.kind in ("event", "notice"):
            if text := describe_change(change):
                self._lines_above.append(text)
        elif change.kind == "started":
            self._tally.set_state(outcome, "running")
            self._handle_started(outcome)
        elif change.kind == "node":
            if row := self._rows.by_index.get(outcome.index):
                self._set_node(row, outcome)
        elif change.kind == "ended":
            self._tally.set_state(outcome, outcome.state)
            self._handle_ended(outcome)
        else:
            self._tally.set_state(outcome, "queued")
            self._handle_wait(outcome, change)

    def _handle_started(self, outcome: Outcome) -> None:
        row = self._row(outcome, self._to_clock_time(outcome.started_at))
        self._set_node(row, outcome)
        self._rows.start(outcome.index, row)

    def _set_node(self, row: Row, outcome: Outcome) -> None:
        row.node = normalize_width(outcome.node or "")
        row.why_waiting = ""
        self._node_width = max(self._node_width, min(display_width(row.node), MAX_NODE_WIDTH))

    def _row(self, outcome: Outcome, began: float) -> Row:
        return Row(
            name=normalize_width(outcome.name), backend=normalize_width(outcome.backend or "-"), started_at=began,
            last_event_at=self.clock(), activity=("starting" if self._has_deltas else "running") if outcome.backend else "choosing",
            tokens=outcome.usage.counted if outcome.usage else 0,
        )  # fmt: skip

    def _handle_wait(self, outcome: Outcome, change: Change) -> None:
        row = self._row(outcome, self.clock())
        row.until = change.until
        self._rows.wait(outcome.index, row)
        if change.kind == "limit":
            row.activity = f"waiting for rate limit until {_format_time(change.until)}"
            self._pauses[outcome.backend or "-"] = change.until
            if change.instead and (text := describe_change(change)) and text not in self._limits:
                self._limits.add(text)
                self._lines_above.append(text)
        else:
            row.activity = f"retry at {_format_time(change.until, '%H:%M:%S')}"
            row.reason = outcome.error.message if outcome.error else ""

    def _handle_ended(self, outcome: Outcome) -> None:
        self._rows.remove(outcome.index)
        if outcome.ok:
            self._pauses.pop(outcome.backend or "-", None)
        if not outcome.attempts or outcome.state == "queued":
            return  # it was never started
        self._last_ended.append(outcome)
        if len(self._last_ended) > MAX_ENDED_SHOWN:
            crowded = sum(not o.ok for o in self._last_ended) > MAX_FAILED_SHOWN
            gone = next(o for o in self._last_ended if o.ok is not crowded)
            self._last_ended.remove(gone)

    def _to_clock_time(self, moment: datetime | None) -> float:
        passed = (self.wall_clock() - moment).total_seconds() if moment else 0.0
        return self.clock() - max(0.0, passed)

    # Drawing.

    async def live(self) -> None:
        # 45 ms, and needed only once something runs.
        import anyio

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._suspend)
            if self.ask_why is not None:
                tasks.start_soon(self._ask_why, self.ask_why)
            while True:
                self.tick()
                await anyio.sleep(FRAME_INTERVAL)

    async def _ask_why(self, ask: AskWhy) -> None:
        """Look again and again why tasks wait for a worker."""
        # 45 ms, and needed only once something runs.
        from anyio import sleep, to_thread

        while True:
            if any(not row.node for row in self._rows.running()):
                self.show_why_waiting(await to_thread.run_sync(ask, abandon_on_cancel=True))
            await sleep(ASK_INTERVAL)

    def show_why_waiting(self, reasons: Mapping[int, str]) -> None:
        for index, row in self._rows.by_index.items():
            if not row.node:
                row.why_waiting = normalize_width(reasons.get(index, ""))
                self._changed = True

    # Nothing of it goes to stdout, whose reader may be slow.

    async def flush(self) -> None: ...

    async def end(self) -> None: ...

    def give_up(self) -> None: ...

    async def _suspend(self) -> None:
        """Return the terminal to the shell when Ctrl-Z stops the process."""
        # 45 ms, and needed only once something runs.
        import anyio

        if signal.getsignal(signal.SIGTSTP) is signal.SIG_IGN:
            return
        with anyio.open_signal_receiver(signal.SIGTSTP) as signals:
            async for _ in signals:
                self.region.clear()
                os.kill(os.getpid(), signal.SIGSTOP)
                self._changed = True

    def tick(self) -> None:
        """Draw a frame if it differs from the last one."""
        now = self.clock()
        same = not self._changed and int(now - self._started_at) == self._second
        if not same or self.region.is_resized():
            self._draw(now)

    def _draw(self, now: float) -> None:
        if self._closed or not self._live or not self.region.can_draw():
            return
        self._changed, self._second = False, int(now - self._started_at)
        above, self._lines_above = self._paint_notice(), []
        self.region.draw(self.frame(*self.region.size()), above)

    def show_notice(self, text: str) -> None:
        """Print a line that stays, above the board."""
        self._lines_above.append(text)
        self._changed = True
        if self._closed or not self._live:
            self.region.clear(self._paint_notice())
            self._lines_above = []
        else:
            self.tick()

    def close(self) -> None:
        """Remove the board, and show typed characters again."""
        self._closed = True
        self.region.clear(self._paint_notice())
        self._lines_above = []

    def _paint_notice(self) -> str:
        buffer, columns = io.StringIO(), self.region.size()[0]
        for text in self._lines_above:
            Printer(buffer, color=self.printer.color, width=columns).notice(text)
        return buffer.getvalue()

    # Frames.

    def frame(self, columns: int, rows: int) -> list[str]:
        """The lines of the board: fewer than `rows`, since the cursor is below them, and none as
        wide as the terminal, since some terminals would then start another line."""
        # All times change at the same moment, which is calmer to look at.
        now = self._started_at + int(self.clock() - self._started_at)
        lines = [self._header(columns - 1, now), *self._body(columns - 1, rows - 2, now)]
        return [self._paint_line(line, columns - 1) for line in lines[: max(0, rows - 1)]]

    def _body(self, width: int, room: int, now: float) -> Iterable[list[Segment]]:
        running, waiting = self._rows.running(), self._rows.waiting()
        pauses = self._pause_lines()[: max(0, room // 3)]
        room -= len(pauses)
        wanted = len(running) + len(waiting)
        last = min(len(self._last_ended), max(room - wanted, room // 5, 0))
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
        for outcome in self._last_ended[len(self._last_ended) - last :]:
            yield self._ended_line(outcome)

    def _header(self, width: int, now: float) -> list[Segment]:
        """The parts that fit, chosen by importance."""
        tally, counts = self._tally, self._tally.counts
        queued = self.total - tally.ended - counts["running"]
        parts = [  # in the order shown; 0 is the most important
            (5, self.run_id or "", DIM),
            (0, f"{counts['done']}/{self.total} done", BOLD),
            (0, _count_phrase(counts["failed"], "failed"), RED),
            (1, _count_phrase(counts["running"], "running"), ""),
            (3, _count_phrase(queued, "queued"), ""),
            *(
                (4, _count_phrase(counts[s], s), YELLOW)
                for s in ("skipped", "cancelled", "waiting")
            ),
            (2, duration.format_running(now - self._started_at), DIM),
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
        total = max(1, self.total)
        full = width * self._tally.ended // total
        bad = min(full, -(-width * self._tally.counts["failed"] // total))
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
        if row.why_waiting:
            state, color = "waiting", YELLOW
        elif quiet >= SILENT_AFTER and self._has_deltas:
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
        words = ""
        if width >= NARROW_WIDTH - 1 and room >= 8:
            words = row.why_waiting or row.last_line(room)
        return [*line, (f"  {words}", DIM)] if words else line

    def _waiting_line(self, row: Row, width: int) -> list[Segment]:
        due = row.until is not None and row.until <= self.wall_clock()
        text = "waiting for a free slot" if due else row.activity
        line = [("… ", YELLOW), *self._task_label(row, width), (text, YELLOW)]
        return [*line, (f"  {normalize_width(row.reason[:200])}", DIM)] if row.reason else line

    def _task_label(self, row: Row, width: int) -> Iterable[Segment]:
        yield f"{pad(row.name, self._name_width)}  ", ""
        if width >= NARROW_WIDTH - 1:
            yield f"{pad(row.backend, 7)} ", DIM
            if self._node_width and row.slot is not None:
                yield f"{pad(truncate(row.node, self._node_width), self._node_width)} ", DIM

    def _pause_lines(self) -> list[list[Segment]]:
        now = self.wall_clock()
        lines = []
        for backend, until in self._pauses.items():
            if until is None:
                lines.append([(f"  {normalize_width(backend)}: rate limit reached", YELLOW)])
            elif until > now:
                left = duration.format_running((until - now).total_seconds())
                text = (
                    f"  {normalize_width(backend)}: rate limit until {_format_time(until)} ({left})"
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
                painted.append(self.printer.paint(kept, color) if color else kept)
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


def _format_time(moment: datetime | None, form: str = "%H:%M") -> str:
    if moment is None:
        return "?"
    local = moment.astimezone()
    today = local.date() == datetime.now().astimezone().date()
    return local.strftime(form if today else "%d %b %H:%M")
