"""Values that a rule finds in a line, as the types of an event's fields."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import datetime
from typing import Any

from msgspec import UNSET
from msgspec.structs import replace

from clinvk.backend.expression import is_truthy
from clinvk.model.events import Event
from clinvk.model.usage import Usage, token_count


def convert_values(cls: type[Event], values: Any) -> dict[str, Any]:
    """The values of the event's fields, converted to their types."""
    fitted = {}
    for name, value in values.items() if isinstance(values, dict) else ():
        if value is None or name not in cls.__struct_fields__:
            continue
        convert = converter_of(cls, name)
        fitted[name] = convert(value) if convert else value
    return fitted


def converter_of(cls: type[Event], name: str) -> Callable[[Any], Any] | None:
    return _CONVERT.get((cls.type, name)) or _CONVERT.get(("", name))


def has_needed_types(emit: str, values: dict[str, Any]) -> bool:
    """Whether the fields without which the event means nothing have been found, with their types."""
    if emit in ("delta", "text"):
        return isinstance(values.get("text"), str)
    if emit == "started" and "native_id" in values:
        return isinstance(values["native_id"], (str, int))
    return True


def to_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def to_int(value: Any) -> int | None:
    return int(value) if _is_number(value) and abs(value) < 1e15 else None


def _to_time(value: Any) -> datetime | None:
    """A time from seconds or milliseconds since 1970, or from RFC 3339."""
    # Only for a rate limit that names a time.
    from datetime import UTC

    try:
        if _is_number(value) or re.fullmatch(r"\d{9,}(\.\d+)?", str(value)):
            seconds = float(value)
            return datetime.fromtimestamp(seconds / 1000 if seconds > 1e11 else seconds, UTC)
        moment = datetime.fromisoformat(str(value))
        return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    except (ValueError, OverflowError, OSError):
        return None


def to_usage(figures: Any) -> Usage | None:
    """Usage as a rule sets it, with thinking tokens, which a CLI left out if its total exceeds input
    and output; None if no figure is known."""
    if not isinstance(figures, dict):
        return None
    usage, total = Usage.from_json(figures), token_count(figures.get("total"))
    if usage.is_unknown:
        return None
    if total is None or usage.output is None or usage.total is None:
        return usage
    thoughts = max(0, total - usage.total)
    if not thoughts and "reasoning" in figures:
        return usage
    return replace(
        usage, output=usage.output + thoughts, reasoning=(usage.reasoning or 0) + thoughts
    )


_CONVERT: dict[tuple[str, str], Callable[[Any], Any]] = {
    ("", "text"): to_text,
    ("", "message"): to_text,
    ("", "name"): to_text,
    ("", "id"): to_text,
    ("", "native_id"): to_text,
    ("", "model"): to_text,
    ("", "reason"): to_text,
    ("", "hint"): to_text,
    ("", "ok"): bool,
    ("", "reached"): bool,
    ("", "window"): to_text,
    ("", "ended"): is_truthy,
    ("", "retrying"): is_truthy,
    ("", "incomplete"): lambda value: to_text(value) if is_truthy(value) else UNSET,
    ("", "turns"): to_int,
    ("", "retry_at"): _to_time,
    ("", "status"): to_int,
}
