"""Read the files into the index, and compare them with it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable

from clinvk.errors import SessionError, SessionNotFound
from clinvk.model.session import Session
from clinvk.store.files.records import SessionFiles, TimeAndSize, message_contents
from clinvk.store.index import Index

BATCH = 2_000  # sessions that are read at a time when the index is rebuilt

Progress = Callable[[int, int], None]


def index_all(index: Index, files: SessionFiles, progress: Progress) -> int:
    """Read everything into an empty index; return the number of sessions. `progress` is called with
    (done, total)."""
    ids = files.ids()
    for start in range(0, len(ids), BATCH):
        progress(start, len(ids))
        index_new(index, files, ids[start : start + BATCH])
    progress(len(ids), len(ids))
    return len(ids)


def index_changes(index: Index, files: SessionFiles, marks: list[str]) -> None:
    """Index what was added, changed or deleted since; and all marked sessions, which may have
    changed unnoticed."""
    known, seen = index.record_stats(), files.stats()
    index.remove(known.keys() - seen.keys())
    written = tuple(mark[:-1] for mark in marks if mark.endswith("*"))
    for session_id, stat in seen.items():
        if known.get(session_id) != stat or session_id in marks or session_id.startswith(written):
            reindex_session(index, files, session_id, stat)


def reindex_session(index: Index, files: SessionFiles, session_id: str, stat: TimeAndSize) -> None:
    """Index a session; `stat` is the state of its record."""
    try:
        index_session(index, files, files.read(session_id))
    except SessionNotFound:
        index.remove([session_id])
    except SessionError as error:
        index.put_damaged(session_id, error.message, mtime=stat[0], size=stat[1])


def index_session(index: Index, files: SessionFiles, session: Session) -> None:
    """Index the session and the new words of its transcript."""
    stat = os.stat(files.record_path(session.id))
    before = index.title(session.id)
    index.put(session, mtime=stat.st_mtime_ns, size=stat.st_size)
    try:
        size = os.stat(files.transcript_path(session.id)).st_size
    except FileNotFoundError:
        size = 0
    done = index.indexed_bytes(session.id)
    if done > size or before != session.title:
        index.forget_words(session.id)
        done = 0
    if size > done or before != session.title:
        index.add_words(session, files.messages(session.id, done), upto=size)


def index_new(index: Index, files: SessionFiles, session_ids: Iterable[str]) -> None:
    """Add unknown sessions to the index."""
    rows, said = [], []
    for session_id in session_ids:
        try:
            stat = os.lstat(files.record_path(session_id))
        except FileNotFoundError:
            continue  # deleted meanwhile
        try:
            session = files.read(session_id)
        except SessionNotFound:
            continue
        except SessionError as error:
            index.put_damaged(session_id, error.message, mtime=stat.st_mtime_ns, size=stat.st_size)
            continue
        data = files.read_transcript(session_id)
        rows.append((session, stat.st_mtime_ns, stat.st_size, len(data)))
        said.append((session, list(message_contents(data))))
    index.put_many(rows)
    index.add_words_of_many(said)
