"""An index of sessions in SQLite: to list, to filter, to look up and to search without reading
every file.

It contains nothing that is not in the records and transcripts, so it can be deleted at any time.
The text of messages is indexed but not stored; the text of a hit is read from its transcript.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from clinvk.disk.closing import Closing
from clinvk.disk.jsonl import encode, replace_surrogates
from clinvk.errors import SessionError
from clinvk.model.session import RESUMABLE, Message, Session
from clinvk.store.base import Damaged, Query
from clinvk.store.search_text import separate_characters

VERSION = "2"
CANDIDATES = 2_000  # hits that are ranked

SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS sessions (
    id TEXT PRIMARY KEY, folded TEXT NOT NULL, backend TEXT, status TEXT, cwd TEXT, task TEXT,
    resumable INTEGER, used TEXT, record TEXT, problem TEXT,
    mtime INTEGER, size INTEGER, indexed INTEGER DEFAULT 0
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS by_use ON sessions (used);
CREATE INDEX IF NOT EXISTS by_folder ON sessions (cwd, used);
CREATE INDEX IF NOT EXISTS by_backend ON sessions (backend, status, used);
CREATE INDEX IF NOT EXISTS by_status ON sessions (status, used);
CREATE INDEX IF NOT EXISTS by_folded ON sessions (folded);
CREATE TABLE IF NOT EXISTS natives (native_id TEXT, backend TEXT, id TEXT,
    PRIMARY KEY (native_id, backend, id)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS natives_of ON natives (id);
CREATE TABLE IF NOT EXISTS labels (kind TEXT, value TEXT, id TEXT,
    PRIMARY KEY (kind, value, id)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS labels_of ON labels (id);
CREATE TABLE IF NOT EXISTS pieces (piece INTEGER PRIMARY KEY, id TEXT);
CREATE INDEX IF NOT EXISTS pieces_of ON pieces (id);
CREATE VIRTUAL TABLE IF NOT EXISTS words USING fts5 (
    title, user, assistant, system, content='', tokenize="unicode61 remove_diacritics 2");
"""
TABLES = ("meta", "sessions", "natives", "labels", "pieces", "words")
ROLES = ("user", "assistant", "system")

Row = tuple[Any, ...]


