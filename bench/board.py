"""What the live picture of a run takes of a core: a hundred tasks that all stream, on a terminal."""

from __future__ import annotations

import fcntl
import os
import struct
import subprocess
import termios
import time
from datetime import UTC, datetime

import anyio

from clinvk.cmd.views.run import RunViewer, SilentViewer
from clinvk.engine.scheduling.scheduler import Change
from clinvk.model.events import Delta, Started
from clinvk.model.outcome import Outcome
from clinvk.terminal.board.board import Board
from clinvk.terminal.printer import Printer

TASKS, PER_SECOND, SECONDS, ROUNDS = 100, 20, 3.0, 3
STEP = 0.01  # seconds between two handfuls of events
WORDS = ("The", "harbour", "lies", "still", "at", "dawn;", "boats", "leave,", "and", "come")
SIZES = ((80, 24), (200, 50), (200, 120))


def main() -> None:
    print(f"board: {TASKS} running tasks, each with {PER_SECOND} events a second: <= 5 % of a core")
    for columns, lines in SIZES:
        rounds = [
            (_share(None, columns, lines), _share(Board, columns, lines)) for _ in range(ROUNDS)
        ]
        silent, board = (sorted(column)[ROUNDS // 2] for column in zip(*rounds, strict=True))
        print(f"{columns:>4} x {lines:<4} Silent {silent * 100:5.2f} %   Board {board * 100:5.2f} %   "
              f"the board alone {(board - silent) * 100:5.2f} % of a core")  # fmt: skip


def _share(viewer: type[Board] | None, columns: int, lines: int) -> float:
    """CPU seconds a second of the loop that feeds the viewer; who reads the terminal is another
    process."""
    master, slave = os.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
    with (
        subprocess.Popen(["cat"], stdin=master, stdout=subprocess.DEVNULL) as reader,
        os.fdopen(slave, "w", encoding="utf-8") as terminal,
    ):
        shown = viewer(Printer(terminal, color=True)) if viewer else SilentViewer()
        try:
            return anyio.run(_feed, shown)
        finally:
            shown.close()
            reader.kill()
            os.close(master)


async def _feed(viewer: RunViewer) -> float:
    outcomes = [
        Outcome(index=i, name=f"summarise-{i:03}", state="running", backend="claude", attempts=1,
                started_at=datetime.now(UTC))
        for i in range(TASKS)
    ]  # fmt: skip
    if isinstance(viewer, Board):
        viewer.begin_following(TASKS, "r123456")
    for outcome in outcomes:
        viewer.observe(Change(kind="started", outcome=outcome))
        viewer.observe(Change(kind="event", outcome=outcome, event=Started()))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(viewer.live)
        before, began = time.process_time(), time.monotonic()
        sent = 0
        while (passed := time.monotonic() - began) < SECONDS:
            while sent < passed * TASKS * PER_SECOND:
                event = Delta(text=f" {WORDS[sent // TASKS % len(WORDS)]}")
                viewer.observe(Change(kind="event", outcome=outcomes[sent % TASKS], event=event))
                sent += 1
            await anyio.sleep(STEP)
        used = time.process_time() - before
        tasks.cancel_scope.cancel()
    return used / SECONDS


if __name__ == "__main__":
    main()
