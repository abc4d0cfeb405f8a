"""The wording of states and changes of tasks."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from clinvk.text.sanitize import one_line

if TYPE_CHECKING:
    from clinvk.model.progress import Change


def describe_change(change: Change) -> str | None:
    """A line for a change of a task that is worth reporting; otherwise empty."""
    o = change.outcome
    if change.kind == "retry" and o and change.until:
        why = o.error.message if o.error else ""
        return f"{one_line(o.name)}: {one_line(why)[:120]}; retrying at {_clock(change.until)}"
    if change.kind == "limit" and o and change.until:
        then = change.instead or f"no tasks will start on it until {_clock(change.until)}"
        return f"{o.backend}: rate limit reached; {then}"
    if change.kind == "notice" and o:
        return f"{one_line(o.name)}: {one_line(change.message)}"
    if change.kind == "event" and o and change.event and change.event.type == "notice":
        return f"{one_line(o.name)}: {one_line(getattr(change.event, 'message', ''))[:200]}"
    return None


def _clock(moment: datetime) -> str:
    local = moment.astimezone()
    today = local.date() == datetime.now().astimezone().date()
    return local.strftime("%H:%M:%S" if today else "%d %b %H:%M")
