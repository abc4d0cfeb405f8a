"""How states and changes of tasks are put into words."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from clinvk.text.sanitize import one_line

if TYPE_CHECKING:
    from clinvk.model.progress import Change


def describe_change(change: Change) -> str | None:
    """What is worth a line of what happened to a task on its way; nothing else."""
    o = change.outcome
    if change.kind == "retry" and o and change.until:
        why = o.error.message if o.error else ""
        return f"{one_line(o.name)}: {one_line(why)[:120]}; again at {_clock(change.until)}"
    if change.kind == "limit" and o and change.until:
        then = change.instead or f"nothing is started there until {_clock(change.until)}"
        return f"{o.backend}: limit reached; {then}"
    if change.kind == "notice" and o:
        return f"{one_line(o.name)}: {one_line(change.message)}"
    if change.kind == "event" and o and change.event and change.event.type == "notice":
        return f"{one_line(o.name)}: {one_line(getattr(change.event, 'message', ''))[:200]}"
    return None


def _clock(moment: datetime) -> str:
    local = moment.astimezone()
    today = local.date() == datetime.now().astimezone().date()
    return local.strftime("%H:%M:%S" if today else "%d %b %H:%M")
