"""When failures stop a run, and what a rate limit does to it: parsing and formatting."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from clinvk.model.plan import Halt, Limits

if TYPE_CHECKING:
    from clinvk.config.schema import UnifiedFlags

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
    """Whether this number of failures, among the tasks that have ended, stops the run."""
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
    if action == "wait" and not colon:
        return Limits(action="wait", at_start="wait")
    if action == "fail" and not colon:
        return Limits(action="fail")
    if action == "switch" and to:
        return Limits(action="switch", to=to)
    raise ValueError(f"{text!r} is not one of: wait, fail, or switch:BACKEND")


def with_fallback(limits: Limits, names: str | Iterable[str]) -> Limits:
    """The rule, with backends to switch to: `codex,gemini`, or a list of such texts."""
    words = [names] if isinstance(names, str) else names
    found = [name.strip() for word in words for name in word.split(",") if name.strip()]
    if not found:
        return limits
    return replace(limits, action="switch", to=tuple(dict.fromkeys((*limits.to, *found))))


def configured_limits(flags: UnifiedFlags, *, switches: bool = True) -> Limits:
    """The rule of the configuration, for runs that say nothing else."""
    settings: Any = flags
    limits = parse_on_limit(settings.on_limit) if settings.on_limit else Limits()
    if not switches:
        action: Any = "wait" if limits.action == "switch" else limits.action
        return replace(limits, action=action, to=(), max_wait=settings.max_wait_secs)
    return replace(with_fallback(limits, settings.fallback), max_wait=settings.max_wait_secs)


def format_halt(halt: Halt) -> str:
    """The rule as it is written in a file."""
    if halt.when == "never":
        return "never"
    number = f"{halt.percent:g}%" if halt.percent is not None else str(halt.count)
    return f"{halt.when},fail={number}"
