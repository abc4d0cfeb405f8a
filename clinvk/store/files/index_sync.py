"""The index of a `FileStore`, kept in agreement with its files, and the lock of who writes them.

How a stale index is noticed: it remembers the time of the folder of records, which changes with
every record that appears, goes or is replaced; and `lock` holds a mark. It is the id of a session
whose writer was killed; or `r12.*`, where sessions whose ids begin so have been written and not
settled. Who wants the index then mends it by comparing. Only the one who left them unsettled knows
better: as long as the mark and the time of the folder are those that he left, the index lacks what
he has written since, and nothing else.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from clinvk.disk.atomic import NoSpace, cannot, open_own
from clinvk.disk.lockfile import held
from clinvk.errors import SessionError
from clinvk.store.connections import Connections, store_is_closed
from clinvk.store.files.records import SessionFiles

if TYPE_CHECKING:
    from clinvk.store.index import Index

ANYTHING = "*"  # in `lock`: more than it has room for
MARK = 4096  # bytes of it

Progress = Callable[[int, int], None]
Told = Callable[["Index"], None]
T = TypeVar("T")


class Upkeep:
    """Raises `SessionError` where `lock` cannot be written. Where the index cannot be used there
    is none: it is made anew when that can be done."""

    def __init__(self, home: Path, files: SessionFiles, progress: Progress) -> None:
        self.files = files
        self.progress = progress  # told (done, all) while the index is made anew
        self._lock_path = home / "lock"
        self._path = home / "index.db"
        self._connections: Connections[Index] = Connections()
        # How we left things, when we left some unsettled: our process, the mark, the time.
        self._left: tuple[int, str, int] | None = None
        self._lock = -1

    # Reading.

    def ask(self, ask: Callable[[Index], T]) -> T | None:
        """What the index says; nothing where there is none, or none that can be read. A damaged page
        shows only when it is read, so the index is made anew then, once."""
        with self._connections.using():
            for _ in range(2):
                index = self._fresh()
                if index is None:
                    return None
                try:
                    return ask(index)
                except (sqlite3.Error, ValueError):  # ValueError: a record in it is not JSON
                    with suppress(SessionError), self._exclusive():
                        self.drop()
        return None

    def _fresh(self) -> Index | None:
        """An index that can be believed, fixed where it has to be; nothing where it cannot be."""
        if (index := self.as_it_is()) is not None:
            return index
        if not self.files.any():
            return None
        try:
            with self._exclusive():
                return self._usable()
        except SessionError:
            return None  # reading never needs to write

    def as_it_is(self) -> Index | None:
        """The index, if it can be believed without mending it."""
        index = self._opened(create=False)
        return index if index is not None and self._is_fresh(index) else None

    # Writing.

    @contextmanager
    def writing(self, id_: str) -> Iterator[tuple[Index | None, list[Told]]]:
        """The lock, and the index; it is told what is put into the list, once the files are
        changed. What an error leaves half done is noted, so that the index is mended before it is
        believed again."""
        with self._connections.using(), self._exclusive():
            index = self._usable()
            before = self._marked()  # nothing, unless there is no index to catch up
            self._mark(id_)
            told: list[Told] = []
            yield index, told
            self._tell(index, told)
            self._mark(before)

    @contextmanager
    def removing(self, id_: str) -> Iterator[list[Told]]:
        """`writing`, for sessions that are deleted: on a full disk too. If there is no room for the
        note, the index is deleted first, so that no killed process leaves one that is wrong."""
        told: list[Told] = []
        with self._connections.using(), ExitStack() as held:
            try:
                held.enter_context(self._exclusive())
            except NoSpace:  # for `lock`: the index has what that takes
                self.drop()
                held.enter_context(self._exclusive())
            index = self._usable()
            before = self._marked()
            try:
                self._mark(id_)
            except NoSpace:
                self.drop()
                index = None
            yield told
            self._tell(index, told)
            self._mark(before)

    def _tell(self, index: Index | None, told: list[Told]) -> None:
        if index is None:
            return
        try:
            with index.changing():
                for change in told:
                    change(index)
                index.set("mtime", self.files.time())
        except sqlite3.Error:
            self.drop()  # a full disk, say: it is rebuilt when it is needed

    @contextmanager
    def unsettling(self, id_: str) -> Iterator[None]:
        """The lock, for a write that the index is not told of. From now on it is marked as stale;
        ourselves know what it lacks, if we did so far."""
        with self._connections.using(), self._exclusive():
            marked = self._marked()
            known = self._know(marked)
            if not known:
                self.files.unsettled.clear()
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
                self._left = (os.getpid(), marked, self.files.time())

    def settle(self, ids: list[str]) -> None:
        """Tell the index of these, where they were left unsettled by us."""
        if self.files.unsettled.keys().isdisjoint(ids):
            return
        with self._connections.using(), self._exclusive():
            try:
                if (index := self._opened(create=True)) is not None:
                    self._catch_up(index, ids)
            except sqlite3.Error:
                self.drop()  # a full disk, say

    def make_anew(self, progress: Progress) -> int:
        """The index, from nothing; how many sessions there are."""
        # Only where the index is rebuilt.
        from clinvk.store.files import indexer

        with self._connections.using(), self._exclusive():
            self.drop()
            index = self._opened(create=True)
            if index is None:
                raise SessionError(f"{self._path} cannot be written")
            index.prepare()
            with index.changing():
                count = indexer.fill(index, self.files, progress)
                index.set("mtime", self.files.time())
            self._mark("")
        return count

    def drop(self) -> None:
        """Take the index away: what is wrong with it is none of the files'."""
        self._connections.drop()
        for name in (self._path, f"{self._path}-journal"):
            with suppress(OSError):
                os.unlink(name)

    def close(self) -> None:
        self._connections.close()

    def check_open(self) -> None:
        """Raise `SessionError` where the store is closed."""
        if self._connections.closed:
            raise store_is_closed()

    # The index.

    def _opened(self, *, create: bool) -> Index | None:
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
            facts = index.facts()
            return facts.get("version") == VERSION and facts.get("mtime") == self.files.time()
        except (sqlite3.Error, OSError):
            return False

    def _usable(self) -> Index | None:
        """The index, fresh; call it with the lock held. Nothing where none can be had."""
        for _ in range(2):  # a damaged one is thrown away, and made anew
            index = self._opened(create=True)
            try:
                if index is not None:
                    if self._is_fresh(index) or self._catch_up(index, list(self.files.unsettled)):
                        return index
                    return self._mended()
                self.drop()
            except sqlite3.Error:
                self.drop()
        return None

    def _mended(self) -> Index:
        """The index, in agreement with the files."""
        # Only where the index is rebuilt.
        from clinvk.store.files import indexer

        self._connections.drop()  # it may have been opened for reading alone
        index = self._opened(create=True)
        if index is None:
            raise sqlite3.DatabaseError("spoiled")
        index.prepare()
        self.files.remove_leftovers()  # whoever left the index stale may have been killed
        with index.changing():
            if index.known():
                indexer.compare(index, self.files, self._marked().split())
            else:
                indexer.fill(index, self.files, self.progress)
            index.set("mtime", self.files.time())
        self.files.unsettled.clear()
        self._mark("")
        return index

    # What we left unsettled.

    def _know(self, marked: str) -> bool:
        """Whether the index lacks what we left unsettled, and nothing else."""
        if self._left is None:
            return False
        pid, mark, time = self._left
        return pid == os.getpid() and marked in ("", mark) and time == self.files.time()

    def _catch_up(self, index: Index, ids: list[str]) -> bool:
        """Tell the index of these sessions, if we know what it lacks; call it with the lock held."""
        # Only where the index is rebuilt.
        from clinvk.store.files import indexer

        if not self._know(self._marked()):
            return False
        unsettled = self.files.unsettled
        ids = [id_ for id_ in ids if id_ in unsettled]
        with index.changing():
            known = [id_ for id_ in ids if index.has(id_)]
            indexer.take_in(index, self.files, [id_ for id_ in ids if id_ not in known])
            for id_ in known:
                time, size, _ = unsettled[id_][1]
                indexer.look_again(index, self.files, id_, (time, size))
            index.set("mtime", self.files.time())
        for id_ in ids:
            del unsettled[id_]
        if not unsettled:
            self._mark("")
        return True

    # The lock.

    @contextmanager
    def _exclusive(self) -> Iterator[None]:
        """The only writer; others wait."""
        with held(self._lock_path) as self._lock:
            yield

    def _mark(self, text: str) -> None:
        """Say in `lock` what is being written, for the case that we do not live to say it is done."""
        data = text.encode()
        try:
            os.pwrite(self._lock, data, 0)
            os.ftruncate(self._lock, len(data))
        except OSError as error:
            raise cannot("write", self._lock_path, error) from error

    def _marked(self) -> str:
        return os.pread(self._lock, MARK, 0).decode("utf-8", "replace")
