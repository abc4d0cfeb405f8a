"""The time, tokens and cost of a run and its tasks, as the terminal and all reports show them."""

from __future__ import annotations

from clinvk.model.outcome import Outcome, RunResult, format_counts
from clinvk.model.usage import format_count
from clinvk.text import duration

NOTHING = "–"  # for unknown values, unless another text is requested
UNKNOWN = "?"


def count_line(result: RunResult) -> str:
    """`5 tasks: 3 done, 2 failed`"""
    total = len(result.tasks)
    counts = format_counts(result.counts)
    return f"{total:,} task{'s' * (total != 1)}" + (f": {counts}" if counts else "")


def summary(result: RunResult) -> str:
    """`5 tasks: 3 done, 2 failed · 3m 20s · 120,400 tokens · $1.2300`"""
    parts = [count_line(result), duration.format_duration(result.seconds)]
    if result.usage is not None:
        parts.append(f"{tokens(result)} tokens")
    if result.cost is not None:
        parts.append(total_cost(result))
    return " · ".join(parts)


def time_taken(outcome: Outcome, nothing: str = NOTHING) -> str:
    """The time of its last attempt; `?` if it was interrupted and its end is unknown."""
    if not outcome.attempts:
        return nothing
    if outcome.state == "indeterminate" and not outcome.seconds:
        return UNKNOWN
    return duration.format_duration(outcome.seconds)


def tokens(thing: Outcome | RunResult, nothing: str = NOTHING) -> str:
    return format_count(thing.usage.total, nothing) if thing.usage else nothing


def cost(outcome: Outcome, nothing: str = NOTHING) -> str:
    return f"${outcome.cost:.4f}" if outcome.cost is not None else nothing


def total_cost(result: RunResult) -> str:
    """The cost; if that of some task is unknown, the sum is a minimum, or not worth telling."""
    if result.cost is None:
        return NOTHING
    if not result.cost and not result.is_cost_whole:
        return "cost unknown"
    return f"{'' if result.is_cost_whole else 'at least '}${result.cost:.4f}"
