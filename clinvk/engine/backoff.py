"""How long to wait before another try: of a task, and of a backend whose provider said stop."""

from __future__ import annotations

import random
from datetime import UTC, datetime

from msgspec import Struct

from clinvk.model.result import Failure

# What may be otherwise a moment later: the provider's own trouble (5xx, overloaded), and a stream
# that was cut. Whoever is not logged in, or used a wrong option, would only fail again.
TRANSIENT_KINDS = ("server", "incomplete")
MAX_RETRY_DELAY = 60.0  # seconds between two tries of a task
MAX_LIMIT_PAUSE = 900.0  # seconds between two looks at a limit of which nobody knows the end
CLOCK_MARGIN = 1.0  # seconds past the moment that a provider names: its clock is not ours


def is_transient(failure: Failure | None) -> bool:
    return failure is not None and failure.kind in TRANSIENT_KINDS


def backoff_seconds(delay: float, tries: int, rng: random.Random) -> float:
    """Seconds before the try after `tries` of them: doubling, and never two tasks in step."""
    return min(MAX_RETRY_DELAY, delay * _power_of_two(tries - 1)) * rng.uniform(0.5, 1.5)


class Pause(Struct, frozen=True):
    """A backend that is not asked for a while. `count` is how many there were, one after the
    other, without a success between them."""

    until: float  # on the clock of the event loop
    ends_at: datetime  # the same, on the wall
    count: int


def pause_after_limit(
    failure: Failure, previous_pauses: int, first_wait: float, now: float, rng: random.Random
) -> Pause:
    """The pause after a limit, the `before + 1`th in a row: as long as the provider says, else
    growing."""
    wall = datetime.now(UTC)
    left = (failure.retry_at - wall).total_seconds() if failure.retry_at else None
    # A moment that has passed, named again and again, tells nothing: a clock is wrong.
    known = left is not None and (left > 0 or previous_pauses == 0)
    if left is not None and known:
        seconds = max(0.0, left) + CLOCK_MARGIN
    else:
        seconds = min(MAX_LIMIT_PAUSE, first_wait * _power_of_two(previous_pauses)) * rng.uniform(
            0.9, 1.1
        )
    at = datetime.fromtimestamp(wall.timestamp() + seconds, UTC)
    return Pause(now + seconds, at, previous_pauses + 1)


def _power_of_two(times: int) -> float:
    return 2.0 ** min(times, 30)  # more is above every limit, and at last above what a float holds
