"""Work that takes too long for the event loop."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, TypeVar

from clinvk.process.groups import unwrap_single_exception
from clinvk.text.redact import is_given_up

if TYPE_CHECKING:
    from anyio import CancelScope

T = TypeVar("T")

STOP_INTERVAL = 0.05  # seconds between looks whether what runs in a thread is to stop
LONG = 65_536  # characters; with fewer, the slowest work takes some 50 ms


async def in_thread(work: Callable[[], T]) -> T:
    """`work()` in another thread, so that the event loop still handles signals; in this one if no
    thread can be started, which is slower. It is not cancelled."""
    # 45 ms, and needed only once something runs.
    import anyio
    import anyio.to_thread

    begun = False
    done: list[T] = []

    def begin() -> None:
        nonlocal begun
        begun = True
        done.append(work())

    with anyio.CancelScope(shield=True):
        try:
            await anyio.to_thread.run_sync(begin)
        except RuntimeError:
            if begun:
                raise
            begin()
    return done[0]


class Stopped(BaseException):
    """Work in a thread was asked to stop."""


class Stop:
    """Asks work in a thread to stop, once it `is_set`."""

    is_set = False


stop_of_thread: ContextVar[Stop | None] = ContextVar("stop_of_thread", default=None)


def is_stopped() -> bool:
    """Whether the work in this thread was asked to stop."""
    stop = stop_of_thread.get()
    return stop is not None and stop.is_set


def sleep(seconds: float) -> None:
    """Sleep in a thread. Raises `Stopped` if it is asked to stop."""
    deadline = time.monotonic() + seconds
    while (left := deadline - time.monotonic()) > 0:
        if is_stopped():
            raise Stopped
        time.sleep(min(left, STOP_INTERVAL))


def run_stoppable(function: Callable[[], Awaitable[T]]) -> T:
    """The result of an async function, in an event loop of its own; in a thread that is asked to stop
    it is cancelled. Raises `Stopped` then."""
    # 45 ms, and needed only once something runs.
    import anyio

    stop = stop_of_thread.get()
    if stop is None:
        return anyio.run(function)
    done: list[T] = []

    async def watch(scope: CancelScope, stop: Stop) -> None:
        while not stop.is_set:  # noqa: ASYNC110 - it is set in another thread
            await anyio.sleep(STOP_INTERVAL)
        scope.cancel()

    async def main() -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(watch, tasks.cancel_scope, stop)
            done.append(await function())
            tasks.cancel_scope.cancel()

    with unwrap_single_exception():
        anyio.run(main)
    if not done:
        raise Stopped
    return done[0]


async def for_long(
    data: T, work: Callable[[T], T], give_up: Callable[[], bool] = lambda: False
) -> T:
    """`work(data)`, in another thread if it contains much text. If `give_up` becomes true, a search
    for secrets ends with `redact.GaveUp`."""
    if not is_long(data):
        return work(data)

    def begin() -> T:
        before = is_given_up.set(give_up)
        try:
            return work(data)
        finally:
            is_given_up.reset(before)

    return await in_thread(begin)


def is_long(data: Any) -> bool:
    return _rest(data, LONG) < 0


def _rest(data: Any, room: int) -> int:
    """The number of characters left after the texts of a structure; below 0 if it was not counted
    completely."""
    if isinstance(data, str):
        return room - len(data)
    if isinstance(data, dict):
        for key in data:
            if isinstance(key, str):
                room -= len(key)
        data = data.values()
    elif not isinstance(data, (list, tuple)):
        return room
    for part in data:
        if isinstance(part, str):
            room -= len(part)
        elif isinstance(part, (dict, list, tuple)):
            room = _rest(part, room)
        if room < 0:
            break
    return room
