"""The rate limits that an earlier run has met, as far as they keep the tasks of this one waiting."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from clinvk.errors import LimitError
from clinvk.model.outcome import Outcome
from clinvk.model.plan import Plan
from clinvk.plans.preflight import NO_BACKEND, Preflight

# Of a backend, a task's environment and its model.
FindLimit = Callable[[str, Mapping[str, str], Any], LimitError | None]


def find_limits(
    plan: Plan, preflights: Sequence[Preflight], outcomes: Iterable[Outcome], find_limit: FindLimit
) -> dict[str, LimitError]:
    """The backends at a rate limit that applies to all of their tasks that are to be run, and
    those to switch to."""
    limits = plan.rules.limits
    if limits.at_start == "ignore":
        return {}
    asked: dict[str, list[LimitError | None]] = {}
    known: dict[Any, LimitError | None] = {}
    for outcome in outcomes:
        ask, task = preflights[outcome.index], plan.tasks[outcome.index]
        if outcome.state != "queued" or task.dry_run or ask.backend == NO_BACKEND:
            continue
        names = (ask.backend, *(limits.to if limits.action == "switch" else ()))
        for name in names:
            model = ask.options.get("model") if name == ask.backend else None
            key = (name, tuple(sorted(ask.env.items())), model)
            if key not in known:
                known[key] = find_limit(name, ask.env, model)
                asked.setdefault(name, []).append(known[key])
    return {
        name: max((e for e in each if e), key=lambda e: e.retry_at)
        for name, each in asked.items()
        if all(each)
    }
