"""Work on texts that are so long that whatever else goes on must not wait for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")

LONG = 65_536  # characters; with fewer, the slowest work takes some 50 ms


async def for_long(data: T, work: Callable[[T], T]) -> T:
    """`work(data)`; if there is much text in it, in another thread, so that the event loop still
    hears signals. It is not cancelled: what is half done is not kept."""
    if not _is_long(data):
        return work(data)
    import anyio.to_thread  # only for long texts

    done: list[T] = []
    with anyio.CancelScope(shield=True):
        await anyio.to_thread.run_sync(lambda: done.append(work(data)))
    return done[0]


def _is_long(data: Any) -> bool:
    return _rest(data, LONG) < 0


def _rest(data: Any, room: int) -> int:
    """What is left of so many characters behind the texts of a structure; below 0, not all of it
    was looked at."""
    if isinstance(data, str):
        return room - len(data)
    if isinstance(data, dict):
        data = [part for item in data.items() for part in item]
    if isinstance(data, (list, tuple)):
        for part in data:
            room = _rest(part, room)
            if room < 0:
                break
    return room