class Index(Closing):
    """Raises `sqlite3.Error` if the file is damaged: the owner then creates a new one."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.db = connection

    @classmethod
    def open(cls, path: str, *, writable: bool) -> Index:
        """The index in that file. It is disposable, so nothing waits for the disk."""
        mode = "rw" if writable else "ro"
        uri = f"{Path(path).absolute().as_uri()}?mode={mode}"  # quoted: a directory may contain # or ?
        index = cls(connect(uri, timeout=10))
        try:
            index.db.execute("PRAGMA synchronous=OFF")
        except BaseException:
            index.close()
            raise
        return index

    def prepare(self) -> None:
        """Create the tables, after dropping those of another version."""
        if self.get_meta("version") != VERSION:
            for name in TABLES:
                self.db.execute(f"DROP TABLE IF EXISTS {name}")
            for statement in SCHEMA.split(";"):  # a script would commit the transaction in progress
                self.db.execute(statement)
            self.set_meta("version", VERSION)

    def get_meta(self, key: str) -> Any:
        try:
            found = self.db.execute("SELECT value FROM meta WHERE key=?", (key,)).fetchone()
        except sqlite3.OperationalError:  # no such table
            return None
        return found[0] if found else None

    def all_meta(self) -> dict[str, Any]:
        """All values of `get`."""
        try:
            return dict(self.db.execute("SELECT key, value FROM meta"))
        except sqlite3.OperationalError:  # no such table
            return {}

    def set_meta(self, key: str, value: Any) -> None:
        self.db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All of the changes inside, or none."""
        self.db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self.db.execute("COMMIT")
        except BaseException:
            if (
                self.db.in_transaction
            ):  # otherwise SQLite has rolled back already, e.g. on a full disk
                self.db.execute("ROLLBACK")
            raise

    def put(self, session: Session, *, mtime: int, size: int) -> None:
        """Store the session as it is now; its words are added by `add_words`."""
        session_id = session.id
        record = encode(session.to_json()).decode()
        self.db.execute(
            "INSERT INTO sessions (id, folded, backend, status, cwd, task, resumable, used, record,"
            " problem, mtime, size) VALUES (?,?,?,?,?,?,?,?,?,NULL,?,?) ON CONFLICT (id) DO UPDATE"
            " SET backend=excluded.backend, status=excluded.status, cwd=excluded.cwd,"
            " task=excluded.task, resumable=excluded.resumable, used=excluded.used,"
            " record=excluded.record, problem=NULL, mtime=excluded.mtime, size=excluded.size",
            (session_id, session_id.lower(), session.backend, session.status, _path(session.directory), session.task,
             int(session.resumable), _last_used(session), record, mtime, size),
        )  # fmt: skip
        self._put_facets(session)

    def put_many(self, rows: Iterable[tuple[Session, int, int, int]]) -> None:
        """Like `put`, for many new sessions: (session, mtime, size, bytes of transcript)."""
        rows = list(rows)
        self.db.executemany(
            "INSERT OR REPLACE INTO sessions VALUES (?,?,?,?,?,?,?,?,?,NULL,?,?,?)",
            [(s.id, s.id.lower(), s.backend, s.status, _path(s.directory), s.task, int(s.resumable), _last_used(s),
              encode(s.to_json()).decode(), mtime, size, indexed)
             for s, mtime, size, indexed in rows],
        )  # fmt: skip
        self.db.executemany(
            "INSERT OR IGNORE INTO natives VALUES (?,?,?)",
            [n for s, *_ in rows for n in _natives(s)],
        )
        self.db.executemany(
            "INSERT OR IGNORE INTO labels VALUES (?,?,?)", [v for s, *_ in rows for v in _labels(s)]
        )

    def put_damaged(self, session_id: str, problem: str, *, mtime: int, size: int) -> None:
        self.db.execute(
            "INSERT OR REPLACE INTO sessions (id, folded, resumable, used, problem, mtime, size)"
            " VALUES (?,?,0,'',?,?,?)",
            (session_id, session_id.lower(), problem, mtime, size),
        )

    def remove(self, session_ids: Iterable[str]) -> None:
        """Remove sessions. Their words stay in the full-text table, unreachable, until it is
        rebuilt."""
        each = [(i,) for i in session_ids]
        for table in ("sessions", "natives", "labels", "pieces"):
            self.db.executemany(f"DELETE FROM {table} WHERE id=?", each)  # noqa: S608 - our names

    def has(self, session_id: str) -> bool:
        return bool(self.db.execute("SELECT 1 FROM sessions WHERE id=?", (session_id,)).fetchone())

    def title(self, session_id: str) -> str | None:
        found = self.db.execute("SELECT record FROM sessions WHERE id=?", (session_id,)).fetchone()
        return json.loads(found[0]).get("title") if found and found[0] else None

    def indexed_bytes(self, session_id: str) -> int:
        """How many bytes of the transcript the words come from."""
        found = self.db.execute("SELECT indexed FROM sessions WHERE id=?", (session_id,)).fetchone()
        return found[0] if found else 0

    def add_words(self, session: Session, messages: list[Message], *, upto: int) -> None:
        """Index the words of messages, which end at that byte of the transcript."""
        self._put_words([(session, messages)])
        self.db.execute("UPDATE sessions SET indexed=? WHERE id=?", (upto, session.id))

    def add_words_of_many(self, said: Iterable[tuple[Session, list[Message]]]) -> None:
        self._put_words(list(said))

    def forget_words(self, session_id: str) -> None:
        self.db.execute("DELETE FROM pieces WHERE id=?", (session_id,))
        self.db.execute("UPDATE sessions SET indexed=0 WHERE id=?", (session_id,))

    def record_stats(self) -> dict[str, tuple[int, int]]:
        """Every id, with the time and size of the record that was read."""
        rows = self.db.execute("SELECT id, mtime, size FROM sessions")
        return {session_id: (mtime, size) for session_id, mtime, size in rows}

    def select(self, query: Query) -> Iterator[tuple[Session | Damaged, int, int]]:
        """Matching sessions, most recently used first; each with its record's time and size."""
        where, values = _query_condition(query)
        columns = "SELECT id, record, problem, mtime, size FROM sessions"
        order = " ORDER BY used DESC, id" + (" LIMIT ?" if query.limit is not None else "")
        if query.limit is not None:
            values = [*values, query.limit]
        for session_id, record, problem, mtime, size in self.db.execute(
            columns + where + order, values
        ):
            yield _to_session(session_id, record, problem), mtime, size

    def stats(self, query: Query) -> list[tuple[str, tuple[int, int] | None]]:
        """Ids of matching sessions, each with its record's time and size."""
        where, values = _query_condition(query)
        # Roughly in the order of creation: deleting files is faster that way.
        sql = "SELECT id, mtime, size FROM sessions" + where + " ORDER BY used DESC"  # noqa: S608
        return [
            (session_id, (mtime, size)) for session_id, mtime, size in self.db.execute(sql, values)
        ]

    def count(self, query: Query) -> int:
        where, values = _query_condition(query)
        sql = "SELECT count(*) FROM sessions" + where  # noqa: S608 - it holds no values
        return int(self.db.execute(sql, values).fetchone()[0])

    def find_ids(self, text: str, limit: int) -> list[str]:
        """Ids that start with `text`, ignoring case."""
        folded = replace_surrogates(text.lower())
        rows = self.db.execute(
            "SELECT id FROM sessions WHERE folded >= ? AND folded < ? ORDER BY folded LIMIT ?",
            (folded, folded + "\U0010ffff", limit),
        )
        return [session_id for (session_id,) in rows]

    def find_by_native_id(self, native_id: str) -> list[tuple[str, str]]:
        """(backend, id) of the sessions that have this native id."""
        sql = "SELECT backend, id FROM natives WHERE native_id=?"
        return list(self.db.execute(sql, (replace_surrogates(native_id),)))

    def search(self, words: list[str], role: str | None, limit: int) -> list[tuple[str, float]]:
        """(id, score) of the sessions that contain all of the words, best match first."""
        # The last word may be incomplete.
        terms = [_quoted(word) for word in words[:-1]] + [_quoted(words[-1]) + "*"]
        found = self._search_within_pieces(" ".join(terms), role, limit)
        if len(found) < limit and len(terms) > 1:
            seen = {session_id for session_id, _ in found}
            apart = self._search_across_pieces(terms, role, limit)
            found += [(session_id, 0.0) for session_id in apart if session_id not in seen]
        return found[:limit]

    def _search_within_pieces(
        self, match: str, role: str | None, limit: int
    ) -> list[tuple[str, float]]:
        """Sessions that contain all terms in one piece, ranked. For a very frequent word, only the
        newest pieces are ranked: ranking all would take as long as a scan."""
        rows = self.db.execute(
            "SELECT id, min(score) AS best FROM (SELECT rowid, bm25(words, 4.0) AS score FROM words"
            " WHERE words MATCH ? ORDER BY rowid DESC LIMIT ?) JOIN pieces ON piece = rowid"
            " GROUP BY id ORDER BY best LIMIT ?",
            (_match_in_role(match, role), CANDIDATES, limit),
        )
        return [(session_id, -score) for session_id, score in rows]

    def _search_across_pieces(self, terms: list[str], role: str | None, limit: int) -> list[str]:
        """Sessions that contain all of the terms in different pieces, newest first."""
        one = "SELECT id FROM words JOIN pieces ON piece = words.rowid WHERE words MATCH ?"
        sql = (
            f"SELECT id FROM sessions WHERE id IN ({' INTERSECT '.join([one] * len(terms))})"  # noqa: S608
            " ORDER BY used DESC LIMIT ?"
        )
        values = [_match_in_role(term, role) for term in terms]
        return [session_id for (session_id,) in self.db.execute(sql, (*values, limit))]

    def close(self) -> None:
        self.db.close()

    def _put_facets(self, session: Session) -> None:
        for table, rows in (("natives", _natives(session)), ("labels", _labels(session))):
            old = set(self.db.execute(f"SELECT * FROM {table} WHERE id=?", (session.id,)))  # noqa: S608
            if old != set(rows):
                self.db.execute(f"DELETE FROM {table} WHERE id=?", (session.id,))  # noqa: S608
                self.db.executemany(f"INSERT OR IGNORE INTO {table} VALUES (?,?,?)", rows)  # noqa: S608

    def _put_words(self, said: list[tuple[Session, list[Message]]]) -> None:
        """One row for the words of each; a session's rows are its pieces."""
        found = self.db.execute("SELECT max(rowid) FROM words_docsize").fetchone()[0]
        at = max(found or 0, self.db.execute("SELECT max(piece) FROM pieces").fetchone()[0] or 0)
        texts, pieces = [], []
        for session, messages in said:
            at += 1
            by_role = ["\n".join(m.content for m in messages if m.role == role) for role in ROLES]
            texts.append((at, *map(separate_characters, (session.title or "", *by_role))))
            pieces.append((at, session.id))
        sql = "INSERT INTO words (rowid, title, user, assistant, system) VALUES (?,?,?,?,?)"
        self.db.executemany(sql, texts)
        self.db.executemany("INSERT INTO pieces VALUES (?,?)", pieces)


