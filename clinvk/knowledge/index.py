"""An index of passages in SQLite: which of them match a prompt best.

It contains nothing that is not in the documents, so it can be deleted at any time.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from msgspec import Struct

from clinvk.disk.atomic import file_error, make_folder
from clinvk.disk.closing import Closing
from clinvk.disk.jsonl import replace_surrogates
from clinvk.disk.lockfile import hold_lock
from clinvk.disk.opening import open_own
from clinvk.errors import SessionError
from clinvk.knowledge.passages import Passage
from clinvk.knowledge.query import index_text

VERSION = 1  # of the tables
BATCH = 200  # documents in one transaction
TIMEOUT = 10.0  # seconds to wait for another writer
SCHEMA = """
CREATE TABLE documents (id INTEGER PRIMARY KEY, name TEXT UNIQUE, stamp TEXT);
CREATE TABLE passages (id INTEGER PRIMARY KEY, document INTEGER, line INTEGER, heading TEXT, text TEXT);
CREATE INDEX passages_of ON passages (document);
CREATE VIRTUAL TABLE words USING fts5 (
    name, heading, text, content='', tokenize="porter unicode61 remove_diacritics 2");
"""
_NEW = "INSERT INTO words (rowid, name, heading, text) VALUES (?,?,?,?)"
_OLD = "INSERT INTO words (words, rowid, name, heading, text) VALUES ('delete',?,?,?,?)"


class Match(Struct, frozen=True):
    name: str  # of the document
    passage: Passage
    score: float  # the larger, the better


class Document(Struct, frozen=True):
    name: str
    stamp: str  # another one means other contents


Read = Callable[[Document], Iterable[Passage]]
Progress = Callable[[int, int], None]
Result = TypeVar("Result")


@contextmanager
def open_index(
    path: Path, *, writes: bool = True, timeout: float | None = None
) -> Iterator[PassageIndex]:
    """The index in this file, which no other process uses meanwhile; unless it `writes`, a copy in
    memory. Raises `SessionError`, and `WouldWait` if another process uses it for `timeout`
    seconds."""
    if not writes:
        with PassageIndex(path, writes=False) as index:
            yield index
        return
    with _errors(path):
        make_folder(path.parent)
    with hold_lock(f"{path}.lock", timeout=timeout), PassageIndex(path) as index:
        yield index


def no_progress(_done: int, _total: int) -> None:
    pass


class PassageIndex(Closing):
    """A file that is damaged, or of another version, is replaced. Methods raise `SessionError`."""

    def __init__(self, path: Path, *, writes: bool = True) -> None:
        self.path = path
        self.writes = writes
        self._refill: Callable[[], int] | None = None  # the last update, once more
        self._db = self._open()

    def close(self) -> None:
        self._db.close()

    def update(self, documents: Iterable[Document], read: Read, progress: Progress) -> int:
        """Make the index hold exactly these documents, and return how many of them were read: only
        those that are new or have changed. `progress` is called with (done, total)."""
        wanted = list(documents)
        self._refill = lambda: self._update(wanted, read, progress)
        return self._repairing(self._refill)

    def search(self, match: str, limit: int, *, without: str | None = None) -> list[Match]:
        """The passages that match, best first, but those of the document `without`. An index that
        turns out to be damaged is filled again with the documents of the last update."""
        return self._repairing(lambda: self._search(match, limit, without))

    def forget(self, names: Iterable[str]) -> None:
        """Remove documents."""
        with _errors(self.path), self._transaction():
            for name in names:
                self._remove(name)

    def _repairing(self, run: Callable[[], Result]) -> Result:
        """What `run` returns; if the file is damaged, it is rebuilt, and `run` called again."""
        with _errors(self.path):
            try:
                return run()
            except sqlite3.DatabaseError as error:
                if self._refill is None or not _is_damage(error):
                    raise
            self._start_over()
            if run is not self._refill:
                self._refill()
            return run()

    def _update(self, documents: list[Document], read: Read, progress: Progress) -> int:
        known = dict(self._db.execute("SELECT name, stamp FROM documents"))
        wanted = {replace_surrogates(one.name): one for one in documents}
        gone = [name for name in known if name not in wanted]
        changed = [name for name, one in wanted.items() if known.get(name) != one.stamp]
        for start in range(0, len(gone), BATCH):
            with self._transaction():
                for name in gone[start : start + BATCH]:
                    self._remove(name)
        for start in range(0, len(changed), BATCH):
            with self._transaction():
                for number, name in enumerate(changed[start : start + BATCH], start):
                    if not threading.main_thread().is_alive():
                        raise SessionError("the program has ended")
                    progress(number, len(changed))
                    self._remove(name)
                    self._add(name, wanted[name].stamp, read(wanted[name]))
        if changed:
            progress(len(changed), len(changed))
        return len(changed)

    def _add(self, name: str, stamp: str, passages: Iterable[Passage]) -> None:
        found = self._db.execute("INSERT INTO documents (name, stamp) VALUES (?,?)", (name, stamp))
        document = found.lastrowid
        for one in passages:
            row = (
                document,
                one.line,
                replace_surrogates(one.heading),
                replace_surrogates(one.text),
            )
            added = self._db.execute(
                "INSERT INTO passages (document, line, heading, text) VALUES (?,?,?,?)", row
            )
            self._db.execute(_NEW, (added.lastrowid, *_words(name, row[2], row[3])))

    def _remove(self, name: str) -> None:
        found = self._db.execute("SELECT id FROM documents WHERE name=?", (name,)).fetchone()
        if found is None:
            return
        rows = self._db.execute("SELECT id, heading, text FROM passages WHERE document=?", found)
        for number, heading, text in rows.fetchall():
            self._db.execute(_OLD, (number, *_words(name, heading, text)))
        self._db.execute("DELETE FROM passages WHERE document=?", found)
        self._db.execute("DELETE FROM documents WHERE id=?", found)

    def _search(self, match: str, limit: int, without: str | None) -> list[Match]:
        rows = self._db.execute(
            "SELECT documents.name, line, passages.heading, passages.text, score FROM"
            " (SELECT rowid AS id, bm25(words, 2.0, 3.0, 1.0) AS score FROM words"
            " WHERE words MATCH ?) AS found"
            " JOIN passages ON passages.id = found.id"
            " JOIN documents ON documents.id = passages.document"
            " WHERE documents.name IS NOT ? ORDER BY score, documents.name, line LIMIT ?",
            (match, without, limit),
        )
        return [
            Match(name, Passage(line, heading, text), -score)
            for name, line, heading, text, score in rows
        ]

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            with suppress(sqlite3.Error):
                self._db.execute("ROLLBACK")
            raise

    def _start_over(self) -> None:
        self._db.close()
        if self.writes:
            delete_index(self.path)
        self._db = self._open(is_new=True)

    def _open(self, *, is_new: bool = False) -> sqlite3.Connection:
        with _errors(self.path):
            if not self.writes:
                return self._copy(is_empty=is_new)
            try:
                return self._open_file()
            except sqlite3.DatabaseError:
                delete_index(self.path)
                return self._open_file()

    def _open_file(self) -> sqlite3.Connection:
        os.close(open_own(self.path, os.O_RDWR | os.O_CREAT))  # private before it holds anything
        return _prepared(_connect(self.path, "rw"))

    def _copy(self, *, is_empty: bool) -> sqlite3.Connection:
        """The index in memory."""
        copy = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
        if not is_empty and self.path.exists():
            try:
                with closing(_connect(self.path, "ro")) as file:
                    file.backup(copy)
                return _prepared(copy)
            except sqlite3.DatabaseError:
                copy.close()
                copy = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
        return _prepared(copy)


def _connect(path: Path, mode: str) -> sqlite3.Connection:
    uri = f"{path.absolute().as_uri()}?mode={mode}"  # quoted: a directory may contain # or ?
    return sqlite3.connect(
        uri, uri=True, isolation_level=None, timeout=TIMEOUT, check_same_thread=False
    )


def _prepared(db: sqlite3.Connection) -> sqlite3.Connection:
    """The connection, with the tables. Raises `sqlite3.DatabaseError` for those of another
    version."""
    try:
        # It can be rebuilt, so nothing waits for the disk; but what is deleted is gone.
        db.execute("PRAGMA synchronous=OFF")
        db.execute("PRAGMA secure_delete=ON")
        if db.execute("PRAGMA user_version").fetchone()[0] != VERSION:
            if db.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]:
                raise sqlite3.DatabaseError("another version")  # noqa: TRY301
            db.executescript(f"BEGIN; {SCHEMA} PRAGMA user_version={VERSION}; COMMIT;")
    except BaseException:
        db.close()
        raise
    return db


def _is_damage(error: sqlite3.DatabaseError) -> bool:
    """Whether the file itself is the problem, and not, for example, a full disk."""
    if not isinstance(error, sqlite3.OperationalError):
        return True
    return error.sqlite_errorcode == sqlite3.SQLITE_ERROR  # such as a table that cannot be opened


def delete_index(path: Path) -> None:
    """Delete the file, and what SQLite keeps beside it."""
    for suffix in ("", "-journal", "-wal", "-shm"):
        Path(f"{path}{suffix}").unlink(missing_ok=True)


def _words(name: str, heading: str, text: str) -> tuple[str, str, str]:
    return index_text(name.replace("/", " ")), index_text(heading), index_text(text)


@contextmanager
def _errors(path: Path) -> Iterator[None]:
    """Report what the user can fix."""
    try:
        yield
    except OSError as error:
        raise file_error("write", path, error) from error
    except sqlite3.Error as error:
        raise SessionError(
            f"the index {path} cannot be used: {error}",
            "make room on that disk, or delete the file",
        ) from error
