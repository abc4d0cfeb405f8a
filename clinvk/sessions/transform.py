"""Operations on conversations without a store: branch, merge, statistics.

A conversation here is a `Session` with its `messages`. Nothing is changed in place: results are
new.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from heapq import merge as in_order
from itertools import pairwise, takewhile
from typing import Any

from msgspec.structs import replace

from clinvk.errors import SessionError, UsageError
from clinvk.model.session import Message, MessageRole, Session, count_roles, new_id, prompt_excerpt

STRATEGIES = ("chronological", "smart", "manual")

MessageRef = tuple[str, int]  # the id of a session, and the index of a message in it


def with_messages(session: Session, messages: Iterable[Message]) -> Session:
    """The session with these messages, and with a record that matches."""
    messages = list(messages)
    asked = next((m.content for m in messages if m.role is MessageRole.USER), None)
    prompt = session.prompt if asked is None else prompt_excerpt(asked)
    return replace(session, messages=messages, counts=count_roles(messages), prompt=prompt)


def branch(source: Session, at: int | None = None, title: str | None = None) -> Session:
    """A new conversation with the messages of `source` up to and including message `at`; by default
    all of them. Negative indexes count from the end. Raises `SessionError`."""
    last = len(source.messages) - 1 if at is None else resolve_index(source, at)
    metadata = _own_metadata(source) | {"branched_from": source.id, "branched_at": last}
    new = _derive_session(source, (source.id,), metadata, title)
    return with_messages(new, source.messages[: last + 1])


def merge(
    primary: Session,
    secondary: Session,
    strategy: str = "chronological",
    *,
    order: Iterable[MessageRef] | None = None,
    title: str | None = None,
) -> Session:
    """A new conversation of both, with their common beginning once.

    chronological: message by message, by time.
    smart: a question stays with its answers, and an exchange in both appears once.
    manual: the messages of `order`, and no others; without it, the primary's before the rest.

    Settings and title are the primary's. Raises `UsageError` for an invalid strategy,
    `SessionError` for an order with unknown or duplicate messages."""
    if strategy not in STRATEGIES:
        raise UsageError(f"invalid strategy {strategy!r}", f"valid: {', '.join(STRATEGIES)}")
    if order is not None and strategy != "manual":
        raise UsageError(f"an order cannot be used with {strategy!r}", "use the strategy manual")
    if order is None:
        messages = _STRATEGIES[strategy](primary.messages, secondary.messages)
    else:
        messages = _in_given_order(primary, secondary, list(order))
    parents = (primary.id, secondary.id)
    note = {"merged_from": list(parents), "merge_strategy": strategy}
    new = _derive_session(
        primary, parents, _own_metadata(secondary) | _own_metadata(primary) | note, title
    )
    return with_messages(new, messages)


def stats(session: Session) -> dict[str, Any]:
    """Statistics of a conversation; None for what is unknown. `total_tokens` is the number that the
    backends reported, otherwise the sum of the messages. Times are in seconds."""
    said = session.messages
    times = [m.timestamp for m in said]
    counts = {role.value: 0 for role in MessageRole} | count_roles(said)
    waits = [_seconds(b.timestamp - a.timestamp) for a, b in pairwise(said) if _is_answer_to(a, b)]
    words = {role: sum(len(m.content.split()) for m in said if m.role == role) for role in counts}
    return {
        "message_count": len(said),
        "user_messages": counts["user"],
        "assistant_messages": counts["assistant"],
        "system_messages": counts["system"],
        "user_assistant_ratio": _ratio(counts["user"], counts["assistant"]),
        "turns": session.turns,
        "total_tokens": session.usage.total if session.usage else _sum_tokens(said),
        "cost": session.cost,
        "words": sum(words.values()),
        "words_by_role": words,
        "characters": sum(len(m.content) for m in said),
        "avg_message_length": _ratio(sum(len(m.content) for m in said), len(said)),
        "avg_response_time": _ratio(sum(waits), len(waits)),
        "max_response_time": max(waits, default=None),
        "first_message_at": min(times, default=None),
        "last_message_at": max(times, default=None),
        "duration": _seconds(max(times) - min(times)) if times else None,
    }


def common_prefix_length(a: Sequence[Message], b: Sequence[Message]) -> int:
    """The number of common messages at the beginning: same text and role, ignoring times."""
    return sum(
        1
        for _ in takewhile(
            lambda pair: _content_key(pair[0]) == _content_key(pair[1]), zip(a, b, strict=False)
        )
    )


def _derive_session(
    source: Session, parents: tuple[str, ...], metadata: dict[str, Any], title: str | None
) -> Session:
    """A session with the settings of `source`, without native sessions."""
    return Session(
        id=new_id(),
        backend=source.backend,
        model=source.model,
        cwd=source.cwd,
        started_in=source.started_in,
        title=title or source.title,
        tags=source.tags,
        began_with=source.began_with,
        options=source.options,
        options_trusted=source.options_trusted,
        template=source.template,
        metadata=metadata,
        parents=parents,
    )


def _own_metadata(session: Session) -> dict[str, Any]:
    """Its metadata, without its own origin."""
    origin = ("branched_from", "branched_at", "merged_from", "merge_strategy")
    return {k: v for k, v in session.metadata.items() if k not in origin}


def resolve_index(session: Session, at: int) -> int:
    """`at` as an index from the beginning. Raises `SessionError` if there is no such message."""
    count = len(session.messages)
    if not -count <= at < count:
        there = f"it has {count}: 0 to {count - 1}" if count else "it has none"
        raise SessionError(f"session {session.id} has no message {at}", there)
    return at % count


# Merging.


def _chronological(a: list[Message], b: list[Message]) -> list[Message]:
    """By time; each side keeps its own order, whatever its times are."""
    n = common_prefix_length(a, b)
    return [*a[:n], *in_order(a[n:], b[n:], key=lambda m: m.timestamp)]


def _smart(a: list[Message], b: list[Message]) -> list[Message]:
    n = common_prefix_length(a, b)
    merged = a[:n]
    heard = (
        {_normalized_key(m) for m in merged},
        {_normalized_key(m) for m in merged},
    )  # by each side
    sides = [[(side, e) for e in _exchanges(rest)] for side, rest in enumerate((a[n:], b[n:]))]
    for side, exchange in in_order(*sides, key=lambda pair: pair[1][0].timestamp):
        gists = {_normalized_key(m) for m in exchange}
        if not gists <= heard[1 - side]:  # a repetition within one side does not count
            merged += exchange
            heard[side].update(gists)
    return merged


def _concatenate(a: list[Message], b: list[Message]) -> list[Message]:
    return [*a, *b[common_prefix_length(a, b) :]]


_STRATEGIES: dict[str, Callable[[list[Message], list[Message]], list[Message]]] = {
    "chronological": _chronological,
    "smart": _smart,
    "manual": _concatenate,
}


def _in_given_order(a: Session, b: Session, order: list[MessageRef]) -> list[Message]:
    by_id = {a.id: a, b.id: b}
    if strangers := {session_id for session_id, _ in order} - by_id.keys():
        raise SessionError(
            f"the order names session {min(strangers)}", f"these are merged: {a.id}, {b.id}"
        )
    places = [(session_id, resolve_index(by_id[session_id], at)) for session_id, at in order]
    if twice := next((p for p in places if places.count(p) > 1), None):
        raise SessionError(f"the order names message {twice[1]} of session {twice[0]} twice")
    return [by_id[session_id].messages[at] for session_id, at in places]


def _exchanges(messages: list[Message]) -> list[list[Message]]:
    """The messages grouped: each prompt with everything up to the next one."""
    found: list[list[Message]] = []
    for message in messages:
        if message.role is MessageRole.USER or not found:
            found.append([])
        found[-1].append(message)
    return found


def _content_key(message: Message) -> tuple[MessageRole, str]:
    return message.role, message.content


def _normalized_key(message: Message) -> tuple[MessageRole, str]:
    """The key for detecting repeats: white space and case are ignored."""
    return message.role, " ".join(message.content.split()).casefold()


# Statistics.


def _is_answer_to(a: Message, b: Message) -> bool:
    return a.role is MessageRole.USER and b.role is MessageRole.ASSISTANT


def _seconds(span: timedelta) -> float:
    return max(0.0, span.total_seconds())


def _ratio(a: float, b: float) -> float | None:
    return a / b if b else None


def _sum_tokens(messages: list[Message]) -> int | None:
    """The sum of the known values; None if there are none."""
    known = [m.tokens for m in messages if m.tokens is not None]
    return sum(known) if known or not messages else None
