"""When a rate limit ends, as far as the provider's message says."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

# The forms that the CLIs were seen, or are reported, to use.
_EPOCH = re.compile(r"(?:\||resets?_?(?:at)?\D{1,3})(1[5-9]\d{8}|2\d{9})\b", re.IGNORECASE)
_SPAN = re.compile(
    r"(?:in|after|delay\W{1,4})\s*((?:\d+(?:\.\d+)?\s*(?:days?|hours?|minutes?|min|seconds?|sec|[dhms])\b[\s,]*(?:and\s+)?)+)",
    re.IGNORECASE,
)
_PART = re.compile(r"(\d+(?:\.\d+)?)\s*(d|h|m|s)", re.IGNORECASE)
_CLOCK = re.compile(
    r"(?:resets?|again)\s+(?:at\s+)?(\d{1,2})(?::(\d{2}))?\s*(am|pm)\b", re.IGNORECASE
)
_DATE = re.compile(
    r"(?:resets?|again)\s+(?:at\s+|on\s+)?([a-z]{3})[a-z]*\.?\s+(\d{1,2})(?:st|nd|rd|th)?,?\s+"
    r"(?:(\d{4}),?\s+)?(?:at\s+)?(\d{1,2})(?::(\d{2}))?\s*(am|pm)\b",
    re.IGNORECASE,
)
_MONTHS = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]
_SECONDS = {"d": 86_400, "h": 3_600, "m": 60, "s": 1}


def parse_retry_at(text: str, *, now: datetime | None = None) -> datetime | None:
    """The time after which to retry (UTC); None if no known form matches."""
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
    if found := _DATE.search(text):
        month, day, year, *clock = found.groups()
        return _at_date(month.lower(), int(day), int(year or 0), _time_of_day(*clock), now)
    if found := _CLOCK.search(text):
        return _next_time(_time_of_day(*found.groups()), now)
    return None


def _time_of_day(hour: str, minute: str | None, half: str) -> timedelta:
    """The time since midnight."""
    if not (1 <= int(hour) <= 12 and int(minute or 0) < 60):
        raise ValueError("not a time of day")
    later = 12 if half.lower() == "pm" else 0
    return timedelta(hours=int(hour) % 12 + later, minutes=int(minute or 0))


def _next_time(clock: timedelta, now: datetime) -> datetime:
    """The next such time of day, by the clock of this machine: the CLIs mean local time."""
    local = now.astimezone()
    moment = _local_time(local, clock)
    if local - moment >= timedelta(minutes=1):
        moment = _local_time(local + timedelta(days=1), clock)
    elif moment <= local:
        # They omit the seconds: the current minute is meant, not tomorrow's.
        moment += timedelta(minutes=1)
    return moment.astimezone(UTC)


def _at_date(month: str, day: int, year: int, clock: timedelta, now: datetime) -> datetime | None:
    """That date; without a year, the next one."""
    if month not in _MONTHS:
        return None
    local = now.astimezone()
    date = datetime(year or local.year, _MONTHS.index(month) + 1, day)  # noqa: DTZ001 - local
    moment = _local_time(date, clock)
    if not year and moment.astimezone() < local - timedelta(days=1):
        moment = moment.replace(year=local.year + 1)
    return moment.astimezone(UTC)


def _local_time(day: datetime, clock: timedelta) -> datetime:
    return day.replace(hour=0, minute=0, second=0, microsecond=0) + clock
