"""When a provider's limit ends, as far as its message says."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

# The forms in which the CLIs were seen, or are reported, to say it.
_EPOCH = re.compile(r"(?:\||resets?_?(?:at)?\D{1,3})(1[5-9]\d{8}|2\d{9})\b", re.IGNORECASE)
_SPAN = re.compile(
    r"(?:in|after|delay\W{1,4})\s*((?:\d+(?:\.\d+)?\s*(?:days?|hours?|minutes?|min|seconds?|sec|[dhms])\b[\s,]*(?:and\s+)?)+)",
    re.IGNORECASE,
)
_PART = re.compile(r"(\d+(?:\.\d+)?)\s*(d|h|m|s)", re.IGNORECASE)
_CLOCK = re.compile(
    r"(?:resets?|again)\s+(?:at\s+)?(\d{1,2})(?::(\d{2}))?\s*(am|pm)\b", re.IGNORECASE
)
_SECONDS = {"d": 86_400, "h": 3_600, "m": 60, "s": 1}


def parse_retry_at(text: str, *, now: datetime | None = None) -> datetime | None:
    """The moment after which another try makes sense (UTC), or nothing where no form is known."""
    try:
        return _moment(text, now or datetime.now(UTC))
    except (OverflowError, OSError, ValueError):  # "in 99999999999 days"
        return None


def _moment(text: str, now: datetime) -> datetime | None:
    if found := _EPOCH.search(text):
        return datetime.fromtimestamp(int(found.group(1)), UTC)
    if found := _SPAN.search(text):
        parts = _PART.findall(found.group(1))
        return now + timedelta(seconds=sum(float(n) * _SECONDS[unit.lower()] for n, unit in parts))
    if found := _CLOCK.search(text):
        return _next(int(found.group(1)), int(found.group(2) or 0), found.group(3), now)
    return None


def _next(hour: int, minute: int, half: str, now: datetime) -> datetime | None:
    """The next such time of day, by the clock of this machine: the CLIs mean local time."""
    if not (1 <= hour <= 12 and minute < 60):
        return None
    local = now.astimezone()
    hour = hour % 12 + (12 if half.lower() == "pm" else 0)
    moment = local.replace(hour=hour, minute=minute, second=0, microsecond=0)
    if moment <= local:
        moment += timedelta(days=1)
    return moment.astimezone(UTC)