def connect(uri: str, *, timeout: float) -> sqlite3.Connection:
    """A connection that one thread uses, and another may close; `timeout` is in seconds."""
    return sqlite3.connect(
        uri, uri=True, isolation_level=None, timeout=timeout, check_same_thread=False
    )


def _to_session(session_id: str, record: str, problem: str | None) -> Session | Damaged:
    if problem:
        return Damaged(session_id, problem)
    try:
        return Session.from_json(json.loads(record))
    except SessionError as error:  # a newer clinvk put it there
        return Damaged(session_id, error.message)


def query_words(text: str) -> list[str]:
    """The words of a query; any text is valid, and nothing in it is syntax."""
    text = "".join(" " if _is_unstorable(c) else c for c in text)
    return [w for w in text.split() if any(c.isalnum() for c in w)]


def _is_unstorable(character: str) -> bool:
    """Replace NUL, which ends a query of SQLite, and lone surrogates, which UTF-8 cannot encode."""
    return character == "\0" or "\ud800" <= character <= "\udfff"


def _quoted(word: str) -> str:
    """A phrase of the characters, if the script has no spaces."""
    return '"' + separate_characters(word).strip().replace('"', '""') + '"'


def _match_in_role(match: str, role: str | None) -> str:
    return match if role is None else f"{{{role}}} : ({match})"


