"""Seconds, as people write them."""

from __future__ import annotations

import re

_UNITS = {"": 1, "s": 1, "m": 60, "min": 60, "h": 3_600, "d": 86_400}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(s|m|min|h|d|)")


def parse_duration(text: str | float) -> float:
    """`90`, `"90s"`, `"1.5m"`, `"2h"`, `"1d"` in seconds. Raises `ValueError`, for none and less
    too."""
    found = _DURATION.fullmatch(str(text).strip().lower())
    value = float(found.group(1)) * _UNITS[found.group(2)] if found else 0.0
    if not 0 < value < 1e9:
        raise ValueError(f"{text!r} is no time: say seconds, or 90s, 5m, 2h")
    return value


def format_duration(value: float) -> str:
    """As a person reads it at a glance: `4.2 s`, `3m 20s`, `2h 05m`."""
    if value < 60:
        return f"{value:.1f} s"
    minutes, rest = divmod(int(value), 60)
    if minutes < 60:
        return f"{minutes}m {rest:02}s"
    return f"{minutes // 60}h {minutes % 60:02}m"
