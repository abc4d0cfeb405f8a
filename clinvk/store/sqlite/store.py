"""Sessions in one SQLite file: `sqlite:////absolute/path`, or `sqlite:///relative/path`.

Acknowledged writes are on disk, so that neither `kill -9` nor a power cut undoes them. Turns are
locked files in `PATH.locks`: the kernel releases them when their process dies, while a lease in the
database would first have to expire.

The words of a deleted session stay in the full-text table, unreachable, until `reindex` rebuilds it
and frees the space.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from clinvk.disk.atomic import MAKE_ROOM, NoSpace, has_room, is_private
from clinvk.disk.closing import Closing
from clinvk.disk.jsonl import encode
from clinvk.disk.lockfile import HeldLock
from clinvk.disk.waiting import WouldWait, check_may_block, lock_timeout
from clinvk.errors import SessionError
from clinvk.model.session import Message, Session, check_id, new_id
from clinvk.store.base import Change, Damaged, Hit, ImmediateWrites, Query
from clinvk.store.codec import IsRunning, LeftBehind, decode_session, encode_session, taken_error
from clinvk.store.connections import Connections, store_is_closed
from clinvk.store.index import query_words
from clinvk.store.locks import TurnLocks
from clinvk.store.search import build_hits, scan_sessions
from clinvk.store.sqlite.db import BUSY_TIMEOUT, Database, missing_directory_error

Progress = Callable[[int, int], None]

SLOW = 0.1  # seconds of a write after which the next one is not done on an event loop


class SqliteStore(Closing):
    concurrent_calls = 1  # in threads of an event loop: a file has one writer

    def __init__(self, path: Path) -> None:
        self.path = path
        self._is_slow = False  # the last write took long, as on a slow or busy disk
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
    ) -> Session:
        check_id(session.id)
        with self._writing(durable=durable) as database:
            while _is_taken(database, session.id):
                if exact:
                    raise taken_error(session.id)
                session = replace(session, id=new_id())
            _write_session(database, session, messages)
        return session

    def get(self, session_id: str) -> Session:
        check_id(session_id)
        with self._reading() as database:
            return self._session(database, session_id)

    def update(self, session_id: str, change: Change, *, durable: bool = True) -> Session:
        check_id(session_id)
        with self._writing(durable=durable) as database:
            return _write_session(database, change(self._session(database, session_id)))

    def append(self, session_id: str, messages: Iterable[Message], change: Change) -> Session:
        check_id(session_id)
        with self._writing() as database:
            return _write_session(database, change(self._session(database, session_id)), messages)

    def deferred(self) -> ImmediateWrites:
        return ImmediateWrites(self, self._check_open)

    def rewrite(self, session_id: str, messages: Iterable[Message], change: Change) -> Session:
        check_id(session_id)
        with self._writing() as database:
            session = change(self._session(database, session_id))
            database.delete_transcript(session_id)
            return _write_session(database, session, messages)

    def messages(self, session_id: str) -> list[Message]:
        check_id(session_id)
        check_may_block()
        with self._reading() as database:
            return database.messages(session_id)

    def size(self, session_id: str) -> int:
        check_id(session_id)
        with self._reading() as database:
            return database.size(session_id)

    def select(self, query: Query) -> list[Session | Damaged]:
        with self._reading() as database:
            return [found for found, *_ in database.select(query)]

    def count(self, query: Query) -> int:
        with self._reading() as database:
            return database.count(replace(query, limit=None))

    def find_ids(self, text: str, limit: int = 11) -> list[str]:
        with self._reading() as database:
            return database.find_ids(text, limit)

    def find_by_native_id(self, backend: str | None, native_id: str) -> list[str]:
        with self._reading() as database:
            pairs = database.find_by_native_id(native_id)
        return [session_id for name, session_id in pairs if backend in (None, name)]

    def search(self, text: str, *, role: str | None = None, limit: int = 20) -> list[Hit]:
        words = query_words(text)
        if not words:
            return []
        with self._reading() as database:
            if not database.is_indexed:  # by an older clinvk, in a file that cannot be written
                found = [s for s, *_ in database.select(Query()) if isinstance(s, Session)]
                return scan_sessions(found, database.messages, words, role, limit)
            ranked = database.search(words, role, limit)
        return build_hits(ranked, self.get, self.messages, words, role)

    def reindex(self, progress: Progress = lambda _done, _all: None) -> int:
        with self._writing() as database:
            count = database.rebuild_index(str(self.path), progress)
        with self._reading() as database, suppress(sqlite3.OperationalError):  # others exist
            database.db.execute("VACUUM")
        return count

    def delete(self, session_id: str) -> None:
        check_id(session_id)
        with self._reading() as database:
            database.read_record(session_id)
        with self._locks.idle(session_id):
            self._remove(session_id)

    def clean(self, before: str, *, dry_run: bool = False) -> list[str]:
        old = [s.id for s in self.select(Query(before=before)) if isinstance(s, Session)]
        if dry_run:
            return [session_id for session_id in old if self._locks.is_idle(session_id)]
        return [session_id for session_id in old if self._remove_idle(session_id, before)]

    def acquire_turn(self, session_id: str) -> HeldLock | None:
        self._check_open()
        return self._locks.acquire(session_id)

    def is_own(self, session_id: str) -> bool:  # noqa: ARG002 - all are in one file
        return is_private(self.path)

    def running_turn(self, session_id: str) -> dict[str, Any] | None:
        self._check_open()
        return self._locks.running_turn(session_id)

    def running_ids(self) -> list[str]:
        self._check_open()
        return self._locks.running_ids()

    def _session(self, database: Database, session_id: str) -> Session:
        return decode_session(database.read_record(session_id), session_id, str(self.path))

    def _remove_idle(self, session_id: str, before: str) -> bool:
        """Delete the session if it is still old and not running; what a killed turn left running is
        stopped by `manager.delete`."""
        try:
            with self._locks.idle(session_id):
                return self._remove(session_id, before)
        except (IsRunning, LeftBehind):
            return False

    def _remove(self, id_: str, before: str | None = None) -> bool:
        """Delete the session, unless it was used since, also on a full disk; return whether it
        was."""
        try:
            with self._writing() as database:
                return self._drop(database, id_, before)
        except NoSpace:
            pass
        try:
            with self._writing(journal=False) as database:
                return self._drop(database, id_, before)
        except NoSpace as error:
            error.hint = "move the file to another disk, and set its path in session.storage"
            raise

    def _drop(self, database: Database, id_: str, before: str | None) -> bool:
        if before is not None and not Query(before=before).matches(self._session(database, id_)):
            return False
        database.delete_session(id_)
        return True

    @contextmanager
    def _reading(self) -> Iterator[Database]:
        """The database for reading, without waiting for writers."""
        try:
            with self._connections.using():
                if (database := self._connection()) is not None:
                    yield database
                else:
                    with Database.open_read_only(self.path) as nothing:
                        yield nothing
        except sqlite3.Error as error:
            raise self._to_error("read", error) from error

    @contextmanager
    def _writing(self, *, durable: bool = True, journal: bool = True) -> Iterator[Database]:
        """A transaction, as the only writer; others wait."""
        if self._is_slow:
            check_may_block()
        began_at = time.monotonic()
        try:
            with self._connections.using():
                database = self._connection() or self._connections.add(
                    Database.open_writable(self.path)
                )
                database.wait_for_disk(durable=durable)
                with database.transaction() if journal else database.changing_without_journal():
                    yield database
        except sqlite3.Error as error:
            raise self._to_error("write", error) from error
        self._is_slow = time.monotonic() - began_at > SLOW

    def _connection(self) -> Database | None:
        """This thread's connection."""
        if (database := self._connections.mine) is not None:
            database.update_timeout()
            return database
        if self.path.exists() and self.path.stat().st_size:
            return self._connections.add(Database.open_writable(self.path))
        if not self.path.parent.is_dir() and not self.path.parent.parent.is_dir():
            raise missing_directory_error(self.path)
        return None

    def _check_open(self) -> None:
        if self._connections.closed:
            raise store_is_closed()

    def _to_error(self, verb: str, error: sqlite3.Error) -> SessionError | WouldWait:
        """The error to raise. A call that may not wait for others can be repeated."""
        shown = self._to_session_error(verb, error)
        is_busy = _error_code(error) == sqlite3.SQLITE_BUSY
        return WouldWait(shown, BUSY_TIMEOUT) if is_busy and lock_timeout() is not None else shown

    def _to_session_error(self, verb: str, error: sqlite3.Error) -> SessionError:
        """The message for an error of SQLite, with a hint."""
        code = _error_code(error)
        full = code == sqlite3.SQLITE_FULL or (
            code in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN)
            and not has_room(self.path.parent)
        )
        if full:
            return NoSpace(f"cannot {verb} {self.path}: the disk is full", MAKE_ROOM)
        said, hint = PROBLEMS.get(code, (str(error), None))
        return SessionError(f"cannot {verb} {self.path}: {said}", hint)


