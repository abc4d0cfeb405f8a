"""What a run and its tasks took, in the words that the terminal and all reports share."""

from __future__ import annotations

from clinvk.model.outcome import Outcome, RunResult, format_counts
from clinvk.text import duration

NOTHING = "–"  # of what is unknown, unless something else is asked for


def count_line(result: RunResult) -> str:
    """`5 tasks: 3 done, 2 failed`"""
    total = len(result.results)
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
    """How long its last attempt took; `?` if it was cut off, and nothing is known of its end."""
    if not outcome.attempts:
        return nothing
    if outcome.state == "indeterminate" and not outcome.seconds:
        return "?"
    return duration.format_duration(outcome.seconds)


def tokens(thing: Outcome | RunResult, nothing: str = NOTHING) -> str:
    return f"{thing.usage.total:,}" if thing.usage else nothing


def cost(outcome: Outcome, nothing: str = NOTHING) -> str:
    return f"${outcome.cost:.4f}" if outcome.cost is not None else nothing


def total_cost(result: RunResult) -> str:
    """If the cost of some task is unknown, the sum is only the least that it can have been."""
    if result.cost is None:
        return NOTHING
    return f"{'' if result.is_cost_whole else 'at least '}${result.cost:.4f}"
