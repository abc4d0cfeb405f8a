"""What all reports say of a run, in the same words."""

from __future__ import annotations

import json

from msgspec import Struct

from clinvk.model.outcome import COST_SOURCES, Outcome, RunResult
from clinvk.model.plan import Plan
from clinvk.model.result import Failure
from clinvk.text import duration
from clinvk.text.sanitize import one_line, sanitize

MAX_NAME_LENGTH = 200  # characters of a name; it may be a whole line of a file
MARKS = {"done": "✓", "failed": "✗", "skipped": "–", "cancelled": "–", "waiting": "…",
         "indeterminate": "?", "running": "▸", "queued": "·"}  # fmt: skip
NOTHING = "–"


class Problem(Struct, frozen=True):
    """Tasks that came to the same end for the same reason: often it is one reason for many."""

    state: str
    failure: Failure
    tasks: tuple[Outcome, ...]


def title(result: RunResult) -> str:
    return f"clinvk {result.kind}" + (f" · run {result.id}" if result.id else "")


def count_line(result: RunResult) -> str:
    """`5 tasks: 3 done, 2 failed`"""
    total = len(result.results)
    counts = ", ".join(f"{n:,} {state}" for state, n in result.counts.items())
    return f"{total:,} task{'s' * (total != 1)}" + (f": {counts}" if counts else "")


def summary(result: RunResult) -> str:
    """`5 tasks: 3 done, 2 failed · 3m 20s · 120,400 tokens · $1.2300`"""
    parts = [count_line(result), duration.format_duration(result.seconds)]
    if result.usage is not None:
        parts.append(f"{tokens(result)} tokens")
    if result.cost is not None:
        parts.append(total_cost(result))
    return " · ".join(parts)


def name(outcome: Outcome) -> str:
    text = one_line(outcome.name)
    return text if len(text) <= MAX_NAME_LENGTH else text[: MAX_NAME_LENGTH - 1] + "…"


def names(outcomes: tuple[Outcome, ...], most: int = 10) -> tuple[list[str], str]:
    """The names of the first few, and a word on how many more there are."""
    more = len(outcomes) - most
    return [name(o) for o in outcomes[:most]], (f" and {more:,} more" if more > 0 else "")


def time_taken(outcome: Outcome) -> str:
    return duration.format_duration(outcome.seconds) if outcome.attempts else NOTHING


def tokens(thing: Outcome | RunResult) -> str:
    return f"{thing.usage.total:,}" if thing.usage else NOTHING


def cost(outcome: Outcome) -> str:
    return f"${outcome.cost:.4f}" if outcome.cost is not None else NOTHING


def total_cost(result: RunResult) -> str:
    """Where not every task's cost is known, the sum is only the least that it can have been."""
    if result.cost is None:
        return NOTHING
    return f"{'' if is_whole(result) else 'at least '}${result.cost:.4f}"


def cost_source(result: RunResult) -> str:
    return COST_SOURCES[is_whole(result)]


def is_whole(result: RunResult) -> bool:
    return all(o.cost is not None for o in result.results if o.attempts)


def session(outcome: Outcome) -> str:
    return one_line(outcome.session_id or "") if outcome.attempts else ""


def answer(outcome: Outcome) -> str:
    """What it answered; a structured answer as JSON, where there is no other."""
    text = sanitize(outcome.output).strip("\n")
    if text.strip() or outcome.structured is None:
        return text.rstrip()
    return sanitize(json.dumps(outcome.structured, ensure_ascii=False, indent=2, default=str))


def failure(outcome: Outcome) -> Failure:
    """Why it is not done, also where nobody said so."""
    return outcome.error or Failure(outcome.state, f"no reason was given: {outcome.state}")


def problems(result: RunResult) -> list[Problem]:
    """What was not done and why, the failures first; what has not ended yet is none."""
    found: dict[tuple[str, str, str, str | None], list[Outcome]] = {}
    for outcome in result.results:
        if outcome.state not in ("done", "queued", "running"):
            why = failure(outcome)
            key = (outcome.state, why.kind, why.message, why.hint)
            found.setdefault(key, []).append(outcome)
    made = [Problem(key[0], failure(same[0]), tuple(same)) for key, same in found.items()]
    return sorted(made, key=lambda p: p.state != "failed")


def needed_names(outcome: Outcome, plan: Plan) -> list[str]:
    """The names of the tasks that it came after."""
    if outcome.index >= len(plan.tasks):
        return []
    return [one_line(plan.tasks[n].name) for n in plan.tasks[outcome.index].needs]
