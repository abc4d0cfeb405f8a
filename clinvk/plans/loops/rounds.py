"""What follows a round of a loop: another one, or its end, which is a failure unless its condition
holds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from clinvk.checks.same_failure import failure_key
from clinvk.model.candidates.ranking import Ranking
from clinvk.model.checks.check import CheckResult
from clinvk.model.outcome import Outcome
from clinvk.model.plan import Loop, Plan
from clinvk.model.result import EXIT_CODES, NOT_NEEDED, Failure, Result
from clinvk.plans.loops import condition
from clinvk.plans.loops.findings import count_findings, describe_findings
from clinvk.plans.loops.reading import CHECK


class _Place(Struct, frozen=True):
    loop: Loop
    number: int  # of the round, from 0

    @property
    def positions(self) -> tuple[int, ...]:
        return self.loop.rounds[self.number]

    @property
    def is_last_round(self) -> bool:
        return self.number + 1 == len(self.loop.rounds)


class Rounds:
    """The loops of a plan while it runs. `outcomes` holds the state of each step, `structured`
    returns its structured answer."""

    def __init__(
        self, plan: Plan, outcomes: Sequence[Outcome], structured: Callable[[int], Any]
    ) -> None:
        self._plan = plan
        self._outcomes = outcomes
        self._structured = structured
        self._reached: set[int] = set()  # last steps of rounds after which the condition held
        self._places = {
            i: _Place(loop, number)
            for loop in plan.loops
            for number, positions in enumerate(loop.rounds)
            for i in plan.with_candidates(positions)
        }

    def judge(self, i: int, result: Result) -> Result:
        """The result of a step, or of a candidate for one. A check that failed is no failure if another
        round may follow; the last step of a round fails if none may, though the condition does not
        hold."""
        place = self._places.get(i)
        if place is None:
            return result
        if place.loop.until == CHECK and _has_failed_check(result):
            return self._judge_check(i, place, result)
        if not result.ok:
            return self._judge_choice(i, place, result)
        if i != place.positions[-1]:
            return result
        failure = self._end_of_round(place, result.structured, result.check)
        if failure is None:
            return result
        return replace(result, ok=False, error=failure, exit_code=EXIT_CODES[failure.kind])

    def not_needed_after(self, i: int) -> dict[int, Failure]:
        """The steps that are not run, since step `i` has ended as its outcome says, and why."""
        place = self._places.get(i)
        if place is None or self._plan.tasks[i].candidate_of is not None:
            return {}
        number, name = place.number + 1, self._plan.tasks[i].name
        if self._outcomes[i].state == "failed":
            why = f"the loop ended in round {number}, in which {name!r} failed"
        elif i in self._reached:
            why = f"the loop reached its goal in round {number}"
        else:
            return {}
        rounds = place.loop.rounds[number:]
        later = (j for positions in rounds for j in self._plan.with_candidates(positions))
        queued = (j for j in later if self._outcomes[j].state == "queued")
        return dict.fromkeys(queued, Failure(NOT_NEEDED, why))

    def _judge_check(self, i: int, place: _Place, result: Result) -> Result:
        check, is_candidate = result.check, self._plan.tasks[i].candidate_of is not None
        assert check is not None  # noqa: S101 - it has failed
        if place.is_last_round:
            why = f"the loop ended after {_count_rounds(place.number + 1)}"
        elif not is_candidate and self._failed_alike(i, check, result.decision):
            why = f"the loop ended in round {place.number + 1}: the same failure occurred again"
        else:
            return replace(result, ok=True, error=None, exit_code=0)
        if is_candidate:  # what that means for the loop depends on the others
            return result
        message = f"{check.message or 'check failed'}; {why}"
        return replace(
            result, ok=False, error=Failure("check", message), exit_code=EXIT_CODES["check"]
        )

    def _judge_choice(self, i: int, place: _Place, result: Result) -> Result:
        """The result of a step none of whose candidates can be chosen: of the last round, if that is for
        their checks, since the best one that failed is chosen before."""
        error, is_choice = result.error, self._plan.tasks[i].decides is not None
        if place.loop.until != CHECK or not is_choice or error is None or error.kind != "check":
            return result
        why = f"the loop ended after {_count_rounds(place.number + 1)}"
        return replace(result, error=replace(error, message=f"{error.message}; {why}"))

    def _failed_alike(self, i: int, check: CheckResult, ranking: Ranking | None) -> bool:
        """Whether the check of this step failed in the same way in an earlier round; not if the best
        candidate has a better score now."""
        key, task = failure_key(check), self._plan.tasks[i]
        before = task.repeats
        while before is not None:
            earlier = self._outcomes[before]
            found = earlier.check
            if found is not None and found.state == "failed" and failure_key(found) == key:
                if task.decides is None or ranking is None or earlier.decision is None:
                    return True
                lowest_wins = task.decides.lowest_wins
                return not ranking.is_better_score(earlier.decision, lowest_wins=lowest_wins)
            before = self._plan.tasks[before].repeats
        return False

    def _end_of_round(
        self, place: _Place, structured: Any, check: CheckResult | None
    ) -> Failure | None:
        """Why the loop fails with this round; None if it does not. `structured` and `check` are of
        its last step, which has no outcome yet."""
        last, loop = place.positions[-1], place.loop
        if loop.until == CHECK:
            checks = [check if j == last else self._outcomes[j].check for j in place.positions]
            if all(found is None or found.ok for found in checks):
                self._reached.add(last)
            return None  # otherwise another round follows: a check in the last one has failed
        answers = loop.answers_by_name(
            place.number, lambda j: structured if j == last else self._structured(j)
        )
        try:
            reached = condition.holds(loop.until, answers)
        except condition.ConditionError as error:
            message = f"`until` could not be evaluated after round {place.number + 1}: {error}"
            return Failure("loop", message, error.hint or "change the expression or the schema")
        if reached:
            self._reached.add(last)
            return None
        return self._why_no_round(place, list(answers.values()))

    def _why_no_round(self, place: _Place, answers: list[Any]) -> Failure | None:
        """Why no other round follows one after which the condition did not hold."""
        count, number = count_findings(answers), place.number + 1
        left = _describe_left(count, answers)
        if not place.is_last_round and not self._is_stalled(place, count):
            return None
        if place.is_last_round:
            why = f"the loop did not reach its goal in {_count_rounds(number)}"
        else:
            why = (
                f"the loop ended in round {number}: the number of findings did not decrease "
                f"({', '.join(map(str, self._counts(place, count)))})"
            )
        goal = "" if left else f"; it is not true that {place.loop.until}"
        return Failure("loop", f"{why}{goal}{left}", "fix the rest, or allow more rounds: max")

    def _is_stalled(self, place: _Place, count: int | None) -> bool:
        if count is None or place.number == 0:
            return False
        before = self._count(place, place.number - 1)
        return before is not None and count >= before

    def _counts(self, place: _Place, last: int | None) -> list[int | None]:
        return [*(self._count(place, n) for n in range(place.number)), last]

    def _count(self, place: _Place, number: int) -> int | None:
        return count_findings(map(self._structured, place.loop.rounds[number]))


def settle(
    plan: Plan, outcomes: Sequence[Outcome], structured: Callable[[int], Any]
) -> list[Outcome]:
    """The outcomes of an interrupted run, with what follows from the rounds that had ended: its
    clinvk may have been killed before it could record that."""
    settled = list(outcomes)
    rounds = Rounds(plan, settled, structured)
    for loop in plan.loops:
        for number, positions in enumerate(loop.rounds):
            later = [j for r in loop.rounds[number + 1 :] for j in plan.with_candidates(r)]
            if any(settled[j].attempts for j in later):
                continue  # another round had begun
            last = positions[-1]
            if all(settled[j].ok for j in positions):
                settled[last] = _judged(rounds, last, settled[last], structured)
            for j in positions:
                for at, failure in rounds.not_needed_after(j).items():
                    settled[at] = not_needed(settled[at], failure)
    return settled


def _judged(rounds: Rounds, i: int, outcome: Outcome, structured: Callable[[int], Any]) -> Outcome:
    result = Result(
        ok=True, text="", backend=outcome.backend or "", exit_code=0,
        structured=structured(i), check=outcome.check, decision=outcome.decision,
    )  # fmt: skip
    judged = rounds.judge(i, result)
    if judged.ok:
        return outcome
    return replace(outcome, state="failed", error=judged.error, exit_code=judged.exit_code)


def not_needed(outcome: Outcome, failure: Failure) -> Outcome:
    """The outcome of a step that the loop does not need."""
    return replace(outcome, state="skipped", error=failure, ended_at=datetime.now(UTC))


def requeue_rounds(plan: Plan, outcomes: Iterable[Outcome]) -> list[Outcome]:
    """The outcomes of tasks that were selected to be run again, with later rounds of a loop that
    may be needed after all, since the end of a round is run again."""
    chosen = list(outcomes)
    for loop in plan.loops:
        again = [n for n, at in enumerate(loop.rounds) if chosen[at[-1]].state == "queued"]
        for number, positions in enumerate(loop.rounds):
            for i in plan.with_candidates(positions):
                if chosen[i].is_not_needed and again and again[0] < number:
                    chosen[i] = replace(chosen[i], state="queued", error=None, ended_at=None)
    return chosen


def answered_position(plan: Plan, outcomes: Sequence[Outcome], i: int) -> int:
    """The position of the step itself, or of the same step in the last round of its loop that was
    run."""
    while outcomes[i].is_not_needed and (before := plan.tasks[i].repeats) is not None:
        i = before
    return i


def _has_failed_check(result: Result) -> bool:
    """Whether that is all that is wrong with it, and another round could change it. The result of the
    best of several candidates has no error then."""
    check, error = result.check, result.error
    if check is None or check.state != "failed" or check.protected:
        return False
    return error is None or error.kind == "check"


def _describe_left(count: int | None, answers: list[Any]) -> str:
    if not count:
        return ""
    return f"; {count} finding{'s' * (count != 1)} left: {describe_findings(answers)}"


def _count_rounds(count: int) -> str:
    return f"{count} round{'s' * (count != 1)}"
