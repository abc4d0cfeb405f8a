"""How long to wait before another try: of a task, and of a backend whose provider said stop."""

from __future__ import annotations

import random
from datetime import UTC, datetime

from msgspec import Struct

from clinvk.model.result import Failure

# What may be otherwise a moment later: the provider's own trouble (5xx, overloaded), and a stream
# that was cut. Whoever is not logged in, or used a wrong option, would only fail again.
PASSING = ("server", "incomplete")
LONGEST = 60.0  # seconds between two tries of a task
LONGEST_LIMIT = 900.0  # seconds between two looks at a limit of which nobody knows the end
EARLY = 1.0  # seconds past the moment that a provider names: its clock is not ours


def is_passing(failure: Failure | None) -> bool:
    return failure is not None and failure.kind in PASSING


def backoff(delay: float, tries: int, chance: random.Random) -> float:
    """Seconds before the try after `tries` of them: doubling, and never two tasks in step."""
    return min(LONGEST, delay * _doubled(tries - 1)) * chance.uniform(0.5, 1.5)


class Pause(Struct, frozen=True):
    """A backend that is not asked for a while. `count` is how many there were, one after the
    other, without a success between them."""

    until: float  # on the clock of the event loop
    at: datetime  # the same, on the wall
    count: int


def pause(
    failure: Failure, before: int, first_wait: float, now: float, chance: random.Random
) -> Pause:
    """The pause after a limit, the `before + 1`th in a row: as long as the provider says, else
    growing."""
    wall = datetime.now(UTC)
    left = (failure.retry_at - wall).total_seconds() if failure.retry_at else None
    # A moment that has passed, named again and again, tells nothing: a clock is wrong.
    known = left is not None and (left > 0 or before == 0)
    if left is not None and known:
        seconds = max(0.0, left) + EARLY
    else:
        seconds = min(LONGEST_LIMIT, first_wait * _doubled(before)) * chance.uniform(0.9, 1.1)
    at = datetime.fromtimestamp(wall.timestamp() + seconds, UTC)
    return Pause(now + seconds, at, before + 1)


def _doubled(times: int) -> float:
    return 2.0 ** min(times, 30)  # more is above every limit, and at last above what a float holds
