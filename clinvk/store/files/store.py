"""Sessions as files: one record each, one transcript each, and locks.

    sessions/<id>.json       the record, replaced atomically transcripts/<id>.jsonl   the messages,
    one per line, append-only locks/<id>               held while a turn is running; its content
    says how to stop that turn lock                     held while anything is written; never
    deleted; names what is being written index.db                 derived from the first two; can be
    deleted at any time

Directories are 0700 and files 0600. Reading needs no lock; on a read-only disk, the files are read
one by one instead of an index that would have to be repaired.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from clinvk.disk.atomic import NoSpace, remove_leftovers
from clinvk.disk.closing import Closing
from clinvk.disk.lockfile import HeldLock
from clinvk.disk.waiting import check_may_block
from clinvk.errors import SessionError
from clinvk.model.session import Message, Session, check_id, new_id
from clinvk.store.base import Change, Damaged, Hit, Query
from clinvk.store.codec import not_found_error, taken_error
from clinvk.store.files.deferred import DeferredFiles
from clinvk.store.files.index_sync import IndexChange, IndexSync, Progress
from clinvk.store.files.records import SessionFiles, TimeAndSize, Unlink
from clinvk.store.locks import TurnLocks

if TYPE_CHECKING:
    from clinvk.store.index import Index

REMOVING_MARK = "-"  # in `lock`: sessions were being deleted


class FileStore(Closing):
    def __init__(self, home: Path, progress: Progress = lambda _done, _all: None) -> None:
        """`progress` is called with (done, total) while the index is rebuilt."""
        self.home = home
        self._files = SessionFiles(home)
        self._index_sync = IndexSync(home, self._files, progress)
        self._locks = TurnLocks(home / "locks")
        self._deferred = DeferredFiles(home, self._files, self._index_sync)

    def close(self) -> None:
        self._index_sync.close()

    def create(
        self,
        session: Session,
        messages: Iterable[Message] = (),
        *,
        exact: bool = False,
        durable: bool = True,
    ) -> Session:
        check_id(session.id)
        with self._index_sync.writing(session.id) as (index, told):
            while self._is_taken(session.id, index, exact=exact):
                if exact:
                    raise taken_error(session.id)
                session = replace(session, id=new_id())
            self._files.write_transcript(session.id, messages, durable=durable)
            try:
                self._write(session, told, durable=durable)
            except SessionError:
                self._files.unsay(session.id)
                raise
        return session

    def get(self, session_id: str) -> Session:
        self._index_sync.check_open()
        return self._deferred.read(session_id)

    def update(self, session_id: str, change: Change, *, durable: bool = True) -> Session:
        with self._change(session_id) as told:
            session = change(self.get(session_id))
            self._write(session, told, durable=durable)
        return session

    def append(self, session_id: str, messages: Iterable[Message], change: Change) -> Session:
        with self._change(session_id) as told:
            before = self.get(session_id)
            session = change(before)
            self._files.append(session_id, messages, is_new=before.turns == 0)
            self._write(session, told, durable=True)
        return session

    def deferred(self) -> DeferredFiles:
        return self._deferred

    def rewrite(self, session_id: str, messages: Iterable[Message], change: Change) -> Session:
        with self._change(session_id) as told:
            session = change(self.get(session_id))
            self._files.write_transcript(session_id, messages, durable=True)
            told.append(lambda index: index.forget_words(session_id))
            self._write(session, told, durable=True)
        return session

    def messages(self, session_id: str) -> list[Message]:
        self._index_sync.check_open()
        if (begun := self._deferred.begun(session_id)) is not None:
            return begun[1]
        check_may_block()
        return self._files.messages(check_id(session_id))

    def size(self, session_id: str) -> int:
        self._index_sync.check_open()
        return self._files.size(check_id(session_id))

    def select(self, query: Query) -> list[Session | Damaged]:
        rows = self._index_sync.query(lambda index: list(index.select(query)))
        if rows is None:
            return self._files.scan(query)
        return [self._files.session_if_unchanged(*row) for row in rows]

    def count(self, query: Query) -> int:
        query = replace(query, limit=None)
        count = self._index_sync.query(lambda index: index.count(query))
        return len(self._files.scan(query)) if count is None else count

    def find_ids(self, text: str, limit: int = 11) -> list[str]:
        found = self._index_sync.query(lambda index: index.find_ids(text, limit))
        if found is not None:
            return found
        folded = text.lower()
        return sorted(i for i in self._files.ids() if i.lower().startswith(folded))[:limit]

    def find_by_native_id(self, backend: str | None, native_id: str) -> list[str]:
        pairs = self._index_sync.query(lambda index: index.find_by_native_id(native_id))
        if pairs is None:
            pairs = [
                (name, s.id)
                for s in self._all()
                for name, native in s.native_ids.items()
                if native == native_id
            ]
        return [session_id for name, session_id in pairs if backend in (None, name)]

    def search(self, text: str, *, role: str | None = None, limit: int = 20) -> list[Hit]:
        # SQLite, 5 ms, which a prompt without a search does not need.
        from clinvk.store.index import query_words
        from clinvk.store.search import build_hits, scan_sessions

        words = query_words(text)
        if not words:
            return []
        ranked = self._index_sync.query(lambda index: index.search(words, role, limit))
        if ranked is None:
            return scan_sessions(self._all(), self.messages, words, role, limit)
        return build_hits(ranked, self.get, self.messages, words, role)

    def reindex(self, progress: Progress = lambda _done, _all: None) -> int:
        return self._index_sync.rebuild(progress)

    def delete(self, session_id: str) -> None:
        self._index_sync.check_open()
        check_id(session_id)
        if session_id not in self._deferred and not self._files.exists(session_id):
            raise not_found_error(session_id)
        check_may_block()
        with self._locks.idle(session_id):
            if self._deferred.forget(session_id) is None:
                with self._index_sync.removing(session_id) as told:
                    self._files.remove(session_id)
                    told.append(lambda index: index.remove([session_id]))

    def clean(self, before: str, *, dry_run: bool = False) -> list[str]:
        from clinvk.disk.removal import Removal  # only to delete many sessions

        self._index_sync.check_open()
        if not dry_run:
            self._delete_stray_locks(before)
        old = self._used_before(before)
        if dry_run:
            return [session_id for session_id, _ in old if self._locks.is_idle(session_id)]
        gone: list[str] = []
        if not old:
            return gone
        with self._index_sync.removing(REMOVING_MARK) as told:
            with Removal() as removal:
                for session_id, stat in old:
                    if self._remove_idle(session_id, before, stat, removal.unlink):
                        gone.append(session_id)
            told.append(lambda index: index.remove(gone))
        return gone

    def acquire_turn(self, session_id: str) -> HeldLock | None:
        self._index_sync.check_open()
        return self._locks.acquire(session_id)

    def is_own(self, session_id: str) -> bool:
        return session_id in self._deferred or self._files.is_own(check_id(session_id))

    def running_turn(self, session_id: str) -> dict[str, Any] | None:
        self._index_sync.check_open()
        return self._locks.running_turn(session_id)

    def running_ids(self) -> list[str]:
        self._index_sync.check_open()
        return self._locks.running_ids()

    # Internals.

    @contextmanager
    def _change(self, session_id: str) -> Iterator[list[IndexChange]]:
        """The lock, for an existing session, and the list of updates for the index."""
        with self._index_sync.writing(session_id) as (_, told):
            self._deferred.write_begun(session_id)
            if (begun := self._deferred.forget(session_id)) is not None:
                self._write(begun, told, durable=False)
            yield told

    def _write(self, session: Session, index_changes: list[IndexChange], *, durable: bool) -> None:
        session = self._files.write(session, durable=durable)
        index_changes.append(lambda index: _index_session(index, self._files, session))

    def _all(self) -> Iterator[Session]:
        return (s for s in self._files.scan(Query()) if isinstance(s, Session))

    def _is_taken(self, session_id: str, index: Index | None, *, exact: bool) -> bool:
        """Raise an error for a name that differs from another only in case, which file systems
        confuse."""
        if session_id in self._deferred or self._files.exists(session_id):
            return True
        if not exact:
            return False
        near = self._files.ids() if index is None else self._similar_ids(session_id, index)
        return session_id.lower() in (name.lower() for name in near)

    def _similar_ids(self, session_id: str, index: Index) -> list[str]:
        try:
            return index.find_ids(session_id, 100)
        except sqlite3.Error:
            self._index_sync.delete_index()
            return self._files.ids()

    # Sessions not used for long.

    def _delete_stray_locks(self, before: str) -> None:
        """Delete the locks of sessions that were never written, since their clinvk was killed, and
        the temporary files that it left."""
        remove_leftovers(self.home)
        self._files.remove_leftovers()
        for session_id in self._locks.older_than(datetime.fromisoformat(before).timestamp()):
            if self._files.exists(session_id) or session_id in self._deferred:
                continue
            with suppress(NoSpace):  # for a lock that another process has deleted meanwhile
                if (turn := self.acquire_turn(session_id)) is not None:
                    self._locks.delete(session_id)
                    turn.abandon()

    def _used_before(self, before: str) -> list[tuple[str, TimeAndSize | None]]:
        """Ids, with the time and size that the record had when the index read it."""
        query = Query(before=before)
        found = self._index_sync.query(lambda index: index.stats(query))
        if found is not None:
            return found
        return [(s.id, None) for s in self._files.scan(query) if isinstance(s, Session)]

    def _remove_idle(
        self, session_id: str, before: str, stat: TimeAndSize | None, unlink: Unlink
    ) -> bool:
        """Delete the session if it is still old and not running; call it with the lock held.

        A starting turn takes its lock first, and then has to write before it starts anything: so
        without a lock now, any turn that starts will find the session deleted."""
        if not self._locks.exists(session_id):
            return self._files.remove_old(session_id, before, stat, unlink)
        turn = self.acquire_turn(session_id)
        if turn is None:
            return False
        if turn.leftover:  # what it left running is stopped by an explicit deletion
            turn.abandon()
            return False
        try:
            removed = self._files.remove_old(session_id, before, stat, unlink)
            if removed:
                self._locks.delete(session_id)
            return removed
        finally:
            turn.close()


def _index_session(index: Index, files: SessionFiles, session: Session) -> None:
    from clinvk.store.files import indexer  # not needed to read

    indexer.index_session(index, files, session)
