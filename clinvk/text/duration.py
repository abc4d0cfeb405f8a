"""Parse and format durations, in seconds."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from functools import cache

_UNITS = {
    "w": 604_800, "d": 86_400, "h": 3_600, "m": 60, "s": 1, "ms": 1e-3, "us": 1e-6, "ns": 1e-9,
}  # fmt: skip
# Each unit as it is written, the longest first, since "m" also begins "ms".
_UNIT = (
    r"(?P<ms>milliseconds?|millis|msecs?|ms)|(?P<us>microseconds?|[uµμ]s)|(?P<ns>nanoseconds?|ns)|"
    r"(?P<w>weeks?|wks?|w)|(?P<d>days?|d)|(?P<h>hours?|hrs?|h)|(?P<m>minutes?|mins?|m)|"
    r"(?P<s>seconds?|secs?|s)"
)
_NUMBER = r"(?:\d+(?:\.\d+)?|\.\d+|an?(?=\s))"
_PART = rf"(?i)(?P<number>{_NUMBER})\s*(?:{_UNIT})(?![a-z])"
_OPTION = r"(?:\d+(?:\.\d+)?\s*(?:s|m|min|h|d)(?![a-z])\s*)+"  # of the user's
_UNIT_NAMES = ("ms", "us", "ns", "w", "d", "h", "m", "s")


@cache
def span() -> re.Pattern[str]:
    """A duration in a text: `2h39m52s`, `373.8ms`, `5 days 23 hours`, `1 hour and 30 minutes`.
    Compiling it takes 5 ms."""
    part = rf"(?>{_NUMBER}\s*(?:{re.sub(r'[?]P<[a-z]+>', '?:', _UNIT)})(?![a-z]))"
    return re.compile(rf"{part}(?:(?:\s*,)?\s*(?:and\s+)?{part})*", re.IGNORECASE)


def parse_duration(text: str | float) -> float:
    """`90`, `"90s"`, `"1.5m"`, `"2h"`, `"1h30m"` in seconds. Raises `ValueError` for anything
    else, and for 0."""
    said = str(text).strip().lower()
    plain = re.fullmatch(r"\d+(?:\.\d+)?", said)
    value = float(said) if plain else span_seconds(said) if re.fullmatch(_OPTION, said) else 0.0
    if not 0 < value < 1e9:
        raise ValueError(f"invalid duration {text!r}; use e.g. 90, 90s, 5m or 2h")
    return value


def span_seconds(text: str) -> float:
    """The seconds of a duration that `span` matches."""
    return sum(_part_seconds(found) for found in re.finditer(_PART, text))


def _part_seconds(found: re.Match[str]) -> float:
    number = found.group("number")
    unit = next(name for name in _UNIT_NAMES if found.group(name))
    return (1.0 if number.lower() in ("a", "an") else float(number)) * _UNITS[unit]


def format_duration(value: float) -> str:
    """A duration for people: `4.2 s`, `3m 20s`, `2h 05m`."""
    if value < 60:
        return f"{value:.1f} s"
    minutes, rest = divmod(int(value), 60)
    if minutes < 60:
        return f"{minutes}m {rest:02}s"
    return f"{minutes // 60}h {minutes % 60:02}m"


def format_running(value: float) -> str:
    """The duration of something still running, in whole seconds: `0 s`, `42 s`, `3m 20s`."""
    return format_duration(value) if value >= 60 else f"{max(0, int(value))} s"


def format_offset(value: float) -> str:
    """A time since a start, in its two largest units: `0`, `2.5 s`, `45 s`, `1h 30m`, `2d`."""
    if value < 60:
        return f"{round(value, 2):g} s" if value else "0"
    minutes, seconds = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    parts = ((days, "d"), (hours, "h"), (minutes, "m"), (seconds, "s"))
    return " ".join([f"{count}{unit}" for count, unit in parts if count][:2])


def format_age(moment: datetime, now: datetime | None = None) -> str:
    """How long ago that was, in its largest unit: `just now`, `42s ago`, `5m ago`, `3d ago`."""
    seconds = max(0, int(((now or datetime.now(UTC)) - moment).total_seconds()))
    for unit in ("d", "h", "m"):
        if seconds >= _UNITS[unit]:
            return f"{int(seconds // _UNITS[unit])}{unit} ago"
    return "just now" if seconds < 5 else f"{seconds}s ago"
