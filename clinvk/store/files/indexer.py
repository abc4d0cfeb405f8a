"""What the index knows of the files: read into it, and compared with it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable

from clinvk.errors import SessionError, SessionNotFound
from clinvk.model.session import Session
from clinvk.store.files.records import SessionFiles, TimeAndSize, contents
from clinvk.store.index import Index

BATCH = 2_000  # sessions that are read at a time when the index is made anew

Progress = Callable[[int, int], None]


def fill(index: Index, files: SessionFiles, progress: Progress) -> int:
    """Read everything into an empty index; how many sessions there are. `progress` is told (done,
    all)."""
    ids = files.ids()
    for start in range(0, len(ids), BATCH):
        progress(start, len(ids))
        take_in(index, files, ids[start : start + BATCH])
    progress(len(ids), len(ids))
    return len(ids)


def compare(index: Index, files: SessionFiles, marks: list[str]) -> None:
    """See to what is new, changed or gone since; of the marked ones, which may have changed
    unnoticed, to all."""
    known, seen = index.known(), files.stats()
    index.remove(known.keys() - seen.keys())
    written = tuple(mark[:-1] for mark in marks if mark.endswith("*"))
    for id_, stat in seen.items():
        if known.get(id_) != stat or id_ in marks or id_.startswith(written):
            look_again(index, files, id_, stat)


def look_again(index: Index, files: SessionFiles, id_: str, stat: TimeAndSize) -> None:
    """Tell the index of a session; `stat` is what its record was seen to be."""
    try:
        put(index, files, files.read(id_))
    except SessionNotFound:
        index.remove([id_])
    except SessionError as error:
        index.put_damaged(id_, error.message, mtime=stat[0], size=stat[1])


def put(index: Index, files: SessionFiles, session: Session) -> None:
    """The session and the words that its transcript has gained."""
    stat = os.stat(files.record(session.id))
    before = index.title(session.id)
    index.put(session, mtime=stat.st_mtime_ns, size=stat.st_size)
    try:
        size = os.stat(files.transcript(session.id)).st_size
    except FileNotFoundError:
        size = 0
    done = index.indexed(session.id)
    if done > size or before != session.title:
        index.forget_words(session.id)
        done = 0
    if size > done or before != session.title:
        index.add_words(session, files.messages(session.id, done), upto=size)


def take_in(index: Index, files: SessionFiles, ids: Iterable[str]) -> None:
    """Read sessions that the index does not know into it."""
    rows, said = [], []
    for id_ in ids:
        try:
            stat = os.lstat(files.record(id_))
        except FileNotFoundError:
            continue  # deleted meanwhile
        try:
            session = files.read(id_)
        except SessionNotFound:
            continue
        except SessionError as error:
            index.put_damaged(id_, error.message, mtime=stat.st_mtime_ns, size=stat.st_size)
            continue
        data = files.said(id_)
        rows.append((session, stat.st_mtime_ns, stat.st_size, len(data)))
        said.append((session, list(contents(data))))
    index.put_many(rows)
    index.add_many(said)
