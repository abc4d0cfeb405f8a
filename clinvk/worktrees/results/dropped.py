"""What was dropped: each result, and what that is of each task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import Struct, to_builtins

from clinvk.model.loops.goal import find_loop
from clinvk.model.outcome import Outcome
from clinvk.model.plan import Plan


class Dropped(Struct, frozen=True, kw_only=True):
    """A result that was dropped, or that would be."""

    index: int
    name: str
    commit: str  # with everything that was in the worktree
    applied: bool  # so that nothing is lost
    files: int | None  # that differ from the base; None: the repository is gone
    insertions: int = 0
    deletions: int = 0

    @property
    def undo(self) -> str:
        """The command that brings the result back, until git removes it (after two weeks)."""
        return f"git branch NAME {self.commit}"

    def to_json(self) -> dict[str, Any]:
        data: dict[str, Any] = to_builtins(self)
        return data | {"undo": self.undo}


class DroppedTask(Struct, frozen=True, kw_only=True):
    """The results of a task as it was written: of a step of a loop, those of all rounds; of a task with
    candidates, those of all of them."""

    name: str
    results: tuple[Dropped, ...]
    last: Dropped  # that counted; it contains what counted in earlier rounds
    rounds: int = 0  # of a loop
    candidates: int = 0
    files: int | None  # that any of them changed; None: the repository is gone
    insertions: int  # of all of them
    deletions: int

    @property
    def applied(self) -> int:
        """How many were applied."""
        return sum(result.applied for result in self.results)

    @property
    def has_losers(self) -> bool:
        """Whether there are results that the last one does not contain."""
        return self.candidates > max(self.rounds, 1)


def by_task(
    plan: Plan,
    outcomes: Sequence[Outcome],
    dropped: Sequence[Dropped],
    files: Mapping[int, frozenset[bytes]],
) -> list[DroppedTask]:
    """The results of each task together, in the order of the plan. `files` are those that each of them
    changed."""
    groups: dict[tuple[int, int], list[Dropped]] = {}
    for one in dropped:
        groups.setdefault(_origin(plan, one.index), []).append(one)
    return [_of_task(plan, outcomes, group, files) for group in groups.values()]


def _origin(plan: Plan, index: int) -> tuple[int, int]:
    """The first position of a task as it was written, in its first round; and its number in its loop."""
    index = _owner(plan, index)
    loop = find_loop(plan, index)
    if loop is None:
        return index, 0
    number = next(positions.index(index) for positions in loop.rounds if index in positions)
    return loop.rounds[0][number], number


def _owner(plan: Plan, index: int) -> int:
    """The task itself, or the one whose candidate it is."""
    of = plan.tasks[index].candidate_of
    return index if of is None else of


def _of_task(
    plan: Plan,
    outcomes: Sequence[Outcome],
    group: Sequence[Dropped],
    files: Mapping[int, frozenset[bytes]],
) -> DroppedTask:
    owners = [_owner(plan, one.index) for one in group]
    loop = find_loop(plan, owners[0])
    candidates = [one for one in group if plan.tasks[one.index].candidate_of is not None]
    counted = [one for one, owner in zip(group, owners, strict=True)
               if one.index == owner or _winner(outcomes[owner]) == one.index]  # fmt: skip
    name = group[0].name
    if len(group) > 1:
        _, number = _origin(plan, owners[0])
        name = plan.tasks[owners[0]].name if loop is None else loop.names[number]
    return DroppedTask(
        name=name, results=tuple(group), last=(counted or group)[-1],
        rounds=len(set(owners)) if loop is not None else 0, candidates=len(candidates),
        files=None if any(one.files is None for one in group) else
        len(frozenset[bytes]().union(*(files[one.index] for one in group))),
        insertions=sum(one.insertions for one in group),
        deletions=sum(one.deletions for one in group),
    )  # fmt: skip


def _winner(outcome: Outcome) -> int | None:
    return outcome.decision.winner if outcome.decision is not None else None
