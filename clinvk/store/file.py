"""Sessions as files: one record each, one transcript each, and locks.

    sessions/<id>.json       the record, replaced atomically
    transcripts/<id>.jsonl   the messages, one a line, appended to
    locks/<id>               held while a turn runs; what it holds tells how to end that turn
    lock                     held while anything is written; never deleted; names what is written
    index.db                 derived from the first two; can be deleted at any time

Folders are 0700 and files 0600. Reading needs no lock; where nothing can be written, the files are
read one by one in place of an index that would have to be mended.

How a stale index is noticed: it remembers the time of the folder of records, which changes with
every record that appears, goes or is replaced; and `lock` holds a mark. It is the id of a session
whose writer was killed; or `r12.*`, where sessions whose ids begin so have been written and not
settled. Who wants the index then mends it by comparing. Only the one who left them unsettled knows
better: as long as the mark and the time of the folder are those that he left, the index lacks what
he has written since, and nothing else.
"""

from __future__ import annotations

import errno
import os
import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
from msgspec.structs import replace

from clinvk.errors import SessionError, SessionNotFound
from clinvk.session import Message, Session, check_id, new_id
from clinvk.store import Change, Damaged, Hit, Query
from clinvk.store.files import (
    FileTurn,
    append_file,
    cannot,
    make_folder,
    replace_file,
    sync_files,
    write_file,
)
from clinvk.store.locks import Locks, held
from clinvk.store.records import (
    as_kept,
    encode,
    is_running,
    left_behind,
    messages_of,
    session_of,
    taken,
    unknown,
    unreadable,
)

if TYPE_CHECKING:
    from clinvk.store.index import Index

BATCH = 2_000  # sessions that are read at a time when the index is made anew
REMOVED = "-"  # in `lock`: sessions were being taken away
ANYTHING = "*"  # in `lock`: more than it has room for
MARK = 4096  # bytes of it
AT_ONCE = 32  # sessions whose files are open together

Progress = Callable[[int, int], None]
T = TypeVar("T")


