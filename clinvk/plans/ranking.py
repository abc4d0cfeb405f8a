"""Which candidate for one prompt is best: by its check, then by its score, then by how little it
changed, then by the judge."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from clinvk.model.candidates.ranking import Candidate, Ranking
from clinvk.model.outcome import ACTIVE_STATES, Outcome, RunResult
from clinvk.plans.comparison import answer_outcomes, find_verdict

UNCHANGED = "it changed nothing"  # the problem of a candidate that cannot win for that
CRITERIA = ("check", "check", "score", "diff", "judge")  # of the parts of a key
_NUMBER = re.compile(r"[-+]?(?:\d[\d_,]*\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")


def to_json(result: RunResult) -> dict[str, Any]:
    """The JSON object of `parallel`, with the verdict, and the ranking of what was done in worktrees.
    `result` includes the outputs and the scores."""
    found, ranking = find_verdict(result), rank(result)
    data = {**result.to_json(), "verdict": found.to_json() if found else None}
    return data | ({"ranking": ranking.to_json()} if ranking else {})


def rank(result: RunResult) -> Ranking | None:
    """The ranking of a comparison in worktrees; None if it was not in worktrees, or has not ended.
    `result` includes the outputs and the scores."""
    if not any(o.worktree for o in answer_outcomes(result)):
        return None
    if any(o.state in ACTIVE_STATES for o in answer_outcomes(result)):
        return None
    found = find_verdict(result)
    return rank_candidates(
        answer_outcomes(result), result.scores, lowest_wins=result.lowest_wins,
        chosen=found.best if found is not None else None,
    )  # fmt: skip


def rank_candidates(
    outcomes: Iterable[Outcome],
    scores: Mapping[int, float],
    *,
    lowest_wins: bool = False,
    chosen: str | None = None,
    may_be_unchanged: bool = False,
) -> Ranking:
    """The ranking of these outcomes. `scores` are by their positions in the plan; `chosen` is the name
    of the one that the judge prefers. One that changed nothing cannot win, unless it
    `may_be_unchanged`."""
    candidates = [
        _candidate(o, scores.get(o.index), may_be_unchanged=may_be_unchanged) for o in outcomes
    ]

    def key(candidate: Candidate) -> tuple[float, ...]:
        score = float("inf")
        if candidate.score is not None:
            score = candidate.score if lowest_wins else -candidate.score
        failed = candidate.check == "failed"  # and another round of a loop follows
        return (candidate.problem is not None, failed, score, candidate.lines,
                candidate.name != chosen)  # fmt: skip

    candidates.sort(key=key)  # stable: as they were named
    return _ranking(candidates, key)


def equally_good(ranking: Ranking) -> tuple[Candidate, ...]:
    """The best candidate, and those that only a judge can tell from it."""
    able = [c for c in ranking.candidates if c.problem is None]

    def merits(c: Candidate) -> tuple[object, ...]:
        return (c.check == "failed", c.score, c.lines)

    return tuple(c for c in able if merits(c) == merits(able[0]))


def _candidate(outcome: Outcome, score: float | None, *, may_be_unchanged: bool) -> Candidate:
    made = outcome.worktree
    problem = None
    if not outcome.ok:
        problem = outcome.error.message if outcome.error else outcome.state
    elif not may_be_unchanged and (made is None or not made.is_changed):
        problem = UNCHANGED
    return Candidate(
        index=outcome.index, name=outcome.name, problem=problem,
        check=outcome.check.state if outcome.check else None, score=score,
        files=made.files if made else 0, lines=made.insertions + made.deletions if made else 0,
    )  # fmt: skip


def _ranking(
    candidates: Sequence[Candidate], key: Callable[[Candidate], tuple[float, ...]]
) -> Ranking:
    able = [c for c in candidates if c.problem is None]
    ordered = tuple(candidates)
    if not able:
        return Ranking(candidates=ordered, summary="no candidate can be applied")
    best = able[0]
    if len(able) == 1:
        others = [c.problem for c in ordered if c is not best]
        did = "succeeded"
        if UNCHANGED in others:
            failed = any(problem != UNCHANGED for problem in others)
            did = "succeeded and changed anything" if failed else "changed anything"
        return Ranking(
            candidates=ordered, best=best.name, decided_by="check",
            summary=f"{best.name} is the only one that {did}",
        )  # fmt: skip
    second = able[1]
    differ = [i for i, (a, b) in enumerate(zip(key(best), key(second), strict=True)) if a != b]
    if not differ:
        return Ranking(
            candidates=ordered, best=best.name,
            summary=f"{best.name} is the first of several that are equally good",
        )  # fmt: skip
    criterion = CRITERIA[differ[0]]
    return Ranking(
        candidates=ordered, best=best.name, decided_by=criterion,
        summary=f"{best.name} is best: {_reason(criterion, best, second)}",
    )  # fmt: skip


def _reason(criterion: str, best: Candidate, second: Candidate) -> str:
    match criterion:
        case "score":
            other = "none" if second.score is None else f"{second.score:g}"
            return f"its score is {best.score:g} ({second.name}: {other})"
        case "diff":
            lines = f"{best.lines:,} line{'s' * (best.lines != 1)}"
            return f"it changed {lines} ({second.name}: {second.lines:,})"
        case "judge":
            return "the judge chose it"
    return "its check passed"


def last_number(text: str) -> float | None:
    """The last number in a text: of `12.5 % of 1,024 ms`, 1024."""
    found = None
    for match in _NUMBER.finditer(text):
        found = match
    if found is None:
        return None
    try:
        return float(found.group().replace(",", "").replace("_", ""))
    except ValueError:
        return None
