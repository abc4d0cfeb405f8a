"""How long to wait before retrying: a task, and a backend at a rate limit."""

from __future__ import annotations

import random
from datetime import UTC, datetime

from msgspec import Struct

from clinvk.model.result import Failure

# Failures that may pass: server errors (5xx, overloaded) and a cut stream. Without a login, or with
# an invalid option, a retry would only fail again.
TRANSIENT_KINDS = ("server", "incomplete")
MAX_RETRY_DELAY = 60.0  # seconds between two attempts at a task, times the failure's factor
MAX_LIMIT_PAUSE = 900.0  # seconds between two checks of a rate limit whose end is unknown
MAX_NAMED_PAUSE = 7 * 86_400.0  # seconds: a provider that names a later end is wrong
CLOCK_MARGIN = 1.0  # seconds after the time that a provider names, since its clock may differ


def is_transient(failure: Failure | None) -> bool:
    return failure is not None and failure.kind in TRANSIENT_KINDS


def backoff_seconds(
    delay: float, tries: int, rng: random.Random, failure: Failure | None = None
) -> float:
    """Seconds to wait after `tries` attempts: doubling, with jitter so that tasks do not align;
    longer after a failure such as a model without capacity."""
    factor = failure.wait_factor if failure else 1.0
    seconds = min(MAX_RETRY_DELAY, delay * _power_of_two(tries - 1))
    return seconds * factor * rng.uniform(0.5, 1.5)


class Pause(Struct, frozen=True):
    """A pause of a backend. `count` is the number of pauses in a row without a success between
    them."""

    until: float  # in seconds since the machine was started
    ends_at: datetime  # the same, as a date and time
    count: int


def pause_after_limit(
    failure: Failure,
    previous_pauses: int,
    first_wait: float,
    now: float,
    rng: random.Random,
    *,
    wall: float | None = None,
) -> Pause:
    """The pause after a rate limit, the `previous_pauses + 1`th in a row: until the time that the
    provider names, otherwise growing. `now` is in seconds since the machine was started, `wall`
    since 1970; None: the time of day."""
    wall_time = datetime.now(UTC) if wall is None else datetime.fromtimestamp(wall, UTC)
    left = (failure.retry_at - wall_time).total_seconds() if failure.retry_at else None
    # A time in the past, named repeatedly, means nothing: a clock is wrong.
    known = left is not None and (left > 0 or previous_pauses == 0)
    if left is not None and known:
        seconds = min(max(0.0, left), MAX_NAMED_PAUSE) + CLOCK_MARGIN
    else:
        seconds = min(MAX_LIMIT_PAUSE, first_wait * _power_of_two(previous_pauses)) * rng.uniform(
            0.9, 1.1
        )
    at = datetime.fromtimestamp(wall_time.timestamp() + seconds, UTC)
    return Pause(now + seconds, at, previous_pauses + 1)


def _power_of_two(times: int) -> float:
    return 2.0 ** min(times, 30)  # more exceeds every limit, and finally a float
