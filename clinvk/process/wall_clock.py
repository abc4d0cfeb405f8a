"""Wait for a time of day, also on a machine that is suspended meanwhile: the clock of the event
loop stops then."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime
from typing import NamedTuple

LONGEST_SLEEP = 20.0  # seconds between two looks at the clock


def since_boot() -> float:
    """Seconds since the machine was started, including the time that it was suspended. It is not
    affected by setting the clock."""
    clock = getattr(time, "CLOCK_BOOTTIME", None)  # Linux; elsewhere only the other clock counts
    return time.monotonic() if clock is None else time.clock_gettime(clock)


class Clock(NamedTuple):
    """The two clocks that a wait follows, in seconds."""

    now: Callable[[], float] = time.time
    since_boot: Callable[[], float] = since_boot

    def left(self, ends_at: datetime, until: float) -> float:
        """Seconds until a time, given on both clocks: whichever reaches it first, since the time of
        day may be set while it is waited for."""
        return min(ends_at.timestamp() - self.now(), until - self.since_boot())


SYSTEM = Clock()


async def sleep_until(moment: datetime, clock: Clock = SYSTEM) -> None:
    """Sleep until that time of day."""
    import anyio  # 45 ms: only to wait

    until = clock.since_boot() + moment.timestamp() - clock.now()
    while (left := clock.left(moment, until)) > 0:  # noqa: ASYNC110 - there is only the clock
        await anyio.sleep(min(left, LONGEST_SLEEP))
