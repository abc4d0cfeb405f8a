"""Sessions in one SQLite file: `sqlite:////absolute/path`, or `sqlite:///relative/path`.

What is acknowledged is on disk, so that neither `kill -9` nor a power cut
takes it back. Turns are locked files in `PATH.locks`: the kernel frees them when their process
dies, which a row in the database, a lease, could only do when its time is over.

The words of a deleted session stay in the full-text table, where nothing leads to them, until
`reindex` makes that anew and gives the room back.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from clinvk.disk.atomic import MAKE_ROOM, NoSpace, has_room, is_private
from clinvk.disk.closing import Closing
from clinvk.disk.jsonl import encode
from clinvk.disk.lockfile import FileTurn
from clinvk.errors import SessionError
from clinvk.model.session import Message, Session, check_id, new_id
from clinvk.store.base import Change, Damaged, Hit, Query
from clinvk.store.codec import IsRunning, LeftBehind, as_kept, session_of, taken
from clinvk.store.connections import Connections, store_is_closed
from clinvk.store.index import words_of
from clinvk.store.locks import TurnLocks
from clinvk.store.search import hits
from clinvk.store.sqlite.db import BUSY, Database, no_folder

Progress = Callable[[int, int], None]


class SqliteStore(Closing):
    def __init__(self, path: Path) -> None:
        self.path = path
        self._locks = TurnLocks(Path(f"{path}.locks"))
        self._connections: Connections[Database] = Connections()

    def close(self) -> None:
        self._connections.close()

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

    def settle(self, ids: Iterable[str]) -> None:  # noqa: ARG002
        """What is appended is on disk."""
        self._check_open()

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
        with self._locks.idle(id):
            self._remove(id)

    def clean(self, before: str, *, dry_run: bool = False) -> list[str]:
        old = [s.id for s in self.select(Query(before=before)) if isinstance(s, Session)]
        if dry_run:
            return [id_ for id_ in old if self._locks.is_idle(id_)]
        return [id_ for id_ in old if self._remove_idle(id_, before)]

    def turn(self, id: str) -> FileTurn | None:  # noqa: A002
        self._check_open()
        return self._locks.turn(id)

    def is_own(self, id: str) -> bool:  # noqa: A002, ARG002 - all are in one file
        return is_private(self.path)

    def running(self, id: str) -> dict[str, Any] | None:  # noqa: A002
        self._check_open()
        return self._locks.running(id)

    def all_running(self) -> list[str]:
        self._check_open()
        return self._locks.all_running()

    def _session(self, database: Database, id_: str) -> Session:
        return session_of(database.record(id_), id_, str(self.path))

    def _remove_idle(self, id_: str, before: str) -> bool:
        """Delete the session if it is still old and does not run; what a killed turn left running
        is ended by `manager.delete`."""
        try:
            with self._locks.idle(id_):
                return self._remove(id_, before)
        except (IsRunning, LeftBehind):
            return False

    def _remove(self, id_: str, before: str | None = None) -> bool:
        """Delete the session, unless it was used since; on a full disk too. Whether it was deleted."""
        try:
            with self._writing() as database:
                return self._drop(database, id_, before)
        except NoSpace:
            pass
        try:
            with self._writing(journal=False) as database:
                return self._drop(database, id_, before)
        except NoSpace as error:
            error.hint = "move the file to another disk, and name it there: session.storage"
            raise

    def _drop(self, database: Database, id_: str, before: str | None) -> bool:
        if before is not None and not Query(before=before).fits(self._session(database, id_)):
            return False
        database.drop(id_)
        return True

    @contextmanager
    def _reading(self) -> Iterator[Database]:
        """What is there, without waiting for who writes."""
        try:
            with self._connections.using():
                if (database := self._opened()) is not None:
                    yield database
                else:
                    with Database.to_read(self.path) as nothing:
                        yield nothing
        except sqlite3.Error as error:
            raise self._problem("read", error) from error

    @contextmanager
    def _writing(self, *, durable: bool = True, journal: bool = True) -> Iterator[Database]:
        """All that is done inside, or nothing of it; the only writer, others wait."""
        try:
            with self._connections.using():
                database = self._opened() or self._connections.add(Database.at(self.path))
                database.wait_for_disk(durable=durable)
                with database.changing() if journal else database.changing_without_journal():
                    yield database
        except sqlite3.Error as error:
            raise self._problem("write", error) from error

    def _opened(self) -> Database | None:
        """This thread's connection."""
        if (database := self._connections.mine) is not None:
            return database
        if self.path.exists() and self.path.stat().st_size:
            return self._connections.add(Database.at(self.path))
        if not self.path.parent.is_dir() and not self.path.parent.parent.is_dir():
            raise no_folder(self.path)
        return None

    def _check_open(self) -> None:
        if self._connections.closed:
            raise store_is_closed()

    def _problem(self, verb: str, error: sqlite3.Error) -> SessionError:
        """What SQLite means, and what can be done about it."""
        code = (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF
        full = code == sqlite3.SQLITE_FULL or (
            code in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN)
            and not has_room(self.path.parent)
        )
        if full:
            return NoSpace(f"cannot {verb} {self.path}: the disk is full", MAKE_ROOM)
        said, hint = PROBLEMS.get(code, (str(error), None))
        return SessionError(f"cannot {verb} {self.path}: {said}", hint)


PROBLEMS = {
    sqlite3.SQLITE_NOTADB: ("it is not a SQLite database", "name another file for the sessions"),
    sqlite3.SQLITE_CORRUPT: (
        "the database is damaged",
        "save what can be saved with: sqlite3 FILE .recover",
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
