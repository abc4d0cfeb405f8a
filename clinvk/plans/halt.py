"""When failures end a run, and what a provider's limit does to it: as it is written."""

from __future__ import annotations

import re

from clinvk.model.plan import Halt, Limits

MIN_FAILURES = 3  # failures before a percentage means something: the first of one is 100 %
_HALT = re.compile(r"(soon|now),\s*fail=(\d+(?:\.\d+)?)(%?)")


def parse_halt(text: str) -> Halt:
    """`never`, `soon,fail=3`, `now,fail=10%`: as GNU parallel has it. Raises `ValueError`."""
    if text.strip() == "never":
        return Halt()
    found = _HALT.fullmatch(text.strip())
    if not found:
        raise ValueError(f"{text!r} is not: never, soon,fail=N, now,fail=N, or N%")
    when, number, percent = found.groups()
    value = float(number)
    if percent:
        if not 0 < value <= 100:
            raise ValueError(f"{text!r}: {number} % is not above 0 and at most 100")
        return Halt(when=when, percent=value)  # type: ignore[arg-type]
    if value < 1 or value != int(value):
        raise ValueError(f"{text!r}: {number} is no whole number above 0")
    return Halt(when=when, count=int(value))  # type: ignore[arg-type]


def is_reached(halt: Halt, failed: int, ended: int) -> bool:
    """Whether so many failures, of so many tasks that have ended, end the run."""
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
    raise ValueError(f"{text!r} is not: wait, fail, or switch:BACKEND")


def format_halt(halt: Halt) -> str:
    """As it is written."""
    if halt.when == "never":
        return "never"
    number = f"{halt.percent:g}%" if halt.percent is not None else str(halt.count)
    return f"{halt.when},fail={number}"
