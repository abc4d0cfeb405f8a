"""What the rounds of a loop have come to, once a run has ended."""

from __future__ import annotations

from collections.abc import Sequence

from clinvk.model.outcome import Outcome
from clinvk.model.plan import Loop, Plan


def find_loop(plan: Plan, index: int) -> Loop | None:
    """The loop that a task is a step of."""
    return next((loop for loop in plan.loops if index in steps_of(loop)), None)


def steps_of(loop: Loop) -> tuple[int, ...]:
    """The positions in the plan of its steps, in all rounds."""
    return tuple(i for positions in loop.rounds for i in positions)


def last_round(loop: Loop, outcomes: Sequence[Outcome]) -> tuple[int, ...]:
    """The positions of the steps in the last round that was needed."""
    needed = [r for r in loop.rounds if not all(outcomes[i].is_not_needed for i in r)]
    return needed[-1] if needed else ()


def has_reached_goal(loop: Loop, outcomes: Sequence[Outcome]) -> bool:
    """Whether nothing is left to do, and the last round is as the loop wanted it."""
    last = last_round(loop, outcomes)
    settled = all(outcomes[i].is_settled for i in steps_of(loop))
    return settled and bool(last) and not any(why_not_done(outcomes[i]) for i in last)


def why_not_done(outcome: Outcome) -> str | None:
    """Why the result of a task is not to be applied, unless it is named; None if it is done. A check
    that fails starts another round of a loop: the step is done then, but not its work."""
    if not outcome.ok:
        return f"its state is {outcome.state}"
    if outcome.check is not None and not outcome.check.ok:
        return "its check failed"
    return None


def why_not_taken(plan: Plan, outcomes: Sequence[Outcome], index: int) -> str | None:
    """The same, with the goal of its loop."""
    loop = find_loop(plan, index)
    if loop is None or not outcomes[index].ok:
        return why_not_done(outcomes[index])
    if not has_reached_goal(loop, outcomes):
        return "its loop did not reach its goal"
    return None
