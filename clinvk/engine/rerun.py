"""Which tasks of a run that is carried on are run again."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from clinvk.errors import UsageError
from clinvk.model.outcome import Outcome
from clinvk.model.plan import Plan
from clinvk.runs.replay import mark_indeterminate, requeue

INTERRUPTED_STATES = ("cancelled", "indeterminate")  # how far such a task got, nobody knows
NOT_STARTED_STATES = ("queued", "waiting", "skipped")  # nothing of such a task has happened

SelectTasks = Callable[[Iterable[Outcome]], list[Outcome]]


def unfinished(plan: Plan, *, rerun_indeterminate: bool = False) -> SelectTasks:
    """For `carry_on`: what has not begun; and what was cut off, where it may be run again."""

    def select(outcomes: Iterable[Outcome]) -> list[Outcome]:
        return [
            requeue_if_unfinished(o, plan, rerun_indeterminate=rerun_indeterminate)
            for o in outcomes
        ]

    return select


def failed_or_named(plan: Plan, names: Iterable[str] = (), *, failed: bool = True) -> SelectTasks:
    """For `carry_on`: what has `failed`, and what was left out for that; and the tasks of these
    names, however they ended. Raises `UsageError` for a name that no task has."""
    named: set[int] = set()
    for name in names:
        if not (found := plan.find_tasks(name)):
            raise UsageError(f"the run has no task {name!r}", "see them: clinvk runs show ID")
        named.update(found)

    def should_rerun(outcome: Outcome) -> bool:
        has_failed = failed and (outcome.state == "failed" or _has_not_started(outcome))
        return outcome.index in named or has_failed or outcome.state in NOT_STARTED_STATES

    def select(outcomes: Iterable[Outcome]) -> list[Outcome]:
        return [requeue(o) if should_rerun(o) else o for o in outcomes]

    return select


def with_dependents(plan: Plan, outcomes: Iterable[Outcome]) -> list[Outcome]:
    """For steps in their order: whose prompt tells of a step that is queued is queued, too."""
    chosen = list(outcomes)
    for i, task in enumerate(plan.tasks):
        if chosen[i].ok and any(chosen[n].state == "queued" for n in task.known.values()):
            chosen[i] = requeue(chosen[i])
    return chosen


def requeue_if_unfinished(outcome: Outcome, plan: Plan, *, rerun_indeterminate: bool) -> Outcome:
    """Where the task stands, to be queued again if it has not begun, or may be run again."""
    state, kind = outcome.state, outcome.error.kind if outcome.error else None
    if (
        state in NOT_STARTED_STATES
        or _has_not_started(outcome)
        or (state == "failed" and kind == "limit")
    ):
        return requeue(outcome)
    if state in INTERRUPTED_STATES:
        if rerun_indeterminate or plan.tasks[outcome.index].idempotent:
            return requeue(outcome)
        return mark_indeterminate(outcome)
    return outcome


def _has_not_started(outcome: Outcome) -> bool:
    return outcome.error is not None and outcome.error.kind == "not_started"