def _last_used(session: Session) -> str:
    # Only for damaged sessions.
    from clinvk.model.usage import rfc3339

    return rfc3339(session.updated_at)


def _path(path: str | None) -> str | None:
    """A path as stored in a column: as bytes if it is not UTF-8, since two such paths may look
    alike as text."""
    if path is None or path.isprintable():
        return path
    try:
        path.encode()
    except UnicodeEncodeError:
        return f"\0{path.encode('utf-8', 'surrogatepass').hex()}"
    return path


def _natives(session: Session) -> list[Row]:
    return [(native, backend, session.id) for backend, native in session.native_ids.items()]


def _labels(session: Session) -> list[Row]:
    tags = [("tag", tag, session.id) for tag in session.tags]
    return tags + [(f"={k}", str(v), session.id) for k, v in session.metadata.items()]


def _query_condition(query: Query) -> tuple[str, list[Any]]:
    """The condition of a query, and its values."""
    terms: list[str] = []
    values: list[Any] = []

    def add(term: str, *more: Any) -> None:
        terms.append(term)
        values.extend(map(replace_surrogates, more))

    if query.backend is not None:
        add("(+backend=? OR EXISTS (SELECT 1 FROM natives n WHERE n.id=sessions.id AND n.backend=?))",
            query.backend, query.backend)  # fmt: skip
    if query.status == "damaged":
        add("problem IS NOT NULL")
    elif query.status is not None:
        add("status=?", query.status)
    if query.cwd is not None:
        add("cwd=?", _path(query.cwd))
    if query.tag is not None:
        add("id IN (SELECT id FROM labels WHERE kind='tag' AND value=?)", query.tag)
    for key, value in query.metadata.items():
        add("id IN (SELECT id FROM labels WHERE kind=? AND value=?)", f"={key}", value)
    if query.resumable:
        add(f"resumable=1 AND +status IN ({','.join('?' * len(RESUMABLE))})", *RESUMABLE)
    if not query.tasks:
        add("task IS NULL")
    if query.before is not None:
        add("used<? AND problem IS NULL", query.before)
    return (" WHERE " + " AND ".join(terms) if terms else ""), values