class FileStore:
    def __init__(self, home: Path, progress: Progress = lambda _done, _all: None) -> None:
        self.home = home
        self.progress = progress  # told (done, all) while the index is made anew
        self._sessions = str(home / "sessions")
        self._transcripts = str(home / "transcripts")
        self._locks = Locks(home / "locks")
        self._mine = threading.local()  # SQLite's connections stay in the thread that made them
        # Sessions that we have written and the index does not know, each with `_same` of its
        # record; and how we left things: our process, the mark, the time of the folder.
        self._unsettled: dict[str, tuple[Session, tuple[int, ...]]] = {}
        self._left: tuple[int, str, int] | None = None
        self._promised: dict[str, tuple[Session, list[Message]]] = {}  # begun, and not written yet

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
            self._promise(session, list(messages))
            return session
        with self.writing(session.id) as index:
            while self._taken(session.id, index, exact=exact):
                if exact:
                    raise taken(session.id)
                session = replace(session, id=new_id())
            self._say(session.id, messages, durable=durable)
            self._write(session, durable=durable)
        return session

    def get(self, id: str) -> Session:  # noqa: A002
        promised = self._promised.get(id)
        return promised[0] if promised else self._read(check_id(id))

    def update(
        self,
        id: str,  # noqa: A002
        change: Change,
        *,
        durable: bool = True,
        settled: bool = True,
    ) -> Session:
        if not settled:
            with self._unsettling(id):
                session = change(self.get(id))
                self._keep_promise(id)
                return self._leave(session)
        with self.writing(id):
            session = change(self.get(id))
            self._write(session, durable=durable)
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
            with self._unsettling(id):
                session = change(self.get(id))
                if not self._keep_promise(id, messages):
                    self._append(id, messages, durable=False)
                return self._leave(session)
        with self.writing(id):
            before = self.get(id)
            session = change(before)
            self._append(id, messages, is_new=before.turns == 0)
            self._write(session, durable=True)
        return session

    def settle(self, ids: Iterable[str]) -> None:
        ids = list(ids)
        try:
            for start in range(0, len(ids), AT_ONCE):
                some = ids[start : start + AT_ONCE]
                sync_files(path for id_ in some for path in self._files(check_id(id_)))
            if not self._unsettled.keys().isdisjoint(ids):
                with self._exclusive():
                    self._settle_index(ids)
        except OSError as error:
            raise cannot("write", self.home, error) from error

    def rewrite(self, id: str, messages: Iterable[Message], change: Change) -> Session:  # noqa: A002
        with self.writing(id):
            session = change(self.get(id))
            self._say(id, messages, durable=True)
            self._tell(lambda known: known.forget_words(id))
            self._write(session, durable=True)
        return session

    def messages(self, id: str) -> list[Message]:  # noqa: A002
        if promised := self._promised.get(id):
            return promised[1]
        return _messages(self._said(check_id(id)))

    def size(self, id: str) -> int:  # noqa: A002
        return sum(os.path.getsize(f) for f in self._files(check_id(id)) if os.path.isfile(f))

    def select(self, query: Query) -> list[Session | Damaged]:
        rows = self._ask(lambda index: list(index.select(query)))
        return self._scan(query) if rows is None else [self._checked(*row) for row in rows]

    def count(self, query: Query) -> int:
        query = replace(query, limit=None)
        count = self._ask(lambda index: index.count(query))
        return len(self._scan(query)) if count is None else count

    def matching(self, text: str, limit: int = 11) -> list[str]:
        found = self._ask(lambda index: index.matching(text, limit))
        if found is not None:
            return found
        folded = text.lower()
        return sorted(i for i in self._ids() if i.lower().startswith(folded))[:limit]

    def owners(self, backend: str | None, native_id: str) -> list[str]:
        pairs = self._ask(lambda index: index.owners(native_id))
        if pairs is None:
            pairs = [
                (name, s.id)
                for s in self._scan(Query())
                if isinstance(s, Session)
                for name, native in s.native_ids.items()
                if native == native_id
            ]
        return [id_ for name, id_ in pairs if backend in (None, name)]

    def search(self, text: str, *, role: str | None = None, limit: int = 20) -> list[Hit]:
        from clinvk.store.index import words_of
        from clinvk.store.search import hits, scan

        words = words_of(text)
        if not words:
            return []
        ranked = self._ask(lambda index: index.search(words, role, limit))
        if ranked is None:
            everything = (s for s in self._scan(Query()) if isinstance(s, Session))
            return scan(everything, self.messages, words, role, limit)
        return hits(ranked, self.get, self.messages, words, role)

    def reindex(self, progress: Progress = lambda _done, _all: None) -> int:
        with self._exclusive():
            self._drop_index()
            index = self._opened(create=True)
            if index is None:
                raise SessionError(f"{self.home / 'index.db'} cannot be written")
            index.prepare()
            with index.changing():
                count = self._fill(index, progress)
                index.set("mtime", self._mtime())
            self._mark("")
        return count

    def delete(self, id: str) -> None:  # noqa: A002
        check_id(id)
        if id not in self._promised and not os.path.lexists(self._record(id)):
            raise unknown(id)
        turn = self.turn(id)
        if turn is None:
            raise is_running(id)
        if turn.left:
            turn.abandon()
            raise left_behind(id)
        try:
            if self._promised.pop(id, None) is None:
                with self.writing(id):
                    self._remove(id)
                    self._tell(lambda known: known.remove([id]))
        finally:
            self._locks.forget(id)
            turn.close()

    def clean(self, before: str, *, dry_run: bool = False) -> list[str]:
        old = self._used_before(before)
        if dry_run:
            return [id_ for id_, _ in old if self._locks.is_idle(id_)]
        gone: list[str] = []
        if not old:
            return gone
        with self.writing(REMOVED):
            for id_, stat in old:
                if self._remove_idle(id_, before, stat):
                    gone.append(id_)
            self._tell(lambda known: known.remove(gone))
        return gone

    def _used_before(self, before: str) -> list[tuple[str, tuple[int, int] | None]]:
        """Ids, with the time and size that the record had when the index read it."""
        query = Query(before=before)
        index = self._fresh()
        if index is not None:
            try:
                return index.stats(query)
            except sqlite3.Error:
                self._drop_index()
        return [(s.id, None) for s in self._scan(query) if isinstance(s, Session)]

    def turn(self, id: str) -> FileTurn | None:  # noqa: A002
        return self._locks.turn(id)

    def running(self, id: str) -> dict[str, Any] | None:  # noqa: A002
        return self._locks.running(id)

    def all_running(self) -> list[str]:
        return self._locks.all_running()

    @contextmanager
    def writing(self, id_: str) -> Iterator[Index | None]:
        """The lock, and the index that is changed with the files. What an error leaves half done
        is noted, so that the index is mended before it is believed again."""
        with self._exclusive():
            index = self._usable()
            before = self._marked()  # nothing, unless there is no index to catch up
            self._mark(id_)
            self._told: list[Callable[[Index], None]] = []
            if self._keep_promise(id_):
                self._write(self._promised.pop(id_)[0], durable=False)
            yield index
            if index is not None:
                try:
                    with index.changing():
                        for change in self._told:
                            change(index)
                        index.set("mtime", self._mtime())
                except sqlite3.Error:
                    self._drop_index()  # a full disk, say: it is made anew when it is wanted
            self._mark(before)

    # What the index is told of later.

    @contextmanager
    def _unsettling(self, id_: str) -> Iterator[None]:
        """The lock, for a write that the index is not told of. From now on it is marked as stale;
        ourselves know what it lacks, if we did so far."""
        with self._exclusive():
            marked = self._marked()
            known = self._know(marked)
            if not known:
                self._unsettled.clear()
                # What others leave unsettled is mended once, and not each time.
                if not marked or self._left is None:
                    known = self._usable() is not None
                    marked = self._marked()
            run, dot, _ = id_.partition(".")
            mark = f"{run}.*" if dot else id_
            if mark not in marked.split():
                marked = f"{marked} {mark}".strip()
                marked = marked if len(marked) <= MARK else ANYTHING
                self._mark(marked)
            self._left = (0, "", 0)  # nobody's: from now on we do not know
            yield
            if known:
                self._left = (os.getpid(), marked, self._mtime())

    def _know(self, marked: str) -> bool:
        """Whether the index lacks what we left unsettled, and nothing else."""
        if self._left is None:
            return False
        pid, mark, mtime = self._left
        return pid == os.getpid() and marked in ("", mark) and mtime == self._mtime()

    def _settle_index(self, ids: list[str]) -> None:
        try:
            if (index := self._opened(create=True)) is not None:
                self._catch_up(index, ids)
        except sqlite3.Error:
            self._drop_index()  # a full disk, say

    def _leave(self, session: Session) -> Session:
        self._unsettled[session.id] = self._put_record(session, durable=False)
        self._promised.pop(session.id, None)
        return session

    # What is written with what comes of it.

    def _promise(self, session: Session, messages: list[Message]) -> None:
        """Hold the session until there is more to write; whether it can be written is met now."""
        if self._taken(session.id, None, exact=False):
            raise taken(session.id)
        for folder in (self._sessions, self._transcripts):
            try:
                make_folder(folder)
            except OSError as error:
                raise cannot("write", folder, error) from error
            if not os.access(folder, os.W_OK | os.X_OK):
                raise cannot("write", folder, OSError(errno.EACCES, os.strerror(errno.EACCES)))
        self._promised[session.id] = (session, messages)

    def _keep_promise(self, id_: str, more: Iterable[Message] = ()) -> bool:
        """Write what was said so far in a session that is held, and `more`; its record comes next.
        Nothing, where none is held."""
        promised = self._promised.get(id_)
        if promised is None:
            return False
        if os.path.lexists(self._record(id_)):
            raise taken(id_)
        self._say(id_, [*promised[1], *more], durable=False)
        return True

    def _catch_up(self, index: Index, ids: Iterable[str]) -> bool:
        """Tell the index of these sessions, if we know what it lacks; call it with the lock held."""
        if not self._know(self._marked()):
            return False
        ids = [id_ for id_ in ids if id_ in self._unsettled]
        with index.changing():
            known = [id_ for id_ in ids if index.has(id_)]
            self._take_in(index, [id_ for id_ in ids if id_ not in known])
            for id_ in known:
                self._look_again(index, id_, self._unsettled[id_][1])
            index.set("mtime", self._mtime())
        for id_ in ids:
            del self._unsettled[id_]
        if not self._unsettled:
            self._mark("")
        return True

    # The files of a session.

    def _record(self, id_: str) -> str:
        return f"{self._sessions}/{id_}.json"

    def _transcript(self, id_: str) -> str:
        return f"{self._transcripts}/{id_}.jsonl"

    def _files(self, id_: str) -> tuple[str, str]:
        return self._record(id_), self._transcript(id_)

    def _remove(self, id_: str) -> None:
        """The record goes last: while it is there, somebody can delete the rest."""
        _remove(self._transcript(id_))
        _remove(self._record(id_))

    def _ids(self) -> list[str]:
        try:
            return [name[:-5] for name in os.listdir(self._sessions) if _is_record(name)]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise cannot("read", self._sessions, error) from error

    def _taken(self, id_: str, index: Index | None, *, exact: bool) -> bool:
        """Names differ in more than case, so that no file system confuses two of them."""
        if id_ in self._promised or os.path.lexists(self._record(id_)):
            return True
        if not exact:
            return False
        near = self._ids() if index is None else self._near(id_, index)
        return id_.lower() in (name.lower() for name in near)

    def _near(self, id_: str, index: Index) -> list[str]:
        try:
            return index.matching(id_, 100)
        except sqlite3.Error:
            self._drop_index()
            return self._ids()

    def _read(self, id_: str) -> Session:
        path = self._record(id_)
        try:
            if (ours := self._unsettled.get(id_)) and ours[1] == _same(os.stat(path)):
                return ours[0]
            with open(path, "rb") as file:
                return session_of(file.read(), id_, path)
        except FileNotFoundError as error:
            if os.path.islink(path):  # to nowhere
                raise unreadable(id_, path, error.strerror) from error
            raise unknown(id_) from None
        except OSError as error:
            raise unreadable(id_, path, error.strerror) from error

    def _write(self, session: Session, *, durable: bool) -> None:
        session = self._put_record(session, durable=durable)[0]
        self._tell(lambda known: self._put(known, session))

    def _put_record(self, session: Session, *, durable: bool) -> tuple[Session, tuple[int, ...]]:
        """The session as it comes back from its record, and `_same` of that."""
        path = self._record(session.id)
        record, session = as_kept(session)
        data = msgspec.json.format(record, indent=1) + b"\n"
        try:
            make_folder(self._sessions)
            replace_file(path, data, durable=durable)
            return session, _same(os.stat(path))
        except OSError as error:
            raise cannot("write", path, error) from error

    def _say(self, id_: str, messages: Iterable[Message], *, durable: bool) -> None:
        """Put a transcript in place of the one that is there, which a killed clinvk may have left
        of a session that had this id."""
        path = self._transcript(id_)
        data = _lines(messages)
        if not data and not os.path.lexists(path):
            return
        try:
            make_folder(self._transcripts)
            if durable:
                replace_file(path, data, durable=True)
            else:
                write_file(path, data)  # nobody looks at it before the record is there
        except OSError as error:
            raise cannot("write", path, error) from error

    def _append(
        self, id_: str, messages: Iterable[Message], *, is_new: bool = False, durable: bool = True
    ) -> None:
        data = _lines(messages)
        if not data:
            return
        path = self._transcript(id_)
        try:
            make_folder(self._transcripts)
            append_file(path, data, is_new=is_new, durable=durable)
        except OSError as error:
            raise cannot("write", path, error) from error

    def _said(self, id_: str, start: int = 0) -> bytes:
        path = self._transcript(id_)
        try:
            with open(path, "rb") as file:
                file.seek(start)
                return file.read()
        except FileNotFoundError:
            return b""
        except OSError as error:
            raise cannot("read", path, error) from error

    def _remove_idle(self, id_: str, before: str, stat: tuple[int, int] | None) -> bool:
        """Take the session away if it is still old and does not run; with `writing` held.

        A turn that begins has its lock first, and then has to write before it starts anything: so
        where there is no lock now, none can begin that would not find the session gone."""
        if not self._locks.exists(id_):
            return self._remove_old(id_, before, stat)
        turn = self.turn(id_)
        if turn is None:
            return False
        if turn.left:  # what it left running is ended by whoever deletes it
            turn.abandon()
            return False
        try:
            removed = self._remove_old(id_, before, stat)
            if removed:
                self._locks.forget(id_)
            return removed
        finally:
            turn.close()

    def _remove_old(self, id_: str, before: str, stat: tuple[int, int] | None) -> bool:
        """Take it away, if its record is still the one that was old, or is old as it is."""
        try:
            now = os.stat(self._record(id_))
        except OSError:
            return False
        if (now.st_mtime_ns, now.st_size) != stat and not self._is_old(id_, before):
            return False
        self._remove(id_)
        return True

    def _is_old(self, id_: str, before: str) -> bool:
        try:
            return Query(before=before).fits(self._read(id_))
        except SessionError:
            return False

    # The index.

    @property
    def _index(self) -> Index | None:
        """This thread's connection, of this process: a fork must not use its parent's."""
        pid, index = getattr(self._mine, "open", (0, None))
        return index if pid == os.getpid() else None

    @_index.setter
    def _index(self, index: Index | None) -> None:
        self._mine.open = (os.getpid(), index)

    def _ask(self, ask: Callable[[Index], T]) -> T | None:
        """What the index says; nothing where there is none, or none that can be read. A damaged page
        shows only when it is read, so the index is made anew then, once."""
        for _ in range(2):
            index = self._fresh()
            if index is None:
                return None
            try:
                return ask(index)
            except (sqlite3.Error, ValueError):  # ValueError: a record in it is no JSON any more
                with suppress(SessionError), self._exclusive():
                    self._drop_index()
        return None

    def _tell(self, change: Callable[[Index], None]) -> None:
        """Change the index once the files are changed; all that is told during one `writing`, or
        nothing of it."""
        self._told.append(change)

    def _fresh(self) -> Index | None:
        """An index that can be believed, mended where it has to be; nothing where it cannot be."""
        index = self._opened(create=False)
        if index is not None and self._is_fresh(index):
            return index
        if not os.path.isdir(self._sessions):
            return None  # nothing to index
        try:
            with self._exclusive():
                return self._usable()
        except SessionError:
            return None  # reading never needs to write

    def _usable(self) -> Index | None:
        """The index, fresh; call it with the lock held. Nothing where none can be had."""
        for _ in range(2):  # a damaged one is thrown away, and made anew
            index = self._opened(create=True)
            try:
                if index is not None:
                    if self._is_fresh(index) or self._catch_up(index, list(self._unsettled)):
                        return index
                    return self._mended()
                self._drop_index()
            except sqlite3.Error:
                self._drop_index()
        return None

    def _opened(self, *, create: bool) -> Index | None:
        if self._index is None:
            from clinvk.store.index import Index

            path = self.home / "index.db"
            if create and not path.exists():
                with suppress(OSError):
                    os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
            try:
                self._index = Index.open(str(path), writable=os.access(path, os.W_OK))
            except sqlite3.Error:
                return None
        return self._index

    def _is_fresh(self, index: Index) -> bool:
        from clinvk.store.index import VERSION

        try:
            if os.stat(self.home / "lock").st_size > 0:  # marked
                return False
            facts = index.facts()
            return facts.get("version") == VERSION and facts.get("mtime") == self._mtime()
        except (sqlite3.Error, OSError):
            return False

    def _mended(self) -> Index:
        """The index, in agreement with the files: what is new, changed or gone since is seen to."""
        if self._index is not None:
            self._index.close()  # it may have been opened for reading alone
            self._index = None
        index = self._opened(create=True)
        if index is None:
            raise sqlite3.DatabaseError("spoiled")
        index.prepare()
        with index.changing():
            known = index.known()
            if not known:
                self._fill(index, self.progress)
            else:
                seen = self._stats()
                index.remove(known.keys() - seen.keys())
                marks = self._marked().split()
                written = tuple(mark[:-1] for mark in marks if mark.endswith("*"))
                for id_, stat in seen.items():
                    if known.get(id_) != stat or id_ in marks or id_.startswith(written):
                        self._look_again(index, id_, stat)
            index.set("mtime", self._mtime())
        self._unsettled.clear()
        self._mark("")
        return index

    def _look_again(self, index: Index, id_: str, stat: tuple[int, ...]) -> None:
        try:
            self._put(index, self._read(id_))
        except SessionNotFound:
            index.remove([id_])
        except SessionError as error:
            index.put_damaged(id_, error.message, mtime=stat[0], size=stat[1])

    def _put(self, index: Index, session: Session) -> None:
        """The session and the words that its transcript has gained."""
        stat = os.stat(self._record(session.id))
        before = index.title(session.id)
        index.put(session, mtime=stat.st_mtime_ns, size=stat.st_size)
        try:
            size = os.stat(self._transcript(session.id)).st_size
        except FileNotFoundError:
            size = 0
        done = index.indexed(session.id)
        if done > size or before != session.title:
            index.forget_words(session.id)
            done = 0
        if size > done or before != session.title:
            index.add_words(session, _messages(self._said(session.id, done)), upto=size)

    def _fill(self, index: Index, progress: Progress) -> int:
        """Read everything into an empty index; how many sessions there are."""
        ids = self._ids()
        for start in range(0, len(ids), BATCH):
            progress(start, len(ids))
            self._take_in(index, ids[start : start + BATCH])
        progress(len(ids), len(ids))
        return len(ids)

    def _take_in(self, index: Index, ids: list[str]) -> None:
        """Read sessions that the index does not know into it."""
        rows, said = [], []
        for id_ in ids:
            try:
                stat = os.lstat(self._record(id_))
            except FileNotFoundError:
                continue  # deleted meanwhile
            try:
                session = self._read(id_)
            except SessionNotFound:
                continue
            except SessionError as error:
                index.put_damaged(id_, error.message, mtime=stat.st_mtime_ns, size=stat.st_size)
                continue
            data = self._said(id_)
            rows.append((session, stat.st_mtime_ns, stat.st_size, len(data)))
            said.append((session, _contents(data)))
        index.put_many(rows)
        index.add_many(said)

    def _stats(self) -> dict[str, tuple[int, int]]:
        found = {}
        for id_ in self._ids():
            with suppress(FileNotFoundError):  # deleted meanwhile
                stat = os.lstat(self._record(id_))
                found[id_] = (stat.st_mtime_ns, stat.st_size)
        return found

    def _checked(self, found: Session | Damaged, mtime: int, size: int) -> Session | Damaged:
        """The row, if its file has not changed since; else what the file says now."""
        try:
            stat = os.stat(self._record(found.id))
            if (stat.st_mtime_ns, stat.st_size) == (mtime, size):
                return found
            return self._read(found.id)
        except OSError:
            return found
        except SessionError as error:
            return Damaged(found.id, error.message)

    def _scan(self, query: Query) -> list[Session | Damaged]:
        """`select` without an index: every file is read."""
        sessions: list[Session] = []
        damaged: list[Session | Damaged] = []
        for id_ in self._ids():
            try:
                session = self._read(id_)
            except SessionNotFound:
                continue  # deleted meanwhile
            except SessionError as error:
                damaged.append(Damaged(id_, error.message))
                continue
            if query.fits(session):
                sessions.append(session)
        sessions.sort(key=lambda s: s.updated_at, reverse=True)
        return [*sessions, *(damaged if query.of_damaged else [])][: query.limit]

    def _mtime(self) -> int:
        try:
            return os.stat(self._sessions).st_mtime_ns
        except FileNotFoundError:
            return 0

    def _drop_index(self) -> None:
        if self._index is not None:
            self._index.close()
            self._index = None
        for name in ("index.db", "index.db-journal"):
            with suppress(OSError):
                os.unlink(self.home / name)

    # Locks.

    @contextmanager
    def _exclusive(self) -> Iterator[None]:
        """The only writer; others wait."""
        with held(self.home / "lock") as self._lock:
            yield

    def _mark(self, id_: str) -> None:
        """Say in `lock` what is being written, for the case that we do not live to say it is done."""
        data = id_.encode()
        try:
            os.pwrite(self._lock, data, 0)
            os.ftruncate(self._lock, len(data))
        except OSError as error:
            raise cannot("write", self.home / "lock", error) from error

    def _marked(self) -> str:
        return os.pread(self._lock, MARK, 0).decode("utf-8", "replace")


