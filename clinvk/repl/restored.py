"""What is restored of a session that is resumed."""

from __future__ import annotations

from clinvk.disk.sizes import format_size
from clinvk.model.session import Message, Session
from clinvk.text.sanitize import one_line


def describe_restored(session: Session, messages: list[Message]) -> str:
    """A sentence: its messages, how much text they are, and the last one."""
    last = f"{messages[-1].role.value}: {one_line(messages[-1].content)[:60]}" if messages else "-"
    context = sum(len(m.content.encode("utf-8", "replace")) for m in messages)
    size = format_size(context)
    return f"session {session.id}: {len(messages)} messages, {size} of text; last {last}"
