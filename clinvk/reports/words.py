"""Wording shared by all reports."""

from __future__ import annotations

import json

from msgspec import Struct

from clinvk.model.candidates.ranking import Ranking
from clinvk.model.outcome import Outcome, RunResult
from clinvk.model.plan import Plan
from clinvk.model.result import Failure
from clinvk.text.sanitize import one_line, sanitize

MAX_NAME_LENGTH = 200  # characters of a name; it may be a whole line of a file


class Problem(Struct, frozen=True):
    """Tasks with the same state and reason: often many share one."""

    state: str
    failure: Failure
    tasks: tuple[Outcome, ...]


def title(result: RunResult) -> str:
    return f"clinvk {result.kind}" + (f" · run {result.id}" if result.id else "")


def name(outcome: Outcome) -> str:
    text = one_line(outcome.name)
    return text if len(text) <= MAX_NAME_LENGTH else text[: MAX_NAME_LENGTH - 1] + "…"


def names(outcomes: tuple[Outcome, ...], most: int = 10) -> tuple[list[str], str]:
    """The names of the first few, and how many more there are."""
    more = len(outcomes) - most
    return [name(o) for o in outcomes[:most]], (f" and {more:,} more" if more > 0 else "")


def session(outcome: Outcome) -> str:
    return one_line(outcome.session_id or "") if outcome.attempts else ""


def answer(outcome: Outcome) -> str:
    """Its answer; a structured answer as JSON if there is no text."""
    text = sanitize(outcome.output).strip("\n")
    if text.strip() or outcome.structured is None:
        return text.rstrip()
    return sanitize(json.dumps(outcome.structured, ensure_ascii=False, indent=2, default=str))


def failure(outcome: Outcome) -> Failure:
    """Why it is not done, with a default if no reason is known."""
    return outcome.error or Failure(outcome.state, f"no reason was given: {outcome.state}")


def check_output(outcome: Outcome) -> str:
    """The end of the output of its check, if that failed."""
    check = outcome.check
    return "" if check is None or check.ok else sanitize(check.output).strip("\n")


def problems(result: RunResult) -> list[Problem]:
    """The unfinished tasks and why, failures first; without tasks still running, and without
    candidates whose task has chosen another one."""
    found: dict[tuple[str, str, str, str | None, str], list[Outcome]] = {}
    for outcome in result.answers:
        of_no_round = outcome.candidate_of is not None and outcome.is_not_needed  # the step says so
        if outcome.state not in ("done", "queued", "running") and not of_no_round:
            why = failure(outcome)
            key = (outcome.state, why.kind, why.message, why.hint, check_output(outcome))
            found.setdefault(key, []).append(outcome)
    made = [Problem(key[0], failure(same[0]), tuple(same)) for key, same in found.items()]
    return sorted(made, key=lambda p: p.state != "failed")


def decisions(result: RunResult) -> list[tuple[str, Ranking]]:
    """The tasks that have chosen between candidates, and how."""
    return [(name(o), o.decision) for o in result.results if o.ok and o.decision is not None]


def needed_names(outcome: Outcome, plan: Plan) -> list[str]:
    """The names of the tasks that it depends on."""
    if outcome.index >= len(plan.tasks):
        return []
    return [one_line(plan.tasks[n].name) for n in plan.tasks[outcome.index].needs]