def _same(stat: os.stat_result) -> tuple[int, ...]:
    """What is another one when the file was written or replaced; what the index remembers first."""
    return stat.st_mtime_ns, stat.st_size, stat.st_ino


def _is_record(name: str) -> bool:
    return name.endswith(".json") and not name.startswith(".")


def _lines(messages: Iterable[Message]) -> bytes:
    return b"".join(encode(m.to_json()) + b"\n" for m in messages)


def _messages(data: bytes) -> list[Message]:
    r"""The messages of a transcript. Lines end with `\n` alone, since messages may hold other
    separators; a line that is torn is left out."""
    return messages_of(data.split(b"\n"))


class _Content(msgspec.Struct):
    """As much of a message as the index wants."""

    role: str
    content: str


_contents_decoder = msgspec.json.Decoder(_Content)


def _contents(data: bytes) -> list[Any]:
    said = []
    for line in filter(None, data.split(b"\n")):
        with suppress(msgspec.MsgspecError, ValueError):
            said.append(_contents_decoder.decode(line))
    return said


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
    except (IsADirectoryError, PermissionError) as error:
        # A folder where a record should be is damage, and deleting is how one gets rid of that.
        try:
            os.rmdir(path)
        except OSError:
            raise cannot("delete", path, error) from error
    except OSError as error:
        raise cannot("delete", path, error) from error
