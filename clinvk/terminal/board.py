"""The live picture of a run of many tasks, on a terminal.

What happens is only noted: twenty events a second of each of a hundred tasks may not cost much.
A frame makes text of that, and of those tasks alone that there is room for.
"""

from __future__ import annotations

import io
import os
import signal
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from clinvk.model.events import Delta
from clinvk.model.outcome import Outcome
from clinvk.terminal.live import Canvas, Size, cells, cut, padded, plain
from clinvk.terminal.printer import BOLD, DIM, RED, YELLOW, Printer
from clinvk.terminal.rows import Row, Rows, Tally
from clinvk.terminal.wording import MARKS, happened
from clinvk.text import duration

if TYPE_CHECKING:
    from clinvk.engine.plan_run import PlanRun
    from clinvk.engine.scheduler import Change

INTERVAL = 1 / 8  # seconds between two frames, at least
SILENT = 30  # seconds without a word, after which it is said
LAST_KEPT = 5  # tasks that have ended
FAILED_KEPT = 3  # of them: failures are seen longer than successes
NARROW = 60  # columns, below which there is no room for words
GREEN, CYAN = "32", "36"

Segment = tuple[str, str]  # words, and their colour


class Board:
    """Shows a run: `begin`, or `begin_with` where somebody else drives it, then `observe`, and
    `live` beside. Without an event loop: `tick`, several times a second."""

    def __init__(
        self,
        printer: Printer,
        *,
        size: Size | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.printer = printer
        self.canvas = Canvas(printer.stream, size)
        self.clock = clock
        self.wall = wall
        self.run_id: str | None = None
        self.total = 0
        self._began = clock()
        self._run: PlanRun | None = None
        self._tally = Tally()
        self._rows = Rows()
        self._pauses: dict[str, datetime | None] = {}
        self._limits: set[str] = set()  # what was said of them
        self._last: list[Outcome] = []
        self._name_width, self._doing_width = 4, 11  # `silent 40 s`
        self._above: list[str] = []
        self._hears = True
        self._changed = False
        self._second = -1
        self._live = False
        self._closed = False

    # What happens.

    def begin(self, run: PlanRun) -> None:
        self._begin(len(run.plan.tasks), run.folder.id if run.folder else None)
        self._run = run

    def begin_with(
        self,
        total: int,
        run_id: str | None = None,
        outcomes: Iterable[Outcome] = (),
        *,
        began: datetime | None = None,
        hears: bool = True,
    ) -> None:
        """For a run that another process drives: where its tasks stand, and when it began.
        Without `hears` there are no events, and nothing is said of what a task does."""
        self._begin(total, run_id)
        self._began = self._on_clock(began)
        self._hears = hears
        self._stand(outcomes)
        self._live = True

    def _begin(self, total: int, run_id: str | None) -> None:
        self.total, self.run_id = total, run_id
        self._began = self.clock()

    def _stand(self, outcomes: Iterable[Outcome]) -> None:
        for outcome in outcomes:
            self._tally.put(outcome, outcome.state)
            if outcome.state == "running":
                self._started(outcome)

    def observe(self, change: Change) -> None:
        event, outcome = change.event, change.outcome
        if event is not None and outcome is not None:
            row = self._rows.known.get(outcome.index)
            if row is not None:
                row.heard = self.clock()
                if type(event) is Delta:
                    row.doing, row.streamed = "answering", True
                    row.pieces.append(event.text)
                else:
                    row.took(event)
            self._changed = True
            if event.type != "notice":
                return
        self._took(change)

    def _took(self, change: Change) -> None:
        if self._run is not None:
            # Only now is it known what of a run that is carried on was done before.
            self._stand(self._run.outcomes)
            self._run = None
        self._live = self._changed = True
        outcome = change.outcome
        if outcome is None or change.kind in ("event", "notice"):
            if text := happened(change):
                self._above.append(text)
        elif change.kind == "started":
            self._tally.put(outcome, "running")
            self._started(outcome)
        elif change.kind == "ended":
            self._tally.put(outcome, outcome.state)
            self._ended(outcome)
        else:
            self._tally.put(outcome, "queued")
            self._waits(outcome, change)

    def _started(self, outcome: Outcome) -> None:
        row = self._row(outcome, self._on_clock(outcome.started_at))
        self._rows.run(outcome.index, row)

    def _row(self, outcome: Outcome, began: float) -> Row:
        return Row(
            name=plain(outcome.name), backend=plain(outcome.backend or "-"), began=began,
            heard=self.clock(), doing="starting" if self._hears else "running",
            tokens=outcome.usage.total if outcome.usage else 0,
        )  # fmt: skip

    def _waits(self, outcome: Outcome, change: Change) -> None:
        row = self._row(outcome, self.clock())
        row.until = change.until
        self._rows.hold(outcome.index, row)
        if change.kind == "limit":
            row.doing = f"waiting for limit until {_clock(change.until)}"
            self._pauses[outcome.backend or "-"] = change.until
            if change.instead and (text := happened(change)) and text not in self._limits:
                self._limits.add(text)
                self._above.append(text)
        else:
            row.doing = f"retry at {_clock(change.until, '%H:%M:%S')}"
            row.why = outcome.error.message if outcome.error else ""

    def _ended(self, outcome: Outcome) -> None:
        self._rows.drop(outcome.index)
        if outcome.ok:
            self._pauses.pop(outcome.backend or "-", None)
        if not outcome.attempts or outcome.state == "queued":
            return  # it was not even started
        self._last.append(outcome)
        if len(self._last) > LAST_KEPT:
            crowded = sum(not o.ok for o in self._last) > FAILED_KEPT
            gone = next(o for o in self._last if o.ok is not crowded)
            self._last.remove(gone)

    def _on_clock(self, moment: datetime | None) -> float:
        passed = (self.wall() - moment).total_seconds() if moment else 0.0
        return self.clock() - max(0.0, passed)

    # On the terminal.

    async def live(self) -> None:
        # 45 ms, and needed only once something runs.
        import anyio

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._step_aside)
            while True:
                self.tick()
                await anyio.sleep(INTERVAL)

    async def _step_aside(self) -> None:
        """Leave the terminal to the shell when Ctrl-Z stops us."""
        # 45 ms, and needed only once something runs.
        import anyio

        if signal.getsignal(signal.SIGTSTP) is signal.SIG_IGN:
            return
        with anyio.open_signal_receiver(signal.SIGTSTP) as signals:
            async for _ in signals:
                self.canvas.clear()
                os.kill(os.getpid(), signal.SIGSTOP)
                self._changed = True

    def tick(self) -> None:
        """A frame, where it would be another one than the last."""
        now = self.clock()
        same = not self._changed and int(now - self._began) == self._second
        if not same or self.canvas.is_resized():
            self._draw(now)

    def _draw(self, now: float) -> None:
        if self._closed or not self._live or not self.canvas.can_draw():
            return
        self._changed, self._second = False, int(now - self._began)
        above, self._above = self._noticed(), []
        self.canvas.draw(self.frame(*self.canvas.size()), above)

    def say(self, text: str) -> None:
        """A line that stays, above the board."""
        self._above.append(text)
        self._changed = True
        if self._closed or not self._live:
            self.canvas.clear(self._noticed())
            self._above = []
        else:
            self.tick()

    def close(self) -> None:
        """Nothing of the board is left, and what is typed is seen again."""
        self._closed = True
        self.canvas.clear(self._noticed())
        self._above = []

    def _noticed(self) -> str:
        buffer = io.StringIO()
        for text in self._above:
            Printer(buffer, colour=self.printer.colour).notice(text)
        return buffer.getvalue()

    # A frame.

    def frame(self, columns: int, rows: int) -> list[str]:
        """The lines of the board: fewer than `rows`, as the cursor stands below them, and none
        as wide as the terminal, where some would begin another one."""
        # Every time grows at the same moment, which is less restless.
        now = self._began + int(self.clock() - self._began)
        lines = [self._head(columns - 1, now), *self._body(columns - 1, rows - 2, now)]
        return [self._line(line, columns - 1) for line in lines[: max(0, rows - 1)]]

    def _body(self, width: int, room: int, now: float) -> Iterable[list[Segment]]:
        running, waiting = self._rows.running(), self._rows.waiting()
        pauses = self._paused()[: max(0, room // 3)]
        room -= len(pauses)
        wanted = len(running) + len(waiting)
        last = min(len(self._last), max(room - wanted, room // 5, 0))
        room -= last
        seen = wanted if wanted <= room else max(0, room - 1)
        rows = (running + waiting)[:seen]
        self._widen(rows, width)
        for row in rows:
            runs = row.slot is not None
            yield self._running(row, width, now) if runs else self._waiting(row, width)
        if seen < wanted and room > 0:
            yield [(_and_more(len(running), len(waiting), seen), DIM)]
        yield from pauses
        for outcome in self._last[len(self._last) - last :]:
            yield self._over(outcome)

    def _head(self, width: int, now: float) -> list[Segment]:
        """What there is room for, the most important first."""
        tally, counts = self._tally, self._tally.counts
        queued = self.total - tally.over - counts["running"]
        parts = [  # in the order in which they stand; 0 is the most important
            (5, self.run_id or "", DIM),
            (0, f"{counts['done']}/{self.total} done", BOLD),
            (0, _some(counts["failed"], "failed"), RED),
            (1, _some(counts["running"], "running"), ""),
            (3, _some(queued, "queued"), ""),
            *((4, _some(counts[s], s), YELLOW) for s in ("skipped", "cancelled", "waiting")),
            (2, _time(now - self._began), DIM),
            (7, f"{_short(tally.tokens)} tokens" if tally.tokens else "", DIM),
            (6, f"${tally.cost:.2f}" if tally.cost else "", DIM),
        ]
        bar = max(4, min(30, width // 6))
        room = width - bar - 1
        kept = []
        for _, i in sorted((part[0], i) for i, part in enumerate(parts) if part[1]):
            if (needed := cells(parts[i][1]) + 3) <= room + 1:
                room -= needed
                kept.append(i)
        return [*self._bar(bar), (" ", ""), *_joined([parts[i][1:] for i in sorted(kept)])]

    def _bar(self, width: int) -> Iterable[Segment]:
        total = max(1, self.total)
        full = width * self._tally.over // total
        bad = min(full, -(-width * self._tally.counts["failed"] // total))
        yield "━" * (full - bad), GREEN
        yield "━" * bad, RED
        yield "─" * (width - full), DIM

    def _widen(self, rows: list[Row], width: int) -> None:
        """Names get the room that the longest one needs; columns that go to and fro are restless,
        so it is not taken away again."""
        running = (row for row in rows if row.slot is not None)
        longest = max((cells(plain(row.doing)) for row in running), default=0)
        self._doing_width = min(max(self._doing_width, longest), 11 + width // 12)
        most = width // 3 - 2 if width >= NARROW - 1 else width - self._doing_width - 12
        longest = max((cells(row.name) for row in rows), default=0)
        self._name_width = min(max(self._name_width, longest), max(8, most))

    def _running(self, row: Row, width: int, now: float) -> list[Segment]:
        quiet = int(now - row.heard)
        state, colour = plain(row.doing), CYAN if row.doing == "answering" else ""
        if quiet >= SILENT and self._hears:
            colour = YELLOW
            if not row.doing.startswith("tool "):  # it may take long, and says nothing itself
                state = f"silent {quiet} s" if quiet < 60 else f"silent {quiet // 60}m"
        elif row.doing in ("starting", "running"):
            colour = DIM
        line = [("• ", CYAN), *self._who(row, width), (padded(state, self._doing_width), colour),
                (f" {_time(now - row.began):>7}", DIM)]  # fmt: skip
        if row.tokens:
            line.append((f" {_short(row.tokens):>6}", DIM))
        room = width - sum(cells(text) for text, _ in line) - 2
        words = row.words(room) if width >= NARROW - 1 and room >= 8 else ""
        return [*line, (f"  {words}", DIM)] if words else line

    def _waiting(self, row: Row, width: int) -> list[Segment]:
        due = row.until is not None and row.until <= self.wall()
        text = "waiting for its turn" if due else row.doing
        line = [("… ", YELLOW), *self._who(row, width), (text, YELLOW)]
        return [*line, (f"  {plain(row.why[:200])}", DIM)] if row.why else line

    def _who(self, row: Row, width: int) -> Iterable[Segment]:
        yield f"{padded(row.name, self._name_width)}  ", ""
        if width >= NARROW - 1:
            yield f"{padded(row.backend, 7)} ", DIM

    def _paused(self) -> list[list[Segment]]:
        now = self.wall()
        lines = []
        for backend, until in self._pauses.items():
            if until is None:
                lines.append([(f"  {plain(backend)}: limit reached", YELLOW)])
            elif until > now:
                left = _time((until - now).total_seconds())
                text = f"  {plain(backend)}: limit until {_clock(until)} ({left})"
                lines.append([(text, YELLOW)])
        return lines

    def _over(self, outcome: Outcome) -> list[Segment]:
        colour = {"done": GREEN, "failed": RED}.get(outcome.state, YELLOW)
        line = [
            (f"{MARKS.get(outcome.state, '·')} ", colour),
            (padded(plain(outcome.name), self._name_width), DIM),
            (f"  {duration.brief(outcome.seconds):>7}", DIM),
        ]
        if not outcome.ok:
            why = outcome.error.message if outcome.error else outcome.state
            line.append((f"  {plain(why[:300])}", ""))
        return line

    def _line(self, segments: Iterable[Segment], room: int) -> str:
        """The segments in their colours; what goes beyond the terminal is cut off."""
        painted = []
        for text, colour in segments:
            taken = cells(text)
            kept = text if taken <= room else cut(text, room)
            room -= taken
            if kept:
                painted.append(self.printer.paint(kept, colour) if colour else kept)
            if room <= 0:
                break
        return "".join(painted).rstrip()


def _joined(parts: Iterable[Segment]) -> Iterable[Segment]:
    for i, part in enumerate(parts):
        if i:
            yield " · ", DIM
        yield part


def _and_more(running: int, waiting: int, seen: int) -> str:
    left, behind = max(0, running - seen), waiting - max(0, seen - running)
    parts = [_some(left, "more running"), _some(behind, "more waiting" if not left else "waiting")]
    return f"  … and {', '.join(filter(None, parts))}"


def _some(count: int, what: str) -> str:
    return f"{count:,} {what}" if count > 0 else ""


def _time(seconds: float) -> str:
    return duration.brief(seconds) if seconds >= 60 else f"{max(0, int(seconds))} s"


def _short(count: int) -> str:
    """`12.4k`: a number that moves is read by its first digits."""
    for size, unit in ((1_000_000, "M"), (1_000, "k")):
        if count >= size:
            return f"{count / size:.1f}{unit}"
    return str(count)


def _clock(moment: datetime | None, form: str = "%H:%M") -> str:
    if moment is None:
        return "?"
    local = moment.astimezone()
    today = local.date() == datetime.now().astimezone().date()
    return local.strftime(form if today else "%d %b %H:%M")
