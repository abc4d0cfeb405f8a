"""The excerpt of a session that a search shows: where the words were found."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress

from clinvk.errors import SessionError
from clinvk.model.session import Message, Session
from clinvk.store.base import Hit
from clinvk.store.search_text import comparable_text, comparable_word, normalize_text

EXCERPT_CONTEXT = 60  # characters of context on each side


def build_hit(
    session: Session, messages: list[Message], words: list[str], role: str | None, score: float
) -> Hit:
    """An excerpt of the message that contains most of the words; the title if none does."""
    folded = [normalize_text(w) for w in words]
    best, most = None, 0
    for message in messages:
        if role in (None, message.role):
            text = normalize_text(message.content)
            found = sum(w in text for w in folded)
            if found > most:
                best, most = message, found
    if best is None or (session.title and not most):
        text = session.title or session.prompt or ""
        return Hit(session=session, role=None, text=text, words=tuple(words), score=score)
    text = cut_excerpt(best.content, folded)
    return Hit(session=session, role=str(best.role), text=text, words=tuple(words), score=score)


def build_hits(
    ranked: Iterable[tuple[str, float]],
    get: Callable[[str], Session],
    messages: Callable[[str], list[Message]],
    words: list[str],
    role: str | None,
) -> list[Hit]:
    """The hits of sessions that an index has found, in its order."""
    found = []
    for session_id, score in ranked:
        with suppress(SessionError):  # just deleted or damaged
            found.append(build_hit(get(session_id), messages(session_id), words, role, score))
    return found


def cut_excerpt(content: str, words: list[str]) -> str:
    """A piece of the text around the first of the words, on one line."""
    folded = normalize_text(content)
    at = min((i for w in words if (i := folded.find(w)) >= 0), default=0)
    start, end = max(0, at - EXCERPT_CONTEXT), at + 2 * EXCERPT_CONTEXT
    piece = " ".join(content[start:end].split())
    return ("…" if start else "") + piece + ("…" if end < len(content) else "")


def scan_sessions(
    sessions: Iterable[Session],
    messages: Callable[[str], list[Message]],
    words: list[str],
    role: str | None,
    limit: int,
) -> list[Hit]:
    """A search without an index: sessions that contain all the words, by frequency."""
    folded = [comparable_word(w) for w in words]
    found = []
    for session in sessions:
        said = messages(session.id)
        text = "\n".join(m.content for m in said if role in (None, m.role))
        text = comparable_text(text if role else f"{session.title or ''}\n{text}")
        if all(w in text for w in folded):
            found.append(build_hit(session, said, words, role, float(sum(map(text.count, folded)))))
    return sorted(found, key=lambda h: -h.score)[:limit]
