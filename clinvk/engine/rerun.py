"""Which tasks of a run that is resumed or retried are run again: decided here for the command line,
for Python and for chains."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from clinvk.engine.scheduling.graph import TaskGraph, graph_states
from clinvk.errors import UsageError
from clinvk.model.outcome import Outcome
from clinvk.model.plan import Plan
from clinvk.plans.loops.rounds import answered_position
from clinvk.runs.replay import mark_indeterminate, requeue

INTERRUPTED_STATES = ("cancelled", "indeterminate")  # how far such a task got is unknown
NOT_STARTED_STATES = ("queued", "waiting", "skipped")  # such a task has never run

SelectTasks = Callable[[Iterable[Outcome]], list[Outcome]]


def select_to_resume(
    plan: Plan,
    *,
    rerun_indeterminate: bool = False,
    retry_failed: bool = False,
    rerun_dependents: bool = False,
) -> SelectTasks:
    """Tasks that have not started, and interrupted ones that may be run again. With `retry_failed`,
    also failed ones; with `rerun_dependents`, also steps whose prompt uses a step that is run
    again."""
    select = unfinished(plan, rerun_indeterminate=rerun_indeterminate)
    failed = failed_or_named(plan)

    def select_all(outcomes: Iterable[Outcome]) -> list[Outcome]:
        chosen = select(outcomes)
        if retry_failed:
            chosen = failed(chosen)
        return with_dependents(plan, chosen) if rerun_dependents else chosen

    return select_all


def select_to_retry(
    plan: Plan, names: str | Iterable[str] = (), *, failed: bool = False, run: str = "ID"
) -> SelectTasks:
    """The tasks of these names (or keys, or numbers), however they ended; those that failed, with
    `failed` or if no task is named; and those that were skipped because of them. Raises
    `UsageError` for an unknown task."""
    named = [names] if isinstance(names, str) else list(names)
    return failed_or_named(plan, named, failed=failed or not named, run=run)


def unfinished(plan: Plan, *, rerun_indeterminate: bool = False) -> SelectTasks:
    """For `ResumedRun`: tasks that have not started, and interrupted ones that may be run again. A
    skipped task stays so if the task that it needs is not run again either."""

    def select(outcomes: Iterable[Outcome]) -> list[Outcome]:
        before = list(outcomes)
        settled = _settled_candidates(plan, before)
        chosen = [
            o
            if o.index in settled
            else requeue_if_unfinished(o, plan, rerun_indeterminate=rerun_indeterminate)
            for o in before
        ]
        chosen = _with_decisions(plan, chosen)
        hopeless = TaskGraph(plan.tasks, graph_states(chosen)).begin().skipped
        for i, _ in hopeless:
            if before[i].state == "skipped":
                chosen[i] = before[i]
        return chosen

    return select


def failed_or_named(
    plan: Plan, names: Iterable[str] = (), *, failed: bool = True, run: str = "ID"
) -> SelectTasks:
    """For `ResumedRun`: with `failed`, the failed tasks and those skipped because of them; and the
    tasks of these names, however they ended. Raises `UsageError` for an unknown task."""
    named: set[int] = set()
    for name in names:
        if not (found := plan.find_tasks(name)):
            raise UsageError(
                f"the run has no task {name!r}", f"see its tasks: clinvk runs show {run}"
            )
        for i in found:
            named.update((i, *plan.tasks[i].candidates))

    def should_rerun(outcome: Outcome) -> bool:
        has_failed = failed and (outcome.state == "failed" or _has_not_started(outcome))
        return has_failed or _never_ran(outcome)

    def select(outcomes: Iterable[Outcome]) -> list[Outcome]:
        before = list(outcomes)
        settled = _settled_candidates(plan, before)
        again = _failed_choices(plan, before) if failed else set()
        chosen = [
            requeue(o)
            if o.index in (named | again) or (o.index not in settled and should_rerun(o))
            else o
            for o in before
        ]
        return _with_decisions(plan, chosen)

    return select


def _settled_candidates(plan: Plan, outcomes: Iterable[Outcome]) -> set[int]:
    """The candidates of tasks that have chosen one of them: the choice stands, though others have
    failed."""
    return {i for o in outcomes if o.ok for i in plan.tasks[o.index].candidates}


def _failed_choices(plan: Plan, outcomes: Sequence[Outcome]) -> set[int]:
    """The candidates whose failed checks are why a task has failed: in a loop, they are no failures of
    their own."""
    return {
        i
        for o in outcomes
        if o.state == "failed"
        for i in plan.tasks[o.index].candidates
        if (check := outcomes[i].check) is not None and not check.ok
    }


def _with_decisions(plan: Plan, outcomes: list[Outcome]) -> list[Outcome]:
    """A task chooses again if one of its candidates is run again."""
    return [
        requeue(o)
        if any(outcomes[i].state == "queued" for i in plan.tasks[o.index].candidates)
        else o
        for o in outcomes
    ]


def with_dependents(plan: Plan, outcomes: Iterable[Outcome]) -> list[Outcome]:
    """For steps in order: a step whose prompt uses a queued step is queued, too, and one that chooses
    between queued candidates."""
    chosen = list(outcomes)
    for i, task in enumerate(plan.tasks):
        used = [
            *(answered_position(plan, chosen, n) for n in task.known.values()),
            *task.candidates,
        ]
        if chosen[i].ok and any(chosen[n].state == "queued" for n in used):
            chosen[i] = requeue(chosen[i])
    return chosen


def requeue_if_unfinished(outcome: Outcome, plan: Plan, *, rerun_indeterminate: bool) -> Outcome:
    """The outcome of the task, queued again if it has not started or may be run again."""
    state, kind = outcome.state, outcome.error.kind if outcome.error else None
    if _never_ran(outcome) or _has_not_started(outcome) or (state == "failed" and kind == "limit"):
        return requeue(outcome)
    if state in INTERRUPTED_STATES:
        if rerun_indeterminate or plan.tasks[outcome.index].idempotent:
            return requeue(outcome)
        return mark_indeterminate(outcome)
    return outcome


def _never_ran(outcome: Outcome) -> bool:
    return outcome.state in NOT_STARTED_STATES and not outcome.is_not_needed


def _has_not_started(outcome: Outcome) -> bool:
    return outcome.error is not None and outcome.error.kind == "not_started"
