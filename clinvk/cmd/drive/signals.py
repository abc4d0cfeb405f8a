"""Signals from a terminal or the parent process while something runs."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

# The signals that were to end the program, if what has run may not end it itself.
_noted: ContextVar[list[signal.Signals] | None] = ContextVar("_noted", default=None)


@contextmanager
def noting_end_signals() -> Iterator[list[signal.Signals]]:
    """The signals other than Ctrl-C that arrive while something runs: they are for the prompt that it
    was typed into, too."""
    found: list[signal.Signals] = []
    token = _noted.set(found)
    try:
        yield found
    finally:
        _noted.reset(token)


async def watch_signals(
    on_signal: Callable[[signal.Signals, int], None], *, task_status: Any
) -> None:
    """Call `on_signal` with each signal that asks the program to stop, and the number so far."""
    # 45 ms, and needed only once something runs.
    import anyio

    wanted = [s for s in SIGNALS if signal.getsignal(s) is not signal.SIG_IGN]  # as under nohup
    if threading.current_thread() is not threading.main_thread():
        wanted = []  # only the main thread receives signals
    if not wanted:
        task_status.started()
        return
    with anyio.open_signal_receiver(*wanted) as signals:
        task_status.started()
        count = 0
        async for number in signals:
            count += 1
            if (noted := _noted.get()) is not None and number != signal.SIGINT:
                noted.append(number)
            on_signal(number, count)


def cancel_reason(number: signal.Signals) -> str:
    return "cancelled" if number == signal.SIGINT else f"cancelled by {number.name}"
