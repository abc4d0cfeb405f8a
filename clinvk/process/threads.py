"""Work that takes too long for the event loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from clinvk.text.redact import is_given_up

T = TypeVar("T")

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
