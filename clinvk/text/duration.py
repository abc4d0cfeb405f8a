"""Parse and format durations, in seconds."""

from __future__ import annotations

import re
from datetime import UTC, datetime

_UNITS = {"": 1, "s": 1, "m": 60, "min": 60, "h": 3_600, "d": 86_400}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(s|m|min|h|d|)")


def parse_duration(text: str | float) -> float:
    """`90`, `"90s"`, `"1.5m"`, `"2h"`, `"1d"` in seconds. Raises `ValueError` for anything
    else, and for 0."""
    found = _DURATION.fullmatch(str(text).strip().lower())
    value = float(found.group(1)) * _UNITS[found.group(2)] if found else 0.0
    if not 0 < value < 1e9:
        raise ValueError(f"invalid duration {text!r}; use e.g. 90, 90s, 5m or 2h")
    return value


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
            return f"{seconds // _UNITS[unit]}{unit} ago"
    return "just now" if seconds < 5 else f"{seconds}s ago"
