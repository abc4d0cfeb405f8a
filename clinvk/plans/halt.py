"""When failures stop a run, and what a rate limit does to it: parsing and formatting."""

from __future__ import annotations

import re

from clinvk.model.plan import Halt, Limits

MIN_FAILURES = 3  # failures before a percentage applies: one failure of one task is 100 %
_HALT = re.compile(r"(soon|now),\s*fail=(\d+(?:\.\d+)?)(%?)")


def parse_halt(text: str) -> Halt:
    """`never`, `soon,fail=3`, `now,fail=10%`, as in GNU parallel. Raises `ValueError`."""
    if text.strip() == "never":
        return Halt()
    found = _HALT.fullmatch(text.strip())
    if not found:
        raise ValueError(f"{text!r} is not one of: never, soon,fail=N, now,fail=N, or N%")
    when, number, percent = found.groups()
    value = float(number)
    if percent:
        if not 0 < value <= 100:
            raise ValueError(f"{text!r}: {number}% is not greater than 0 and at most 100")
        return Halt(when=when, percent=value)  # type: ignore[arg-type]
    if value < 1 or value != int(value):
        raise ValueError(f"{text!r}: {number} is not a whole number greater than 0")
    return Halt(when=when, count=int(value))  # type: ignore[arg-type]


def is_reached(halt: Halt, failed: int, ended: int) -> bool:
    """Whether so many failures, of so many tasks that have ended, stop the run."""
    if halt.when == "never":
        return False
    if halt.count is not None:
        return failed >= halt.count
    return (
        halt.percent is not None and failed >= MIN_FAILURES and 100 * failed / ended >= halt.percent
    )


def parse_on_limit(text: str) -> Limits:
    """`wait`, `fail`, `switch:codex` or `switch:codex,gemini`. Raises `ValueError`."""
    action, colon, names = text.strip().partition(":")
    to = tuple(name.strip() for name in names.split(",") if name.strip())
    if action in ("wait", "fail") and not colon:
        return Limits(action=action)  # type: ignore[arg-type]
    if action == "switch" and to:
        return Limits(action="switch", to=to)
    raise ValueError(f"{text!r} is not one of: wait, fail, or switch:BACKEND")


def format_halt(halt: Halt) -> str:
    """The rule as it is written in a file."""
    if halt.when == "never":
        return "never"
    number = f"{halt.percent:g}%" if halt.percent is not None else str(halt.count)
    return f"{halt.when},fail={number}"
