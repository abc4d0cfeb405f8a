"""Which tasks of a plan can start, and which never will: their needs, without processes or
clocks."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from clinvk.model.outcome import Outcome
from clinvk.model.plan import Task

OPEN = ("queued", "running")  # a need in these states may still be met
UNKNOWN = ("cancelled", "indeterminate")  # how far such a task got; it may be run again
NOT_NEEDED = "not needed"  # a step that a loop does not need; those after it may run
MET = ("done", NOT_NEEDED)
# States that decide about the tasks that need it; in others, such as "waiting", it may still succeed.
FINAL = ("done", "failed", "skipped", "indeterminate")


def graph_states(outcomes: Sequence[Outcome]) -> list[str]:
    """The states of tasks as their graph needs them."""
    return [NOT_NEEDED if o.is_not_needed else o.state for o in outcomes]


class Step(Struct, frozen=True):
    """The consequences of a change. `ready` are positions that can start now, `skipped` are pairs
    (position, the need that will not be met), in order."""

    ready: tuple[int, ...] = ()
    skipped: tuple[tuple[int, int], ...] = ()


class TaskGraph:
    """The needs of a plan's tasks, and the state of each. Only queued tasks are started."""

    def __init__(self, tasks: Sequence[Task], states: Sequence[str]) -> None:
        self._tasks = tasks
        self._states = list(states)
        self._unfinished: dict[int, int] = {}  # needs of a task that have not finished
        self._dependents: dict[int, list[int]] = {}
        for i in self._queued():
            for need in tasks[i].needs:
                if states[need] == "queued":
                    self._dependents.setdefault(need, []).append(i)
                    self._unfinished[i] = self._unfinished.get(i, 0) + 1

    def begin(self) -> Step:
        """What can start at once, and what never can. Call it once, first."""
        queued = self._queued()
        free = [i for i in queued if not self._unfinished.get(i)]
        ready: list[int] = []
        skipped: list[tuple[int, int]] = []
        for i in queued:
            self._skip_if_hopeless(i, ready, skipped)
        ready += [i for i in free if self._states[i] == "queued"]
        return Step(tuple(sorted({*ready})), tuple(skipped))

    def finish(self, i: int, state: str) -> Step:
        """The consequences of task `i` ending in `state`. A task that is cancelled, or waits for a
        rate limit, decides nothing about those that need it."""
        self._states[i] = state
        if state not in FINAL:
            return Step()
        ready: list[int] = []
        skipped: list[tuple[int, int]] = []
        for dependent in self._dependents.get(i, ()):
            if self._states[dependent] != "queued":
                continue
            self._unfinished[dependent] -= 1
            if self._unfinished[dependent] and state == "done":
                continue
            if not self._skip_if_hopeless(dependent, ready, skipped):
                self._add_if_free(dependent, ready)
        return Step(tuple(ready), tuple(skipped))

    def close(self, positions: Sequence[int]) -> Step:
        """The consequences of queued tasks not being needed."""
        for i in positions:
            self._states[i] = NOT_NEEDED
        ready: list[int] = []
        for i in positions:
            for dependent in self._dependents.get(i, ()):
                self._unfinished[dependent] -= 1
                self._add_if_free(dependent, ready)
        return Step(tuple(ready))

    def _queued(self) -> list[int]:
        return [i for i, state in enumerate(self._states) if state == "queued"]

    def _add_if_free(self, i: int, ready: list[int]) -> None:
        if self._states[i] == "queued" and not self._unfinished.get(i):
            ready.append(i)

    def _unmet_need(self, i: int) -> int | None:
        """The first need of a task that will not be met. A soft task is only judged when its turn
        comes, so that the tasks after it can continue."""
        if self._tasks[i].soft and self._unfinished.get(i):
            return None
        met = (*OPEN, *MET)
        task = self._tasks[i]
        unmet = next((n for n in task.required_needs if self._states[n] not in met), None)
        if unmet is None:
            unmet = next((n for n in task.candidates if self._states[n] in UNKNOWN), None)
        return unmet

    def _skip_if_hopeless(
        self, first: int, ready: list[int], skipped: list[tuple[int, int]]
    ) -> bool:
        """Skip the task, and all that need it, if one of its needs will not be met."""
        pending = [first]
        while pending:
            i = pending.pop()
            need = self._unmet_need(i)
            if need is None or self._states[i] != "queued":
                continue
            self._states[i] = "skipped"
            skipped.append((i, need))
            for dependent in self._dependents.get(i, ()):
                self._unfinished[dependent] -= 1
                if self._unmet_need(dependent) is not None:
                    pending.append(dependent)
                else:
                    self._add_if_free(dependent, ready)
        return self._states[first] == "skipped"
