"""Sessions as files: one record each, one transcript each, and locks.

    sessions/<id>.json       the record, replaced atomically
    transcripts/<id>.jsonl   the messages, one a line, appended to
    locks/<id>               held while a turn runs; what it holds tells how to end that turn
    lock                     held while anything is written; never deleted; names what is written
    index.db                 derived from the first two; can be deleted at any time

Folders are 0700 and files 0600. Reading needs no lock; where nothing can be written, the files are
read one by one in place of an index that would have to be mended.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from clinvk.disk.atomic import NoSpace, cannot, is_private, remove_leftovers, sync_files
from clinvk.disk.closing import Closing
from clinvk.disk.lockfile import FileTurn
from clinvk.errors import SessionError
from clinvk.model.session import Message, Session, check_id, new_id
from clinvk.store.base import Change, Damaged, Hit, Query
from clinvk.store.codec import taken, unknown
from clinvk.store.files.index_sync import Progress, Told, Upkeep
from clinvk.store.files.records import SessionFiles, TimeAndSize
from clinvk.store.locks import TurnLocks

if TYPE_CHECKING:
    from clinvk.store.index import Index

REMOVED = "-"  # in `lock`: sessions were being taken away
AT_ONCE = 32  # sessions whose files are open together


class FileStore(Closing):
    def __init__(self, home: Path, progress: Progress = lambda _done, _all: None) -> None:
        """`progress` is told (done, all) while the index is made anew."""
        self.home = home
        self._files = SessionFiles(home)
        self._upkeep = Upkeep(home, self._files, progress)
        self._locks = TurnLocks(home / "locks")
        self._promised: dict[str, tuple[Session, list[Message]]] = {}  # begun, and not written yet

    def close(self) -> None:
        self._upkeep.close()

    def create(
        self,
        session: Session,
        messages: Iterable[Message] = (),
        *,
        exact: bool = False,
        durable: bool = True,
        settled: bool = True,
    ) -> Session:
        check_id(session.id)
        if not settled:
            self._upkeep.check_open()
            self._promise(session, list(messages))
            return session
        with self._upkeep.writing(session.id) as (index, told):
            while self._is_taken(session.id, index, exact=exact):
                if exact:
                    raise taken(session.id)
                session = replace(session, id=new_id())
            self._files.say(session.id, messages, durable=durable)
            try:
                self._write(session, told, durable=durable)
            except SessionError:
                self._files.unsay(session.id)
                raise
        return session

    def get(self, id: str) -> Session:  # noqa: A002
        self._upkeep.check_open()
        promised = self._promised.get(id)
        return promised[0] if promised else self._files.read(check_id(id))

    def update(
        self,
        id: str,  # noqa: A002
        change: Change,
        *,
        durable: bool = True,
        settled: bool = True,
    ) -> Session:
        if not settled:
            with self._upkeep.unsettling(id):
                session = change(self.get(id))
                self._keep_promise(id)
                return self._leave(session)
        with self._changing(id) as told:
            session = change(self.get(id))
            self._write(session, told, durable=durable)
        return session

    def append(
        self,
        id: str,  # noqa: A002
        messages: Iterable[Message],
        change: Change,
        *,
        settled: bool = True,
    ) -> Session:
        if not settled:
            with self._upkeep.unsettling(id):
                session = change(self.get(id))
                if not self._keep_promise(id, messages):
                    self._files.append(id, messages, durable=False)
                return self._leave(session)
        with self._changing(id) as told:
            before = self.get(id)
            session = change(before)
            self._files.append(id, messages, is_new=before.turns == 0)
            self._write(session, told, durable=True)
        return session

    def settle(self, ids: Iterable[str]) -> None:
        self._upkeep.check_open()
        ids = list(ids)
        try:
            for start in range(0, len(ids), AT_ONCE):
                some = ids[start : start + AT_ONCE]
                sync_files(path for id_ in some for path in self._files.both(check_id(id_)))
        except OSError as error:
            raise cannot("write", self.home, error) from error
        self._upkeep.settle(ids)

    def rewrite(self, id: str, messages: Iterable[Message], change: Change) -> Session:  # noqa: A002
        with self._changing(id) as told:
            session = change(self.get(id))
            self._files.say(id, messages, durable=True)
            told.append(lambda index: index.forget_words(id))
            self._write(session, told, durable=True)
        return session

    def messages(self, id: str) -> list[Message]:  # noqa: A002
        self._upkeep.check_open()
        if promised := self._promised.get(id):
            return promised[1]
        return self._files.messages(check_id(id))

    def size(self, id: str) -> int:  # noqa: A002
        self._upkeep.check_open()
        return self._files.size(check_id(id))

    def select(self, query: Query) -> list[Session | Damaged]:
        rows = self._upkeep.ask(lambda index: list(index.select(query)))
        if rows is None:
            return self._files.scan(query)
        return [self._files.checked(*row) for row in rows]

    def count(self, query: Query) -> int:
        query = replace(query, limit=None)
        count = self._upkeep.ask(lambda index: index.count(query))
        return len(self._files.scan(query)) if count is None else count

    def matching(self, text: str, limit: int = 11) -> list[str]:
        found = self._upkeep.ask(lambda index: index.matching(text, limit))
        if found is not None:
            return found
        folded = text.lower()
        return sorted(i for i in self._files.ids() if i.lower().startswith(folded))[:limit]

    def owners(self, backend: str | None, native_id: str) -> list[str]:
        pairs = self._upkeep.ask(lambda index: index.owners(native_id))
        if pairs is None:
            pairs = [
                (name, s.id)
                for s in self._all()
                for name, native in s.native_ids.items()
                if native == native_id
            ]
        return [id_ for name, id_ in pairs if backend in (None, name)]

    def search(self, text: str, *, role: str | None = None, limit: int = 20) -> list[Hit]:
        # SQLite, 5 ms, which a prompt without a search does not need.
        from clinvk.store.index import words_of
        from clinvk.store.search import hits, scan

        words = words_of(text)
        if not words:
            return []
        ranked = self._upkeep.ask(lambda index: index.search(words, role, limit))
        if ranked is None:
            return scan(self._all(), self.messages, words, role, limit)
        return hits(ranked, self.get, self.messages, words, role)

    def reindex(self, progress: Progress = lambda _done, _all: None) -> int:
        return self._upkeep.make_anew(progress)

    def delete(self, id: str) -> None:  # noqa: A002
        self._upkeep.check_open()
        check_id(id)
        if id not in self._promised and not self._files.exists(id):
            raise unknown(id)
        with self._locks.idle(id):
            if self._promised.pop(id, None) is None:
                with self._upkeep.removing(id) as told:
                    self._files.remove(id)
                    told.append(lambda index: index.remove([id]))

    def clean(self, before: str, *, dry_run: bool = False) -> list[str]:
        self._upkeep.check_open()
        if not dry_run:
            self._forget_strays(before)
        old = self._used_before(before)
        if dry_run:
            return [id_ for id_, _ in old if self._locks.is_idle(id_)]
        gone: list[str] = []
        if not old:
            return gone
        with self._upkeep.removing(REMOVED) as told:
            for id_, stat in old:
                if self._remove_idle(id_, before, stat):
                    gone.append(id_)
            told.append(lambda index: index.remove(gone))
        return gone

    def turn(self, id: str) -> FileTurn | None:  # noqa: A002
        self._upkeep.check_open()
        return self._locks.turn(id)

    def is_own(self, id: str) -> bool:  # noqa: A002
        return id in self._promised or is_private(self._files.record(check_id(id)))

    def running(self, id: str) -> dict[str, Any] | None:  # noqa: A002
        self._upkeep.check_open()
        return self._locks.running(id)

    def all_running(self) -> list[str]:
        self._upkeep.check_open()
        return self._locks.all_running()

    # Within.

    @contextmanager
    def _changing(self, id_: str) -> Iterator[list[Told]]:
        """The lock, for a session that is there, and what the index is to be told."""
        with self._upkeep.writing(id_) as (_, told):
            if self._keep_promise(id_):
                self._write(self._promised.pop(id_)[0], told, durable=False)
            yield told

    def _write(self, session: Session, told: list[Told], *, durable: bool) -> None:
        session = self._files.write(session, durable=durable)
        told.append(lambda index: _put(index, self._files, session))

    def _leave(self, session: Session) -> Session:
        session = self._files.leave(session)
        self._promised.pop(session.id, None)
        return session

    def _all(self) -> Iterator[Session]:
        return (s for s in self._files.scan(Query()) if isinstance(s, Session))

    def _is_taken(self, id_: str, index: Index | None, *, exact: bool) -> bool:
        """Names differ in more than case, so that no file system confuses two of them."""
        if id_ in self._promised or self._files.exists(id_):
            return True
        if not exact:
            return False
        near = self._files.ids() if index is None else self._near(id_, index)
        return id_.lower() in (name.lower() for name in near)

    def _near(self, id_: str, index: Index) -> list[str]:
        try:
            return index.matching(id_, 100)
        except sqlite3.Error:
            self._upkeep.drop()
            return self._files.ids()

    # A session that is begun and not settled is written with its first change: that saves two files
    # and a rename for each of many tasks, most of which say at once what is to be written.

    def _promise(self, session: Session, messages: list[Message]) -> None:
        """Hold the session until there is more to write; whether it can be written is met now."""
        if self._is_taken(session.id, None, exact=False):
            raise taken(session.id)
        self._files.check()
        self._promised[session.id] = (session, messages)

    def _keep_promise(self, id_: str, more: Iterable[Message] = ()) -> bool:
        """Write what was said so far in a session that is held, and `more`; its record comes next.
        Nothing, where none is held."""
        promised = self._promised.get(id_)
        if promised is None:
            return False
        if self._files.exists(id_):
            raise taken(id_)
        self._files.say(id_, [*promised[1], *more], durable=False)
        return True

    # Those that nobody has used for long.

    def _forget_strays(self, before: str) -> None:
        """Take away the locks of sessions that were never written, since their clinvk was killed,
        and the temporary files that it left."""
        remove_leftovers(self.home)
        self._files.remove_leftovers()
        for id_ in self._locks.older_than(datetime.fromisoformat(before).timestamp()):
            if self._files.exists(id_) or id_ in self._promised:
                continue
            with suppress(NoSpace):  # for a lock that somebody else has deleted meanwhile
                if (turn := self.turn(id_)) is not None:
                    self._locks.forget(id_)
                    turn.abandon()

    def _used_before(self, before: str) -> list[tuple[str, TimeAndSize | None]]:
        """Ids, with the time and size that the record had when the index read it."""
        query = Query(before=before)
        found = self._upkeep.ask(lambda index: index.stats(query))
        if found is not None:
            return found
        return [(s.id, None) for s in self._files.scan(query) if isinstance(s, Session)]

    def _remove_idle(self, id_: str, before: str, stat: TimeAndSize | None) -> bool:
        """Take the session away if it is still old and does not run; with the lock held.

        A turn that begins has its lock first, and then has to write before it starts anything: so
        where there is no lock now, none can begin that would not find the session gone."""
        if not self._locks.exists(id_):
            return self._files.remove_old(id_, before, stat)
        turn = self.turn(id_)
        if turn is None:
            return False
        if turn.left:  # what it left running is ended by whoever deletes it
            turn.abandon()
            return False
        try:
            removed = self._files.remove_old(id_, before, stat)
            if removed:
                self._locks.forget(id_)
            return removed
        finally:
            turn.close()


def _put(index: Index, files: SessionFiles, session: Session) -> None:
    from clinvk.store.files import indexer  # who only reads has no use for it

    indexer.put(index, files, session)
