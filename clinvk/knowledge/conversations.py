"""The passages of earlier sessions that match a prompt best."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from clinvk.disk.lockfile import hold_lock
from clinvk.disk.waiting import WouldWait
from clinvk.errors import SessionError
from clinvk.knowledge.found import CANDIDATES, choose
from clinvk.knowledge.index import Document, Match, Progress, delete_index, no_progress, open_index
from clinvk.knowledge.part import Part, kilobytes, plural
from clinvk.knowledge.passages import HEADING_LENGTH, Passage, split_passages
from clinvk.knowledge.query import match_of
from clinvk.model.session import Message, MessageRole, Session
from clinvk.store.base import Query, Store
from clinvk.text.redact import redact
from clinvk.text.sanitize import one_line

PATIENCE = 5.0  # seconds to wait for another process before a deletion skips the index
SPOKEN = (MessageRole.USER, MessageRole.ASSISTANT)


def conversations_part(
    home: Path,
    store: Store,
    storage: str,
    current: str | None,
    prompt: str,
    progress: Progress = no_progress,
    *,
    writes: bool = True,
) -> Part:
    """The passages of all sessions but the `current` one, and those of tasks. `storage` is the
    address of the store. Unless it `writes`, the index is not changed. Raises `ClinvkError`."""
    match = match_of(prompt)
    if match is None:
        return Part([], "knowledge: the prompt has no words to search for")
    sessions = {
        found.id: found
        for found in store.select(Query(tasks=False))
        if isinstance(found, Session) and any(found.counts.values())
    }

    def read(document: Document) -> Iterator[Passage]:
        with suppress(SessionError):  # just deleted, or damaged
            for number, question, text in _exchanges(store.messages(document.name)):
                for passage in split_passages(redact(text), ""):
                    yield Passage(number, question, passage.text)

    with open_index(_path(home, storage), writes=writes) as index:
        documents = [Document(name, _stamp(session)) for name, session in sessions.items()]
        count = index.update(documents, read, progress)
        matches = index.search(match, CANDIDATES, without=current)
    pieces, used, size = choose(matches, lambda found: _describe(found, sessions))
    others = len(sessions) - (current in sessions)
    read_now = "" if count == len(sessions) else f", {count:,} of them new or changed"
    if not pieces:
        return Part(
            [], f"knowledge: nothing in {plural(others, 'earlier session')} matches the prompt"
        )
    return Part(
        pieces,
        f"knowledge: {plural(len(pieces), 'passage')} of {plural(used, 'earlier session')} added before "
        f"the prompt ({kilobytes(size)}); searched {plural(others, 'session')}{read_now}",
    )


def forget_conversations(home: Path, ids: Iterable[str]) -> None:
    """Remove what the indexes have of sessions that were deleted. An index that cannot be changed
    is deleted, since it can be rebuilt."""
    names = list(ids)
    for path in (home / "knowledge").glob("sessions-*.db") if names else ():
        try:
            with open_index(path, timeout=PATIENCE) as index:
                index.forget(names)
        except WouldWait:  # the next update of the index removes them
            continue
        except SessionError:
            with (
                suppress(OSError, SessionError, WouldWait),
                hold_lock(f"{path}.lock", timeout=PATIENCE),
            ):
                delete_index(path)


def _path(home: Path, storage: str) -> Path:
    name = hashlib.sha256(storage.encode("utf-8", "surrogateescape")).hexdigest()[:16]
    return home / "knowledge" / f"sessions-{name}.db"


def _stamp(session: Session) -> str:
    return f"{session.updated_at.timestamp()} {sum(session.counts.values())}"


def _exchanges(messages: list[Message]) -> Iterator[tuple[int, str, str]]:
    """The prompts of the user, each with the answers to it: the number of the message, the
    beginning of the prompt, and all of the text."""
    begin, question = 0, ""
    texts: list[str] = []
    for number, message in enumerate(messages, 1):
        if message.role is MessageRole.USER:
            if texts:
                yield begin, question, "\n\n".join(texts)
            begin, question, texts = number, redact(message.content)[:HEADING_LENGTH], []
        if message.role in SPOKEN:
            texts.append(f"{message.speaker}: {message.content}")
    if texts:
        yield begin or 1, question, "\n\n".join(texts)


def _describe(match: Match, sessions: dict[str, Session]) -> str:
    session = sessions[match.name]
    where = f" in {session.cwd}" if session.cwd else ""
    return one_line(
        f"from message {match.passage.line} of the session {match.name}, "
        f"{session.updated_at:%Y-%m-%d}{where}: {session.label[:80]}"
    )
