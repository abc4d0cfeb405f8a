"""The index of a `FileStore`, kept consistent with its files, and the lock of their writers.

How a stale index is detected: it stores the time of the directory of records, which changes with
every record that is added, deleted or replaced; and `lock` holds a mark. The mark is the id of a
session whose writer was killed, or `r12.*` if sessions with this prefix have been written and not
flushed. A reader of the index then repairs it by comparing. Only the process that left them
unflushed need not: as long as the mark and the time of the directory are unchanged, the index lacks
what it has written since, and nothing else.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from clinvk.disk.atomic import NoSpace, file_error
from clinvk.disk.lockfile import hold_lock
from clinvk.disk.opening import open_own
from clinvk.disk.waiting import WouldWait, check_may_block
from clinvk.errors import SessionError
from clinvk.store.connections import Connections, store_is_closed
from clinvk.store.files.records import SessionFiles

if TYPE_CHECKING:
    from clinvk.store.index import Index

ANY_SESSION = "*"  # in `lock`: more sessions than fit
MAX_MARK_SIZE = 4096  # bytes of the mark
FLUSH_TIMEOUT = 2.0  # seconds to wait for another process before the index is left stale
BATCH_SIZE = 1_000  # flushed sessions that are added to the index at a time, while more are written

Progress = Callable[[int, int], None]
IndexChange = Callable[["Index"], None]
T = TypeVar("T")


class IndexSync:
    """Raises `SessionError` if `lock` cannot be written. An unusable index is deleted, and rebuilt
    when that is possible."""

    def __init__(self, home: Path, files: SessionFiles, progress: Progress) -> None:
        self.files = files
        self.progress = progress  # called with (done, total) while the index is rebuilt
        self._lock_path = home / "lock"
        self._path = home / "index.db"
        self._connections: Connections[Index] = Connections()
        # The state after leaving sessions unflushed: this process, the mark, the time.
        self._unflushed_state: tuple[int, str, int] | None = None
        self._flushed: set[str] = set()  # of the unflushed ones, those that only the index lacks
        self._lock = -1

    # Reading.

    def query(self, ask: Callable[[Index], T]) -> T | None:
        """The answer of the index; None without a readable one. A damaged page is noticed only when
        it is read; the index is then rebuilt, once."""
        check_may_block()
        with self._connections.using():
            for _ in range(2):
                index = self._fresh()
                if index is None:
                    return None
                try:
                    return ask(index)
                except (sqlite3.Error, ValueError):  # ValueError: a record in it is not JSON
                    with suppress(SessionError), self._exclusive():
                        self.delete_index()
        return None

    def _fresh(self) -> Index | None:
        """A current index, repaired if necessary; None if that is impossible."""
        if (index := self.fresh_index_or_none()) is not None:
            return index
        if not self.files.has_sessions():
            return None
        try:
            with self._exclusive():
                return self._ensure_fresh()
        except SessionError:
            return None  # reading never needs to write

    def fresh_index_or_none(self) -> Index | None:
        """The index, if it is current without repair."""
        index = self._open_index(create=False)
        return index if index is not None and self._is_fresh(index) else None

    # Writing.

    @contextmanager
    def writing(self, session_id: str) -> Iterator[tuple[Index | None, list[IndexChange]]]:
        """The lock, and the index, which is updated with what is put into the list once the files
        are changed. After an error it is marked, so that it is repaired before it is used again."""
        check_may_block()
        with self._connections.using(), self._exclusive():
            index = self._ensure_fresh()
            before = self._read_mark()  # empty, unless there is no index to update
            self._write_mark(session_id)
            told: list[IndexChange] = []
            yield index, told
            self._tell(index, told)
            self._write_mark(before)

    @contextmanager
    def removing(self, id_: str) -> Iterator[list[IndexChange]]:
        """`writing`, for deleting sessions, also on a full disk. If there is no room for the mark,
        the index is deleted first, so that a killed process never leaves a wrong one."""
        check_may_block()
        told: list[IndexChange] = []
        with self._connections.using(), ExitStack() as held:
            try:
                held.enter_context(self._exclusive())
            except NoSpace:  # for `lock`: the index occupies the space that it needs
                self.delete_index()
                held.enter_context(self._exclusive())
            index = self._ensure_fresh()
            before = self._read_mark()
            try:
                self._write_mark(id_)
            except NoSpace:
                self.delete_index()
                index = None
            yield told
            self._tell(index, told)
            self._write_mark(before)

    def _tell(self, index: Index | None, told: list[IndexChange]) -> None:
        if index is None:
            return
        try:
            with index.transaction():
                for change in told:
                    change(index)
                index.set_meta("mtime", self.files.modified_ns())
        except sqlite3.Error:
            self.delete_index()  # e.g. a full disk: it is rebuilt when it is needed

    @contextmanager
    def write_unflushed(self, session_id: str) -> Iterator[None]:
        """The lock, for a write without the index, which is marked as stale. This process knows
        what the index lacks, if it did so far."""
        with self._connections.using(), self._exclusive():
            marked = self._read_mark()
            known = self._knows_difference(marked)
            if not known:
                # What others leave unflushed is repaired once, not each time.
                is_due = not marked or self._unflushed_state is None
                if is_due and self.fresh_index_or_none() is None:
                    check_may_block()
                self.files.unflushed.clear()
                if is_due:
                    known = self._ensure_fresh() is not None
                    marked = self._read_mark()
            run, dot, _ = session_id.partition(".")
            mark = f"{run}.*" if dot else session_id
            if mark not in marked.split():
                marked = f"{marked} {mark}".strip()
                marked = marked if len(marked) <= MAX_MARK_SIZE else ANY_SESSION
                self._write_mark(marked)
            self._unflushed_state = (0, "", 0)  # invalid: this process no longer knows
            yield
            if known:
                self._unflushed_state = (os.getpid(), marked, self.files.modified_ns())

    def flush(self, session_ids: list[str], *, are_more_begun: bool = False) -> None:
        """Add these to the index, if this process left them unflushed. While it writes others, or
        has begun some, that waits until there are many: the index is marked as stale anyway, and
        each addition holds up the writers. If another process holds the lock, it stays so, and is updated when it is
        needed."""
        unflushed = self.files.unflushed
        self._flushed |= unflushed.keys() & set(session_ids)
        if not self._flushed or (
            len(self._flushed) < BATCH_SIZE
            and (are_more_begun or not unflushed.keys() <= self._flushed)
        ):
            return
        session_ids = list(self._flushed)
        with (
            suppress(WouldWait),
            self._connections.using(),
            self._exclusive(timeout=FLUSH_TIMEOUT),
        ):
            try:
                if (index := self._open_index(create=True)) is not None:
                    self._catch_up(index, session_ids)
            except sqlite3.Error:
                self.delete_index()  # e.g. a full disk
            self._flushed.difference_update(session_ids)

    def rebuild(self, progress: Progress) -> int:
        """Rebuild the index; return the number of sessions."""
        # Only to rebuild the index.
        from clinvk.store.files import indexer

        with self._connections.using(), self._exclusive():
            self.delete_index()
            index = self._open_index(create=True)
            if index is None:
                raise SessionError(f"{self._path} cannot be written")
            index.prepare()
            with index.transaction():
                count = indexer.index_all(index, self.files, progress)
                index.set_meta("mtime", self.files.modified_ns())
            self._write_mark("")
        return count

    def delete_index(self) -> None:
        """Delete the index: the files are not affected by its errors."""
        self._connections.drop()
        for name in (self._path, f"{self._path}-journal"):
            with suppress(OSError):
                os.unlink(name)

    def close(self) -> None:
        self._connections.close()

    def check_open(self) -> None:
        """Raise `SessionError` if the store is closed."""
        if self._connections.closed:
            raise store_is_closed()

    # The index.

    def _open_index(self, *, create: bool) -> Index | None:
        if (index := self._connections.mine) is None:
            # SQLite, 5 ms, which a prompt without a search does not need.
            from clinvk.store.index import Index

            if create and not self._path.exists():
                with suppress(OSError):
                    os.close(open_own(self._path, os.O_CREAT | os.O_RDWR))
            try:
                writable = os.access(self._path, os.W_OK)
                index = Index.open(str(self._path), writable=writable)
            except sqlite3.Error:
                return None
            self._connections.add(index)
        return index

    def _is_fresh(self, index: Index) -> bool:
        # SQLite, 5 ms, which a prompt without a search does not need.
        from clinvk.store.index import VERSION

        try:
            if os.stat(self._lock_path).st_size > 0:  # marked
                return False
            facts = index.all_meta()
            return (
                facts.get("version") == VERSION and facts.get("mtime") == self.files.modified_ns()
            )
        except (sqlite3.Error, OSError):
            return False

    def _ensure_fresh(self) -> Index | None:
        """An up-to-date index, or None; call it with the lock held."""
        for _ in range(2):  # a damaged one is deleted and rebuilt
            index = self._open_index(create=True)
            try:
                if index is not None:
                    if self._is_fresh(index) or self._catch_up(index, list(self.files.unflushed)):
                        return index
                    return self._repair()
                self.delete_index()
            except sqlite3.Error:
                self.delete_index()
        return None

    def _repair(self) -> Index:
        """The index, consistent with the files."""
        # Only to rebuild the index.
        from clinvk.store.files import indexer

        self._connections.drop()  # it may have been opened read-only
        index = self._open_index(create=True)
        if index is None:
            raise sqlite3.DatabaseError("spoiled")
        index.prepare()
        self.files.remove_leftovers()  # the process that left the index stale may have been killed
        with index.transaction():
            if index.record_stats():
                indexer.index_changes(index, self.files, self._read_mark().split())
            else:
                indexer.index_all(index, self.files, self.progress)
            index.set_meta("mtime", self.files.modified_ns())
        self.files.unflushed.clear()
        self._write_mark("")
        return index

    # Unflushed sessions of this process.

    def _knows_difference(self, marked: str) -> bool:
        """Whether the index lacks only what this process left unflushed."""
        if self._unflushed_state is None:
            return False
        pid, mark, time = self._unflushed_state
        return pid == os.getpid() and marked in ("", mark) and time == self.files.modified_ns()

    def _catch_up(self, index: Index, session_ids: list[str]) -> bool:
        """Add these sessions to the index, if nothing else is missing; call it with the lock
        held."""
        # Only to rebuild the index.
        from clinvk.store.files import indexer

        if not self._knows_difference(self._read_mark()):
            return False
        unflushed = self.files.unflushed
        session_ids = [session_id for session_id in session_ids if session_id in unflushed]
        with index.transaction():
            known = [session_id for session_id in session_ids if index.has(session_id)]
            indexer.index_new(
                index,
                self.files,
                [session_id for session_id in session_ids if session_id not in known],
            )
            for session_id in known:
                time, size, _ = unflushed[session_id][1]
                indexer.reindex_session(index, self.files, session_id, (time, size))
            index.set_meta("mtime", self.files.modified_ns())
        for session_id in session_ids:
            del unflushed[session_id]
        if not unflushed:
            self._write_mark("")
        return True

    # The lock.

    @contextmanager
    def _exclusive(self, *, timeout: float | None = None) -> Iterator[None]:
        """The only writer; others wait."""
        with hold_lock(self._lock_path, timeout=timeout) as self._lock:
            yield

    def _write_mark(self, text: str) -> None:
        """Mark in `lock` what is being written, in case this process is killed before it is
        done."""
        data = text.encode()
        try:
            os.pwrite(self._lock, data, 0)
            os.ftruncate(self._lock, len(data))
        except OSError as error:
            raise file_error("write", self._lock_path, error) from error

    def _read_mark(self) -> str:
        return os.pread(self._lock, MAX_MARK_SIZE, 0).decode("utf-8", "replace")
