"""Which tasks of a run that is carried on are run again."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from clinvk.errors import UsageError
from clinvk.model.outcome import Outcome
from clinvk.model.plan import Plan
from clinvk.runs.replay import anew, unknown

CUT_OFF = ("cancelled", "indeterminate")  # how far such a task got, nobody knows
AGAIN = ("queued", "waiting", "skipped")  # nothing of such a task has happened

Choose = Callable[[Iterable[Outcome]], list[Outcome]]


def what_is_left(plan: Plan, *, rerun_indeterminate: bool = False) -> Choose:
    """For `carry_on`: what has not begun; and what was cut off, where it may be run again."""

    def choose(outcomes: Iterable[Outcome]) -> list[Outcome]:
        return [left_of(o, plan, rerun_indeterminate=rerun_indeterminate) for o in outcomes]

    return choose


def failed_ones(plan: Plan, names: Iterable[str] = (), *, failed: bool = True) -> Choose:
    """For `carry_on`: what has `failed`, and what was left out for that; and the tasks of these
    names, however they ended. Raises `UsageError` for a name that no task has."""
    named: set[int] = set()
    for name in names:
        if not (found := plan.called(name)):
            raise UsageError(f"the run has no task {name!r}", "see them: clinvk runs show ID")
        named.update(found)

    def is_meant(outcome: Outcome) -> bool:
        has_failed = failed and (outcome.state == "failed" or _not_started(outcome))
        return outcome.index in named or has_failed or outcome.state in AGAIN

    def choose(outcomes: Iterable[Outcome]) -> list[Outcome]:
        return [anew(o) if is_meant(o) else o for o in outcomes]

    return choose


def with_hearers(plan: Plan, outcomes: Iterable[Outcome]) -> list[Outcome]:
    """For steps in their order: whose prompt tells of a step that is queued is queued, too."""
    chosen = list(outcomes)
    for i, task in enumerate(plan.tasks):
        if chosen[i].ok and any(chosen[n].state == "queued" for n in task.known.values()):
            chosen[i] = anew(chosen[i])
    return chosen


def left_of(outcome: Outcome, plan: Plan, *, rerun_indeterminate: bool) -> Outcome:
    """Where the task stands, to be queued again if it has not begun, or may be run again."""
    state, kind = outcome.state, outcome.error.kind if outcome.error else None
    if state in AGAIN or _not_started(outcome) or (state == "failed" and kind == "limit"):
        return anew(outcome)
    if state in CUT_OFF:
        if rerun_indeterminate or plan.tasks[outcome.index].idempotent:
            return anew(outcome)
        return unknown(outcome)
    return outcome


def _not_started(outcome: Outcome) -> bool:
    return outcome.error is not None and outcome.error.kind == "not_started"
