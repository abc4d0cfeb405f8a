"""Sessions in one SQLite file: `sqlite:////absolute/path`, or `sqlite:///relative/path`.

What is acknowledged is on disk, so that neither `kill -9` nor a power cut
takes it back. Turns are locked files in `PATH.locks`: the kernel frees them when their process
dies, which a row in the database, a lease, could only do when its time is over.

The words of a deleted session stay in the full-text table, where nothing leads to them, until
`reindex` makes that anew and gives the room back.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from clinvk.errors import SessionError
from clinvk.session import Message, Session, check_id, new_id
from clinvk.store import Change, Damaged, Hit, Query
from clinvk.store.database import BUSY, Database, no_folder
from clinvk.store.files import FileTurn, is_private
from clinvk.store.index import words_of
from clinvk.store.locks import Locks
from clinvk.store.records import as_kept, encode, is_running, left_behind, session_of, taken
from clinvk.store.search import hits

Progress = Callable[[int, int], None]


class SqliteStore:
    def __init__(self, path: Path) -> None:
        self.path = path
        self._locks = Locks(Path(f"{path}.locks"))
        self._mine = threading.local()  # SQLite's connections stay in the thread that made them

    def create(
        self,
        session: Session,
        messages: Iterable[Message] = (),
        *,
        exact: bool = False,
        durable: bool = True,
        settled: bool = True,  # noqa: ARG002 - what is written is settled
    ) -> Session:
        check_id(session.id)
        with self._writing(durable=durable) as database:
            while _is_taken(database, session.id):
                if exact:
                    raise taken(session.id)
                session = replace(session, id=new_id())
            _keep(database, session, messages)
        return session

    def get(self, id: str) -> Session:  # noqa: A002
        check_id(id)
        with self._reading() as database:
            return self._session(database, id)

    def update(
        self,
        id: str,  # noqa: A002
        change: Change,
        *,
        durable: bool = True,
        settled: bool = True,  # noqa: ARG002
    ) -> Session:
        check_id(id)
        with self._writing(durable=durable) as database:
            return _keep(database, change(self._session(database, id)))

    def append(
        self,
        id: str,  # noqa: A002
        messages: Iterable[Message],
        change: Change,
        *,
        settled: bool = True,  # noqa: ARG002
    ) -> Session:
        check_id(id)
        with self._writing() as database:
            return _keep(database, change(self._session(database, id)), messages)

    def settle(self, ids: Iterable[str]) -> None:
        """What is appended is on disk."""

    def rewrite(self, id: str, messages: Iterable[Message], change: Change) -> Session:  # noqa: A002
        check_id(id)
        with self._writing() as database:
            session = change(self._session(database, id))
            database.unsay(id)
            return _keep(database, session, messages)

    def messages(self, id: str) -> list[Message]:  # noqa: A002
        check_id(id)
        with self._reading() as database:
            return database.messages(id)

    def size(self, id: str) -> int:  # noqa: A002
        check_id(id)
        with self._reading() as database:
            return database.size(id)

    def select(self, query: Query) -> list[Session | Damaged]:
        with self._reading() as database:
            return [found for found, *_ in database.select(query)]

    def count(self, query: Query) -> int:
        with self._reading() as database:
            return database.count(replace(query, limit=None))

    def matching(self, text: str, limit: int = 11) -> list[str]:
        with self._reading() as database:
            return database.matching(text, limit)

    def owners(self, backend: str | None, native_id: str) -> list[str]:
        with self._reading() as database:
            pairs = database.owners(native_id)
        return [id_ for name, id_ in pairs if backend in (None, name)]

    def search(self, text: str, *, role: str | None = None, limit: int = 20) -> list[Hit]:
        words = words_of(text)
        if not words:
            return []
        with self._reading() as database:
            ranked = database.search(words, role, limit)
        return hits(ranked, self.get, self.messages, words, role)

    def reindex(self, progress: Progress = lambda _done, _all: None) -> int:
        with self._writing() as database:
            count = database.index_anew(str(self.path), progress)
        with self._reading() as database, suppress(sqlite3.OperationalError):  # others are there
            database.db.execute("VACUUM")
        return count

    def delete(self, id: str) -> None:  # noqa: A002
        check_id(id)
        with self._reading() as database:
            database.record(id)
        turn = self.turn(id)
        if turn is None:
            raise is_running(id)
        if turn.left:
            turn.abandon()
            raise left_behind(id)
        try:
            with self._writing() as database:
                database.drop(id)
        finally:
            self._locks.forget(id)
            turn.close()

    def clean(self, before: str, *, dry_run: bool = False) -> list[str]:
        old = [s.id for s in self.select(Query(before=before)) if isinstance(s, Session)]
        if dry_run:
            return [id_ for id_ in old if self._locks.is_idle(id_)]
        return [id_ for id_ in old if self._remove_idle(id_, before)]

    def turn(self, id: str) -> FileTurn | None:  # noqa: A002
        return self._locks.turn(id)

    def is_own(self, id: str) -> bool:  # noqa: A002, ARG002 - all are in one file
        return is_private(self.path)

    def running(self, id: str) -> dict[str, Any] | None:  # noqa: A002
        return self._locks.running(id)

    def all_running(self) -> list[str]:
        return self._locks.all_running()

    def _session(self, database: Database, id_: str) -> Session:
        return session_of(database.record(id_), id_, str(self.path))

    def _remove_idle(self, id_: str, before: str) -> bool:
        """Take the session away if it is still old and does not run."""
        turn = self.turn(id_)
        if turn is None:
            return False
        if turn.left:  # what it left running is ended by whoever deletes it
            turn.abandon()
            return False
        try:
            with self._writing() as database:
                if not Query(before=before).fits(self._session(database, id_)):
                    return False
                database.drop(id_)
            self._locks.forget(id_)
            return True
        finally:
            turn.close()

    @contextmanager
    def _reading(self) -> Iterator[Database]:
        """What is there, without waiting for who writes."""
        try:
            yield self._opened() or Database.to_read(self.path)
        except sqlite3.Error as error:
            raise self._problem("read", error) from error

    @contextmanager
    def _writing(self, *, durable: bool = True) -> Iterator[Database]:
        """All that is done inside, or nothing of it; the only writer, others wait."""
        try:
            database = self._opened() or self._open(Database.at(self.path))
            database.wait_for_disk(durable=durable)
            with database.changing():
                yield database
        except sqlite3.Error as error:
            raise self._problem("write", error) from error

    def _opened(self) -> Database | None:
        """This thread's connection, of this process: a fork must not use its parent's."""
        pid, database = getattr(self._mine, "open", (0, None))
        if pid == os.getpid():
            return database
        if self.path.exists() and self.path.stat().st_size:
            return self._open(Database.at(self.path))
        if not self.path.parent.is_dir() and not self.path.parent.parent.is_dir():
            raise no_folder(self.path)
        return None

    def _open(self, database: Database) -> Database:
        self._mine.open = (os.getpid(), database)
        return database

    def _problem(self, verb: str, error: sqlite3.Error) -> SessionError:
        """What SQLite means, and what can be done about it."""
        code = (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF
        said, hint = PROBLEMS.get(code, (str(error), None))
        return SessionError(f"cannot {verb} {self.path}: {said}", hint)


PROBLEMS = {
    sqlite3.SQLITE_NOTADB: ("it is not a SQLite database", "name another file for the sessions"),
    sqlite3.SQLITE_CORRUPT: (
        "the database is damaged",
        "save what can be saved with: sqlite3 FILE .recover",
    ),
    sqlite3.SQLITE_FULL: (
        "the disk is full",
        "make room on that disk; nothing that was stored before is lost",
    ),
    sqlite3.SQLITE_IOERR: (
        "the disk refuses it",
        "look at the disk and its limits; nothing that was stored before is lost",
    ),
    sqlite3.SQLITE_READONLY: (
        "it can only be read",
        "name a file that can be written, or use --ephemeral",
    ),
    sqlite3.SQLITE_CANTOPEN: ("it cannot be opened", "look at the permissions of its folder"),
    sqlite3.SQLITE_BUSY: (
        f"another program has been writing it for {BUSY:.0f} seconds",
        "end that program, or try again",
    ),
}


def _keep(database: Database, session: Session, messages: Iterable[Message] = ()) -> Session:
    record, sound = as_kept(session)
    database.keep(record, sound, [encode(m.to_json()) for m in messages])
    return session


def _is_taken(database: Database, id_: str) -> bool:
    """Names differ in more than case, as they have to where they are files."""
    return id_.lower() in (name.lower() for name in database.matching(id_, 100))
