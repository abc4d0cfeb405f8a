"""When to try again, as people and providers write it: durations, times of day, dates and time
zones.

To add a form: a function in `_FORMS` if it is a new way to write a time, a word in `_RESETS` or
`_RETRIES` if only the words before it are new, and its text in the table of tests/test_limits.py.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from typing import Any, NamedTuple

from clinvk.text.duration import span, span_seconds

# The words before a time. Those that name the end of a limit count before those that suggest a
# retry, wherever they are in the text.
_RESETS = r"resets?|renews?|refresh(?:es)?|replenish(?:es)?|restored?|lifted|unlocks?|expires?"
_RETRIES = r"retry|try|again|wait|available|back|continue|resume|allowed|ready|cool-?down|sleep|pause|delay"
# Words between these and the time.
_FILLERS = (
    "a|about|again|another|approx(?:imately)?|approx|around|at|be|by|date|delay|for|further|in|is|it|"
    "limit|next|of|on|quota|requests|roughly|seconds|secs|the|time|to|tokens|until|usage|will|your|"
    "after|ms|milliseconds|this|and"
)
_ANCHORS = [
    re.compile(
        rf"(?<![a-z])(?:{words})(?:[\s_:=\"'~,·∙|-]{{1,8}}|(?:{_FILLERS})(?![a-z])){{0,14}}",
        re.IGNORECASE,
    )
    for words in (_RESETS, _RETRIES)
] + [
    re.compile(r"\|(?=\d{10})"),  # `usage limit reached|1795239180`
    re.compile(r"\bin\s+(?=[\d.][\w\s.,]{1,60}?(?:[.;!\n]|$))", re.IGNORECASE),
]
_KEY_IN_MS = re.compile(r"(?:_|-|\b)(?:ms|milliseconds)\W{1,6}$", re.IGNORECASE)
_IN = re.compile(r"(?<![a-z])(?:in|after|for|wait)\W{1,6}$", re.IGNORECASE)

_MONTHS = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]
_DAYS = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
_MONTH = rf"({'|'.join(_MONTHS)})[a-z]*\.?"
_DAY = r"(mon|tue|wed|thu|fri|sat|sun)[a-z]*\.?"
_OF_MONTH = r"(\d{1,2})(?:st|nd|rd|th)?"
_TO_CLOCK = re.compile(r"(?:,?\s+(?:at\s+)?|,\s*)", re.IGNORECASE)  # between a date and its time
_TO_DATE = re.compile(r",?\s+(?:the\s+)?", re.IGNORECASE)
_CLOCK = re.compile(
    r"(?P<hour>\d{1,2})(?:[:.](?P<minute>\d\d))?(?::(?P<second>\d\d))?\s*(?P<half>[ap])\.?m\b\.?"
    r"|(?P<hour24>\d{1,2}):(?P<minute24>\d\d)(?::(?P<second24>\d\d))?(?![\d:])"
    r"|(?P<word>noon|midnight)\b",
    re.IGNORECASE,
)
_ISO = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)(?:[T ]\s?(\d\d):(\d\d)(?::(\d\d)(?:[.,]\d+)?)?)?(?!\d)", re.IGNORECASE
)
_HTTP = re.compile(
    rf"{_DAY},?\s+(\d{{1,2}})[ -]{_MONTH}[ -](\d{{4}})\s+(\d\d):(\d\d):(\d\d)", re.IGNORECASE
)
_MONTH_FIRST = re.compile(rf"{_MONTH}\s+{_OF_MONTH}\b(?:,?\s+(\d{{4}})\b(?!:))?", re.IGNORECASE)
_DAY_FIRST = re.compile(
    rf"{_OF_MONTH}\s+{_MONTH}(?:,?\s+(\d{{4}})\b(?!:))?(?![a-z])", re.IGNORECASE
)
_WEEKDAY = re.compile(_DAY, re.IGNORECASE)
_RELATIVE = re.compile(r"(today|tonight|tomorrow)\b", re.IGNORECASE)
_EPOCH = re.compile(r"(1[5-9]\d{8}|[2-9]\d{9})(\d{3})?(?:\.\d+)?(?!\d)")
_HOURS = re.compile(r"(\d{1,3}):(\d\d):(\d\d)(?![\d:])")  # after `in`
_NUMBER = re.compile(r"(\d+(?:\.\d+)?)(?![\w.:/%-]|\s*[a-z%])", re.IGNORECASE)
_ZONE = re.compile(
    r"\s*(?:\(([^()\n]{1,60})\)|([+-]\d\d:?\d\d)\b|(Z)\b|"
    r"((?:UTC|GMT)[+-]\d{1,2}(?::?\d\d)?|[A-Z]{2,4}\b(?!/)|[A-Z][A-Za-z_]+/[A-Z][\w/+-]+))"
)
_OFFSET = re.compile(r"(?:UTC|GMT)?\s*([+-])(\d{1,2})(?::?(\d\d))?", re.IGNORECASE)
# What follows a duration that is not the time until the end: "in 2 days of messages".
_NOT_A_WAIT = re.compile(r"\s+(?:of|ago|old|limit|window|plan)\b|\s*-\s*\w", re.IGNORECASE)

# Abbreviations that the American providers use; IANA names are looked up.
_ABBREVIATIONS = {
    "PT": "America/Los_Angeles", "MT": "America/Denver", "CT": "America/Chicago",
    "ET": "America/New_York",
}  # fmt: skip
_OFFSETS = {
    "UTC": 0, "GMT": 0, "UT": 0, "Z": 0, "WET": 0, "PST": -8, "PDT": -7, "MST": -7, "MDT": -6,
    "CST": -6, "CDT": -5, "EST": -5, "EDT": -4, "AKST": -9, "AKDT": -8, "HST": -10, "WEST": 1,
    "CET": 1, "CEST": 2, "EET": 2, "EEST": 3, "JST": 9, "KST": 9,
}  # fmt: skip


class _Context(NamedTuple):
    now: datetime  # in UTC
    zone: tzinfo | None  # of times that name none; None: that of this machine
    before: str  # the words that led to the time


def parse_retry_at(
    text: str, *, now: datetime | None = None, zone: tzinfo | None = None
) -> datetime | None:
    """The time after which to retry (UTC); None if no known form matches. `zone` is that of times
    without one; None: that of this machine."""
    now = (now or datetime.now(UTC)).astimezone(UTC)
    for anchor in _ANCHORS:
        for found in anchor.finditer(text):
            if moment := _moment_at(text, found.end(), _Context(now, zone, found.group())):
                return moment
    return None


def find_zone(name: str | None) -> tzinfo | None:
    """The time zone of this name: `Europe/Paris`, `PST`, `UTC+2`, `-05:00`; None if it is unknown,
    or if this Python has no time zones."""
    text = (name or "").lstrip(":").strip()
    text = str(re.split(r"[,;]| time\b", text, maxsplit=1)[0]).strip()
    hours = _OFFSETS.get(text.upper())
    if hours is not None:
        return timezone(timedelta(hours=hours)) if hours else UTC
    known = _ABBREVIATIONS.get(text.upper(), text)
    if found := _OFFSET.fullmatch(known):
        sign, *parts = found.groups()
        offset = timedelta(hours=int(parts[0]), minutes=int(parts[1] or 0))
        return timezone(-offset if sign == "-" else offset) if offset < timedelta(days=1) else None
    from zoneinfo import ZoneInfo  # 5 ms: only for a text that names a zone

    try:
        return ZoneInfo(known) if known else None
    except (KeyError, ValueError, OSError):  # unknown, a path, or a directory of zones
        return None


def _moment_at(text: str, at: int, context: _Context) -> datetime | None:
    """The time that is written at this place."""
    for form in _FORMS:
        try:
            moment = form(text, at, context)
        except (OverflowError, OSError, ValueError):  # "in 99999999999 days", "13:00 pm", Feb 31
            continue
        if moment is not None:
            return moment
    return None


def _epoch(text: str, at: int, _: _Context) -> datetime | None:
    """Seconds or milliseconds since 1970."""
    found = _EPOCH.match(text, at)
    return datetime.fromtimestamp(int(found.group(1)), UTC) if found else None


def _iso_date(text: str, at: int, context: _Context) -> datetime | None:
    if not (found := _ISO.match(text, at)):
        return None
    naive = datetime(*(int(part or 0) for part in found.groups()))  # type: ignore[arg-type] # noqa: DTZ001
    return _in_zone(naive, _zone_at(text, found.end()) or context.zone)


def _http_date(text: str, at: int, context: _Context) -> datetime | None:
    if not (found := _HTTP.match(text, at)):
        return None
    _day, day, month, year, *clock = found.groups()
    hour, minute, second = map(int, clock)
    naive = datetime(  # noqa: DTZ001 - it gets its zone below
        int(year), _MONTHS.index(month.lower()) + 1, int(day), hour, minute, second
    )
    return _in_zone(naive, _zone_at(text, found.end()) or context.zone)


def _month_date(text: str, at: int, context: _Context) -> datetime | None:
    if found := _MONTH_FIRST.match(text, at):
        month, day, year = found.groups()
    elif found := _DAY_FIRST.match(text, at):
        day, month, year = found.groups()
    else:
        return None
    clock, zone = _clock_after(text, found.end(), context)
    today = _local(context.now, zone)
    midnight = datetime(int(year or today.year), _MONTHS.index(month.lower()) + 1, int(day))  # noqa: DTZ001
    moment = _in_zone(midnight + clock, zone)
    if not year and moment < context.now - timedelta(days=1):
        moment = _in_zone(midnight.replace(year=today.year + 1) + clock, zone)
    return moment


def _weekday(text: str, at: int, context: _Context) -> datetime | None:
    if not (found := _WEEKDAY.match(text, at)):
        return None
    between = _TO_DATE.match(text, found.end())
    if between and (dated := _month_date(text, between.end(), context)):
        return dated  # "Monday, Nov 23 at 9am"
    clock, zone = _clock_after(text, found.end(), context)
    today = _local(context.now, zone)
    days = (_DAYS.index(found.group(1).lower()) - today.weekday()) % 7
    moment = _on_day(today, days, clock, zone)
    return moment if moment > context.now else _on_day(today, days + 7, clock, zone)


def _relative_day(text: str, at: int, context: _Context) -> datetime | None:
    if not (found := _RELATIVE.match(text, at)):
        return None
    clock, zone = _clock_after(text, found.end(), context)
    tomorrow = found.group(1).lower() == "tomorrow" or not clock  # "today" ends at midnight
    return _on_day(_local(context.now, zone), int(tomorrow), clock, zone)


def _time_of_day(text: str, at: int, context: _Context) -> datetime | None:
    """The next such time of day."""
    if _IN.search(context.before) and _HOURS.match(text, at):
        return None  # "in 1:30:00" is a duration
    if not (found := _CLOCK.match(text, at)):
        return None
    clock, zone = _clock_of(found), _zone_at(text, found.end()) or context.zone
    today = _local(context.now, zone)
    moment = _on_day(today, 0, clock, zone)
    late = context.now - moment
    if late >= timedelta(minutes=1):
        again = _on_day(today, 0, clock, zone, fold=1)  # the hour that is repeated in autumn
        return again if again > context.now else _on_day(today, 1, clock, zone)
    # They omit the seconds: the current minute is meant, not tomorrow's.
    return moment + timedelta(minutes=1) if late >= timedelta(0) else moment


def _duration(text: str, at: int, context: _Context) -> datetime | None:
    if _IN.search(context.before) and (found := _HOURS.match(text, at)):
        hours, minutes, seconds = map(int, found.groups())
        return context.now + timedelta(hours=hours, minutes=minutes, seconds=seconds)
    found = span().match(text, at)
    if found is None or _NOT_A_WAIT.match(text, found.end()):
        return None
    return context.now + timedelta(seconds=span_seconds(found.group()))


def _bare_number(text: str, at: int, context: _Context) -> datetime | None:
    """Seconds, as in `Retry-After: 120`, or milliseconds if the key says so."""
    says_how_long = re.search(
        r"(?<![a-z])(?:in|after|delay|seconds|secs|ms)", context.before, re.IGNORECASE
    )
    found = _NUMBER.match(text, at) if says_how_long else None
    if found is None:
        return None
    scale = 0.001 if _KEY_IN_MS.search(context.before) else 1
    return context.now + timedelta(seconds=float(found.group(1)) * scale)


_FORMS: list[Callable[[str, int, _Context], datetime | None]] = [
    _epoch, _iso_date, _http_date, _month_date, _weekday, _relative_day, _time_of_day, _duration,
    _bare_number,
]  # fmt: skip


def _clock_after(text: str, at: int, context: _Context) -> tuple[timedelta, tzinfo | None]:
    """The time of day after a date, otherwise midnight, and its zone."""
    between = _TO_CLOCK.match(text, at)
    found = _CLOCK.match(text, between.end()) if between else None
    end = found.end() if found else at
    zone = _zone_at(text, end) or context.zone
    return _clock_of(found) if found else timedelta(0), zone


def _clock_of(found: re.Match[str]) -> timedelta:
    """The time since midnight. Raises `ValueError`."""
    parts = found.groupdict()
    if word := parts["word"]:
        return timedelta(hours=12 if word.lower() == "noon" else 24)
    hour, minute = (
        int(parts["hour"] or parts["hour24"]),
        int(parts["minute"] or parts["minute24"] or 0),
    )
    second = int(parts["second"] or parts["second24"] or 0)
    lowest, highest = (1, 12) if parts["half"] else (0, 24)
    if not (lowest <= hour <= highest and minute < 60 and second < 60):
        raise ValueError("not a time of day")
    if half := parts["half"]:
        hour = hour % 12 + (12 if half.lower() == "p" else 0)
    return timedelta(hours=hour, minutes=minute, seconds=second)


def _zone_at(text: str, at: int) -> tzinfo | None:
    found = _ZONE.match(text, at)
    return find_zone(next(_groups(found), None)) if found else None


def _groups(found: re.Match[str]) -> Iterator[Any]:
    return (group for group in found.groups() if group)


def _local(now: datetime, zone: tzinfo | None) -> datetime:
    """The time there, without a zone."""
    return now.astimezone(zone).replace(tzinfo=None)


def _on_day(
    today: datetime, days: int, clock: timedelta, zone: tzinfo | None, *, fold: int = 0
) -> datetime:
    midnight = today.replace(hour=0, minute=0, second=0, microsecond=0, fold=0)
    return _in_zone(midnight + timedelta(days=days) + clock, zone, fold=fold)


def _in_zone(naive: datetime, zone: tzinfo | None, *, fold: int = 0) -> datetime:
    """The time in UTC, by the rules of the zone on that day."""
    return naive.replace(tzinfo=zone, fold=fold).astimezone(UTC)