PROBLEMS = {
    sqlite3.SQLITE_NOTADB: ("it is not a SQLite database", "choose another file for the sessions"),
    sqlite3.SQLITE_CORRUPT: (
        "the database is damaged",
        "save what can be saved with: sqlite3 FILE .recover",
    ),
    sqlite3.SQLITE_IOERR: (
        "there was a disk error",
        "check the disk and its limits; earlier sessions are not affected",
    ),
    sqlite3.SQLITE_READONLY: (
        "it is read-only",
        "choose a writable file, or use --ephemeral",
    ),
    sqlite3.SQLITE_CANTOPEN: ("it cannot be opened", "check the permissions of its directory"),
    sqlite3.SQLITE_BUSY: (
        f"another program has been writing it for {BUSY_TIMEOUT:.0f} seconds",
        "stop that program, or try again",
    ),
}


def _error_code(error: sqlite3.Error) -> int:
    return (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF


def _write_session(
    database: Database, session: Session, messages: Iterable[Message] = ()
) -> Session:
    record, sound = encode_session(session)
    database.write_session(record, sound, [encode(m.to_json()) for m in messages])
    return session


def _is_taken(database: Database, session_id: str) -> bool:
    """Raise an error for a name that differs from another only in case, as in a store of files."""
    return session_id.lower() in (name.lower() for name in database.find_ids(session_id, 100))
