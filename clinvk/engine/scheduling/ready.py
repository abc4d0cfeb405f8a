"""The tasks that can start, in the order of the plan: now, or at a later time."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence

import anyio

from clinvk.plans.preflight import NO_BACKEND, Preflight


class ReadyTasks:
    """Holds positions of tasks, by the backend that each is for."""

    def __init__(self, preflights: Sequence[Preflight]) -> None:
        self._preflights = preflights
        self._queues: dict[str, list[int]] = {}
        self._delayed: list[tuple[float, int]] = []  # when, and which

    def __bool__(self) -> bool:
        return bool(self._delayed) or any(self._queues.values())

    @property
    def next_moment(self) -> float | None:
        """When the first of those that can start later can."""
        return self._delayed[0][0] if self._delayed else None

    def add(self, i: int, moment: float | None = None) -> None:
        """Add a task that can start now, or at this moment of the event loop's clock."""
        if moment is None:
            heapq.heappush(self._queues.setdefault(self._preflights[i].backend, []), i)
        else:
            heapq.heappush(self._delayed, (moment, i))

    def add_due(self) -> None:
        """Add those whose moment has come."""
        now = anyio.current_time()
        while self._delayed and self._delayed[0][0] <= now:
            self.add(heapq.heappop(self._delayed)[1])

    def find_first(self, find_free: Callable[[str], str | None]) -> tuple[str, str] | None:
        """The backend of the first task that can run now, for `take`, and the one that would run it.
        `find_free` returns the latter for the former."""
        best: tuple[int, str, str] | None = None
        for name, queue in self._queues.items():
            if not queue or (best is not None and queue[0] > best[0]):
                continue
            if backend := find_free(name):
                best = (queue[0], name, backend)
        return best and best[1:]

    def take(self, backend: str) -> int:
        """Remove the first task of a backend."""
        return heapq.heappop(self._queues[backend])

    def take_choice(self) -> int | None:
        """Remove the first task that only chooses between candidates, if there is one."""
        return self.take(NO_BACKEND) if self._queues.get(NO_BACKEND) else None
