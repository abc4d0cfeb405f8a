"""Earlier conversations as part of a prompt: a hand-over, a history."""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import Struct

from clinvk.model.session import Message, MessageRole, Session

MAX_BYTES = 100_000  # maximum bytes that are carried over, newest first


class Handover(Struct, frozen=True):
    """A prompt with earlier conversations, and the notice that tells the user how much was
    added."""

    text: str
    notice: str


def hand_over(messages: list[Message], prompt: str, source: str, target: str) -> Handover | None:
    """The prompt after the messages that `target` has not seen; None if it has seen them all."""
    if not messages:
        return None
    text, used, size = format_newest(messages, MAX_BYTES)
    left_out = len(messages) - used
    missing = f" The first {left_out} messages are omitted." if left_out else ""
    whole = (
        f"Below is a conversation between a user and an AI assistant.{missing} Each answer names the "
        "backend that gave it, if it is known. "
        "Continue it as if it had been yours, and answer the user's last message.\n\n"
        f"{text}\n\n# User (now)\n\n{prompt}"
    )
    if source == target:  # it has lost its own session, or has none yet
        told = (
            f"sending {target} the last {used} of {len(messages)} messages ({size / 1000:.1f} KB)"
        )
        return Handover(whole, told)
    told = (
        f"handing {used} of {len(messages)} messages ({size / 1000:.1f} KB) over "
        f"from {source} to {target}"
    )
    return Handover(whole, told)


def unseen_messages(messages: list[Message], backend: str) -> list[Message]:
    """The messages since the backend's last answer; all of them if there is none."""
    last = max(
        (i for i, m in enumerate(messages) if m.metadata.get("backend") == backend), default=-1
    )
    return [m for m in messages[last + 1 :] if m.role is not MessageRole.SYSTEM]


def history(conversations: Iterable[tuple[Session, list[Message]]], prompt: str) -> Handover | None:
    """The prompt after earlier conversations, as many of the newest as fit, in chronological
    order."""
    parts: list[str] = []
    room, count = MAX_BYTES, 0
    for session, messages in conversations:
        text, used, size = format_newest(messages, room)
        if not used:
            break
        room -= size
        count += 1
        parts.insert(0, f"# Conversation of {session.updated_at:%Y-%m-%d %H:%M} UTC\n\n{text}")
    if not parts:
        return None
    whole = (
        "Earlier conversations of the user in this directory, as background:\n\n"
        + "\n\n".join(parts)
        + f"\n\n# User (now)\n\n{prompt}"
    )
    told = f"{count} earlier session{'s' * (count > 1)} added before the prompt ({(MAX_BYTES - room) / 1000:.1f} KB)"
    return Handover(whole, told)


def format_newest(messages: list[Message], limit: int) -> tuple[str, int, int]:
    """The newest messages that fit as text, their number, and their size in bytes. The oldest of
    them may be cut to its end, which is what the next one answers."""
    parts: list[str] = []
    size = 0
    for message in reversed(messages):
        part = f"## {message.speaker}\n\n{message.content.strip()}"
        data = part.encode("utf-8", "replace")
        if size + len(data) > limit:
            if not parts:  # even the newest alone is too long
                parts.append("## (cut)\n\n…" + data[-limit:].decode("utf-8", "ignore"))
                size = limit
            break
        parts.append(part)
        size += len(data)
    return "\n\n".join(reversed(parts)), len(parts), size
