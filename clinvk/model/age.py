"""Ages: `--older-than 30d`, and the same from Python."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from clinvk.errors import UsageError

EARLIEST = datetime(1970, 1, 1, tzinfo=UTC)
_AGE = re.compile(r"(\d+)([dhw]?)")
_UNITS = {"": "days", "d": "days", "h": "hours", "w": "weeks"}

Age = timedelta | int | str  # a number is in days; texts are as on the command line


def parse_age(
    text: str | None, retention_days: int, name: str = "--older-than"
) -> tuple[timedelta | None, str]:
    """An age, and its wording; without a text, that of `retention_days`; None if nothing is ever
    old enough. Raises `UsageError`, which refers to the text by `name`."""
    if text is None:
        if retention_days <= 0:
            return None, "never"
        text = str(retention_days)
    found = _AGE.fullmatch(text.strip())
    if not found:
        raise UsageError(f"{name}: invalid age {text!r}", "use e.g. 30 or 30d (days), 12h or 2w")
    count, unit = int(found.group(1)), _UNITS[found.group(2)]
    words = f"{count} {unit if count != 1 else unit[:-1]}"
    try:
        return timedelta(**{unit: count}), words
    except OverflowError:
        raise UsageError(f"{name}: {text!r} is too long an age") from None


def moment_of(older_than: Age | None, retention_days: int) -> datetime | None:
    """The time before which something is older than that, or than `retention_days`; None if nothing
    is ever old enough. Raises `UsageError`."""
    if isinstance(older_than, timedelta):
        if older_than < timedelta(0):
            raise UsageError(f"older_than: {older_than} is below 0")
        return time_before(older_than)
    text = None if older_than is None else str(older_than)
    age, _ = parse_age(text, retention_days, "older_than")
    return None if age is None else time_before(age)


def time_before(age: timedelta) -> datetime:
    """The time that long ago, at the earliest the first possible one."""
    now = datetime.now(UTC)
    return now - min(age, now - EARLIEST)
