"""Which backends can take a task now: not those at their limit of tasks, nor those at a rate
limit."""

from __future__ import annotations

import random
from collections.abc import Mapping
from datetime import datetime

from msgspec.structs import replace

from clinvk.engine.scheduling import backoff
from clinvk.model.plan import Rules
from clinvk.model.result import Failure
from clinvk.process import wall_clock
from clinvk.text import duration


class BackendPool:
    """The backends of one run."""

    def __init__(
        self, rules: Rules, rng: random.Random, clock: wall_clock.Clock = wall_clock.SYSTEM
    ) -> None:
        self.rules = rules
        self.clock = clock
        self.limits = rules.limits
        self.rng = rng
        self._busy: dict[str, int] = {}  # backend: number of running tasks
        self._pauses: dict[str, backoff.Pause] = {}
        self._closed: set[str] = set()  # backends that are not waited for

    def acquire(self, backend: str) -> None:
        self._busy[backend] = self._busy.get(backend, 0) + 1

    def release(self, backend: str) -> None:
        self._busy[backend] -= 1

    def find_free(self, name: str) -> str | None:
        """The backend that would run a task of `name` now: itself, or the one that it is switched
        to during a rate limit."""
        names = [name]
        if self.is_paused(name) and self.limits.action == "switch":
            names = list(self.limits.to)
        for backend in names:
            cap = self.rules.max_parallel_per_backend.get(backend)
            if not self.is_paused(backend) and (cap is None or self._busy.get(backend, 0) < cap):
                return backend
        return None

    def is_paused(self, backend: str) -> bool:
        pause = self._pauses.get(backend)
        return backend in self._closed or (pause is not None and self._left(pause) > 0)

    def is_closed_for_good(self, backend: str) -> bool:
        """Whether its tasks will not run: it is not waited for, and no other backend takes them."""
        return backend in self._closed and not self._can_switch(backend)

    def long_pause(self, backend: str) -> backoff.Pause | None:
        """The pause that is too long to wait for."""
        return self._pauses.get(backend) if backend in self._closed else None

    def describe_alternative(self, backend: str) -> str:
        """What happens at its rate limit, unless its end is waited for; otherwise empty."""
        if self.limits.action == "fail":
            return "no new tasks will start on it"
        if self._can_switch(backend):
            return (
                f"{' or '.join(n for n in self.limits.to if n != backend)} is used while it lasts"
            )
        if backend in self._closed and self.limits.max_wait is None:
            return "its tasks are left for later; to wait, use --on-limit wait"
        if backend in self._closed and self.limits.max_wait is not None:
            most = duration.format_duration(self.limits.max_wait)
            return f"not waiting for its end, which would take more than {most} (max_wait)"
        return ""

    def is_waited_for(self, backend: str) -> bool:
        """Whether it is paused, and its tasks wait for the end of that."""
        return self.is_paused(backend) and backend not in self._closed

    def end_pause(self, backend: str) -> None:
        """Its tasks may run again, before the end that was announced."""
        self._pauses.pop(backend, None)

    def end_expired_pauses(self) -> None:
        """Remove expired pauses. Their number is only reset after a success."""
        for backend in [b for b, p in self._pauses.items() if self._left(p) <= 0]:
            self._pauses[backend] = replace(self._pauses[backend], until=float("-inf"))

    def seconds_until_a_pause_ends(self) -> float | None:
        """How long to wait before looking again for the end of a pause; None without one that is
        waited for. Never long, since the machine may be suspended meanwhile."""
        waited = (self._left(p) for b, p in self._pauses.items() if b not in self._closed)
        left = [seconds for seconds in waited if seconds > float("-inf")]
        return min(wall_clock.LONGEST_SLEEP, max(0.0, min(left))) if left else None

    def _left(self, pause: backoff.Pause) -> float:
        """Seconds until it ends; 0 or less if it has ended."""
        return self.clock.left(pause.ends_at, pause.until)

    def record_success(self, backend: str) -> None:
        """A turn succeeded. One that started before the rate limit does not prove that it is
        over."""
        if not self.is_paused(backend):
            self._pauses.pop(backend, None)

    def record_limit(self, backend: str, failure: Failure) -> backoff.Pause:
        """Pause the backend for a while, or close it; returns the pause."""
        limits = self.limits
        # In this order: what passes between the two makes the pause longer, never shorter than the
        # end that is announced.
        wall, now = self.clock.now(), self.clock.since_boot()
        known = self._pauses.get(backend)
        has_ended = known is not None and self._left(known) <= 0
        if known is None or has_ended or failure.retry_at is not None:
            count = known.count if known and has_ended else 0
            pause = backoff.pause_after_limit(
                failure, count, limits.first_wait, now, self.rng, wall=wall
            )
            if known is None or pause.until > known.until:  # of two limits the longer one counts
                self._pauses[backend] = known = pause
        if limits.action == "fail":
            self._closed.add(backend)
        else:
            self._close_if_too_long(backend)
        return known

    def record_remembered(self, limits: Mapping[str, datetime]) -> None:
        """Begin with backends at a rate limit that ends then: pause them, or close those that are
        not waited for."""
        for backend, until in limits.items():
            failure = Failure("limit", "", None, until)
            wall = self.clock.now()
            self._pauses[backend] = backoff.pause_after_limit(
                failure, 0, self.limits.first_wait, self.clock.since_boot(), self.rng, wall=wall
            )
        refused = self.limits.action == "fail" or self.limits.at_start == "refuse"
        for backend in limits:
            if refused and not any(name not in limits for name in self._others(backend)):
                self._closed.add(backend)
            else:
                self._close_if_too_long(backend)

    def _others(self, backend: str) -> list[str]:
        to = self.limits.to if self.limits.action == "switch" else ()
        return [name for name in to if name != backend]

    def _close_if_too_long(self, backend: str) -> None:
        """Close it if its pause is too long and no other backend can take over; then also those
        that were only waited for because they could be switched to it."""
        longest = self.limits.max_wait
        if longest is None:
            return
        for name in (backend, *self._pauses):
            if self._left(self._pauses[name]) > longest and not self._can_switch(name):
                self._closed.add(name)

    def _can_switch(self, backend: str) -> bool:
        """Whether another backend may be used instead, now or later."""
        return any(name not in self._closed for name in self._others(backend))
