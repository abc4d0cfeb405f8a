"""The board while a run goes on: it is drawn again when something has changed, and every second."""

from __future__ import annotations

import io
import os
import signal
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING

from clinvk.model.outcome import Outcome, until_taken
from clinvk.model.progress import why_sent_wait
from clinvk.terminal.board.frame import BoardFrame
from clinvk.terminal.board.state import BoardState
from clinvk.terminal.live import GetSize, LiveRegion
from clinvk.terminal.printer import Printer

if TYPE_CHECKING:
    from clinvk.engine.driven_run import DrivenRun
    from clinvk.model.progress import Change

FRAME_INTERVAL = 1 / 8  # minimum seconds between two frames
ASK_INTERVAL = 2.0  # seconds between two looks at the workers of a cluster

AskWhy = Callable[[], Mapping[int, str]]  # why tasks wait for a worker, by their position


class Board:
    """Shows a run: call `begin`, or `begin_following` if another process drives it, then `observe`,
    with `live` running concurrently. Without an event loop, call `tick` several times a second."""

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
        self.state = BoardState(clock, wall_clock)
        self.ask_why: AskWhy | None = None
        self.frame = BoardFrame(self.state, printer)
        self._run: DrivenRun | None = None  # until its first change
        self._changed = False
        self._second = -1
        self._live = False
        self._closed = False

    # Events.

    def begin(self, run: DrivenRun) -> None:
        self.state.begin(len(run.plan.tasks), run.folder.id if run.folder else None)
        self._run = run
        if (cluster := run.context.cluster) is not None:
            ask = partial(cluster.why_waiting, run.plan)
            self.ask_why = lambda: why_sent_wait(run.outcomes, ask)

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
        Without `has_deltas`, answers are not seen while they are written."""
        self.state.begin(total, run_id, started_at)
        self.state.has_deltas = has_deltas
        self.state.add_outcomes(outcomes)
        self._live = True

    def observe(self, change: Change) -> None:
        self._changed = True
        event, outcome = change.event, change.outcome
        if event is not None and outcome is not None:
            self.state.add_event(outcome.index, event)
            if event.type not in ("notice", "round"):
                return
        if self._run is not None:
            # Only now is it known which tasks of a resumed run were done before.
            self.state.add_outcomes(map(until_taken, self._run.outcomes))
            self._run = None
        self._live = True
        self.state.add_change(change)

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
            if self.state.tally.ended + self.state.tally.counts["running"] < self.state.total:
                self.show_why_waiting(await to_thread.run_sync(ask, abandon_on_cancel=True))
            await sleep(ASK_INTERVAL)

    def show_why_waiting(self, reasons: Mapping[int, str]) -> None:
        self.state.set_reasons(reasons)
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
        now = self.state.clock()
        same = not self._changed and int(now - self.state.started_at) == self._second
        if not same or self.region.is_resized():
            self._draw(now)

    def _draw(self, now: float) -> None:
        if self._closed or not self._live or not self.region.can_draw():
            return
        self._changed, self._second = False, int(now - self.state.started_at)
        above, self.state.notices = self._paint_notice(), []
        self.region.draw(self.frame.lines(*self.region.size()), above)

    def show_notice(self, text: str) -> None:
        """Print a line that stays, above the board."""
        self.state.notices.append(text)
        self._changed = True
        if self._closed or not self._live:
            self.region.clear(self._paint_notice())
            self.state.notices = []
        else:
            self.tick()

    def close(self) -> None:
        """Remove the board, and show typed characters again."""
        self._closed = True
        self.region.clear(self._paint_notice())
        self.state.notices = []

    def _paint_notice(self) -> str:
        buffer, columns = io.StringIO(), self.region.size()[0]
        for text in self.state.notices:
            Printer(buffer, color=self.printer.color, width=columns).notice(text)
        return buffer.getvalue()
