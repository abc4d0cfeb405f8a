"""A SQLite file of sessions: their records, their messages, and the index of both.

The index is the same as the one of sessions in files. Here it changes in one transaction with the
data that it is derived from, so it is never stale.

It uses a rollback journal, not WAL: clinvk runs briefly, and all writes have to be in this one file
when it exits, for copies of it and for read-only users. WAL would wait for the disk once instead of
three times, which is not noticeable in a turn of seconds.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from clinvk.disk.atomic import file_error
from clinvk.disk.opening import open_named
from clinvk.disk.waiting import check_may_block, lock_timeout
from clinvk.errors import SessionError
from clinvk.model.session import Message, Session
from clinvk.store.codec import decode_messages, decode_session, not_found_error
from clinvk.store.index import VERSION as INDEX_VERSION
from clinvk.store.index import Index, connect

Progress = Callable[[int, int], None]

SCHEMA_VERSION = 1  # PRAGMA user_version
APPLICATION_ID = 0x636C6976  # PRAGMA application_id: "cliv"
BUSY_TIMEOUT = 30.0  # seconds that a writer waits for others, if it may block that long

TABLES = (
    "CREATE TABLE records (id TEXT PRIMARY KEY, record BLOB NOT NULL) WITHOUT ROWID",
    "CREATE TABLE said (id TEXT, n INTEGER, message BLOB NOT NULL, PRIMARY KEY (id, n))",
)


class Database(Index):
    """Raises `sqlite3.Error` if the file cannot be read or written, and `SessionError` if it is not
    a clinvk database."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        super().__init__(connection)
        self._timeout = _busy_timeout()

    def update_timeout(self) -> None:
        """Wait for others as long as the current call may block."""
        if self._timeout != (seconds := _busy_timeout()):
            self.db.execute(f"PRAGMA busy_timeout={round(seconds * 1000)}")
            self._timeout = seconds

    @classmethod
    def open_writable(cls, path: Path) -> Database:
        """The sessions in that file, which is created if it is missing."""
        _create_private(path)
        if not os.access(path, os.W_OK):
            return cls.open_read_only(path)
        with _open_if_usable(cls(_connect(f"{path.as_uri()}?mode=rw"))) as database:
            if not database.is_ready(path) or database.get_meta("version") != INDEX_VERSION:
                if path.stat().st_size:  # an index to rebuild
                    check_may_block()
                with database.transaction():
                    database.prepare()
                    if database.get_meta("version") != INDEX_VERSION:
                        database.rebuild_index(str(path))
        return database

    @classmethod
    def open_read_only(cls, path: Path) -> Database:
        """The sessions in that file; an empty store without one."""
        if not path.exists():
            with _open_if_usable(cls(_connect("file::memory:"))) as database:
                database.prepare()
            return database
        with _open_if_usable(cls(_connect(f"{path.as_uri()}?mode=ro"))) as database:
            if not database.is_ready(path):
                raise SessionError(f"{path} holds no sessions yet, and cannot be written")
        return database

    def is_ready(self, path: Path) -> bool:
        """Whether the tables exist. Raises `SessionError` if they belong to another program."""
        version = self._pragma("user_version")
        if self._pragma("application_id") == APPLICATION_ID:
            if version > SCHEMA_VERSION:
                raise SessionError(
                    f"{path} was written by a newer clinvk (its version is {version}, this one "
                    f"reads up to {SCHEMA_VERSION})",
                    "update clinvk to use it",
                )
            return version == SCHEMA_VERSION
        if self.db.execute("SELECT 1 FROM sqlite_master").fetchone():
            raise SessionError(
                f"{path} is a database of another program", "choose another file for the sessions"
            )
        return False

    @property
    def is_indexed(self) -> bool:
        """Whether the index is as this version of clinvk makes it."""
        return bool(self.get_meta("version") == INDEX_VERSION)

    def prepare(self) -> None:
        """Create what is missing; call it in a transaction, since others may do the same."""
        if self.get_meta("version") is None:
            super().prepare()
        if self._pragma("user_version") == 0:
            for statement in TABLES:
                self.db.execute(statement)
            self.db.execute(f"PRAGMA application_id={APPLICATION_ID}")
            self.db.execute(f"PRAGMA user_version={SCHEMA_VERSION}")

    def wait_for_disk(self, *, durable: bool) -> None:
        """Set whether a commit is on disk when it returns, including the name of its journal. If
        not, a power cut may undo it completely; a killed process never does."""
        self.db.execute(f"PRAGMA synchronous={'EXTRA' if durable else 'NORMAL'}")

    @contextmanager
    def changing_without_journal(self) -> Iterator[None]:
        """`changing` for a disk without room for SQLite's journal, which is kept in memory. If the
        process is killed, or the power fails, in the middle of the commit, the file is damaged."""
        self.db.execute("PRAGMA journal_mode=MEMORY")
        try:
            with self.transaction():
                yield
        finally:
            self.db.execute("PRAGMA journal_mode=DELETE")

    def read_record(self, session_id: str) -> bytes:
        """Raises `SessionNotFound`."""
        found = self.db.execute(
            "SELECT CAST(record AS BLOB) FROM records WHERE id=?", (session_id,)
        ).fetchone()
        if found is None:
            raise not_found_error(session_id)
        return bytes(found[0])

    def ids(self) -> list[str]:
        return [
            session_id for (session_id,) in self.db.execute("SELECT id FROM records ORDER BY id")
        ]

    def transcript_lines(self, session_id: str) -> list[bytes]:
        """The transcript."""
        rows = self.db.execute(
            "SELECT CAST(message AS BLOB) FROM said WHERE id=? ORDER BY n", (session_id,)
        )
        return [bytes(line) for (line,) in rows]

    def size(self, session_id: str) -> int:
        found = self.db.execute(
            "SELECT ifnull((SELECT length(record) FROM records WHERE id=:id), 0)"
            " + ifnull((SELECT sum(length(message)) FROM said WHERE id=:id), 0)", {"id": session_id}
        ).fetchone()  # fmt: skip
        return int(found[0])

    def write_session(self, record: bytes, session: Session, lines: list[bytes]) -> None:
        """Write the record, and append lines to the transcript."""
        session_id = session.id
        last = self.db.execute(
            "SELECT ifnull(max(n), 0) FROM said WHERE id=?", (session_id,)
        ).fetchone()
        rows = [(session_id, n, line) for n, line in enumerate(lines, last[0] + 1)]
        self.db.execute("INSERT OR REPLACE INTO records VALUES (?,?)", (session_id, record))
        self.db.executemany("INSERT INTO said VALUES (?,?,?)", rows)
        retitled = self.title(session_id) != session.title
        self.put(session, mtime=0, size=0)
        if retitled:
            self.forget_words(session_id)
            self.add_words(session, self.messages(session_id), upto=0)
        elif lines:
            self.add_words(session, decode_messages(lines), upto=0)

    def delete_transcript(self, session_id: str) -> None:
        """Delete the transcript."""
        self.db.execute("DELETE FROM said WHERE id=?", (session_id,))
        self.forget_words(session_id)

    def delete_session(self, session_id: str) -> None:
        """Delete the session."""
        self.delete_transcript(session_id)
        self.db.execute("DELETE FROM records WHERE id=?", (session_id,))
        self.remove([session_id])

    def messages(self, session_id: str) -> list[Message]:
        return decode_messages(self.transcript_lines(session_id))

    def rebuild_index(self, where: str, progress: Progress = lambda _done, _all: None) -> int:
        """Rebuild the index from the records; return their number."""
        self.set_meta("version", None)
        super().prepare()
        ids = self.ids()
        for done, session_id in enumerate(ids):
            progress(done, len(ids))
            self._index(session_id, where)
        progress(len(ids), len(ids))
        return len(ids)

    def _index(self, session_id: str, where: str) -> None:
        try:
            session = decode_session(self.read_record(session_id), session_id, where)
        except SessionError as error:
            self.put_damaged(session_id, error.message, mtime=0, size=0)
            return
        self.put(session, mtime=0, size=0)
        self.add_words(session, self.messages(session_id), upto=0)

    def _pragma(self, name: str) -> int:
        return int(self.db.execute(f"PRAGMA {name}").fetchone()[0])


def _connect(uri: str) -> sqlite3.Connection:
    return connect(uri, timeout=_busy_timeout())


def _busy_timeout() -> float:
    """Seconds that SQLite waits for others."""
    limit = lock_timeout()
    return BUSY_TIMEOUT if limit is None else limit


@contextmanager
def _open_if_usable(database: Database) -> Iterator[Database]:
    """The database, which stays open unless it has an error."""
    try:
        yield database
    except BaseException:
        database.close()
        raise


def _create_private(path: Path) -> None:
    """Create an empty file if there is none; SQLite gives its other files the same mode. Its
    directory is created, but not the parent: a disk that is not mounted is not an empty store."""
    try:
        if not path.parent.is_dir():
            path.parent.mkdir(mode=0o700)
        os.close(open_named(path, os.O_CREAT | os.O_RDONLY))
    except FileNotFoundError:
        raise missing_directory_error(path) from None
    except OSError as error:
        raise file_error("write", path, error) from error


def missing_directory_error(path: Path) -> SessionError:
    return SessionError(
        f"{path}: no such directory: {path.parent.parent}", "create it, or choose another file"
    )
