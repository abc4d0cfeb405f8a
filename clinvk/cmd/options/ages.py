"""How long ago: `--older-than 30d`."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from clinvk.errors import UsageError

EARLIEST = datetime(1970, 1, 1, tzinfo=UTC)
_AGE = re.compile(r"(\d+)([dhw]?)")
_UNITS = {"": "days", "d": "days", "h": "hours", "w": "weeks"}


def parse_age(text: str | None, retention_days: int) -> tuple[timedelta | None, str]:
    """An age and how to say it; nothing where nothing is ever old enough. Raises `UsageError`."""
    if text is None:
        if retention_days <= 0:
            return None, "never"
        text = str(retention_days)
    found = _AGE.fullmatch(text.strip())
    if not found:
        raise UsageError(f"--older-than: {text!r} is no age", "say 30 or 30d (days), 12h, or 2w")
    count, unit = int(found.group(1)), _UNITS[found.group(2)]
    words = f"{count} {unit if count != 1 else unit[:-1]}"
    try:
        return timedelta(**{unit: count}), words
    except OverflowError:
        raise UsageError(f"--older-than: {text!r} is too long an age") from None


def time_before(age: timedelta) -> datetime:
    """That long ago; nothing is older than the first moment there is."""
    now = datetime.now(UTC)
    return now - min(age, now - EARLIEST)
