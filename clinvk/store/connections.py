"""The connections that a store has to a SQLite file: one for each thread that uses it.

They are opened by the thread that needs one, and closed by whichever thread closes the store. What
another thread is using at that moment is closed as soon as that thread has finished.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Generic, Protocol, TypeVar

from clinvk.errors import SessionError


class Connection(Protocol):
    def close(self) -> None: ...


T = TypeVar("T", bound=Connection)

# Connections that a fork inherits from its parent. Closing or garbage-collecting one could roll
# back what the parent is writing, so they are kept here, unused.
_inherited: list[object] = []


def store_is_closed() -> SessionError:
    return SessionError(
        "the store is closed", "use it inside its `with` block, or open another one"
    )


class Connections(Generic[T]):
    def __init__(self) -> None:
        self.closed = False
        self._process: _Process[T] = _Process()

    @contextmanager
    def using(self) -> Iterator[None]:
        """A block in which no other thread closes this thread's connection. Raises `SessionError`
        if the store is closed."""
        here, thread = self._here(), threading.get_ident()
        with here.lock:
            if self.closed:
                raise store_is_closed()
            here.users[thread] = here.users.get(thread, 0) + 1
        try:
            yield
        finally:
            if here.pid == os.getpid():  # a fork inside has nothing to release
                self._used(here, thread)

    @property
    def mine(self) -> T | None:
        """This thread's connection, of this process."""
        return self._here().opened.get(threading.get_ident())

    def add(self, connection: T) -> T:
        """Set the thread's connection."""
        here = self._here()
        alive = {thread.ident for thread in threading.enumerate()}
        with here.lock:
            here.close(here.opened.keys() - alive)  # of threads that have ended since
            here.opened[threading.get_ident()] = connection
        return connection

    def drop(self) -> None:
        """Close this thread's connection; the next use opens another one."""
        here = self._here()
        with here.lock:
            _close(here.opened.pop(threading.get_ident(), None))

    def close(self) -> None:
        """Close the connections of all threads."""
        here = self._here()
        with here.lock:
            self.closed = True
            here.close(here.opened.keys())

    def _here(self) -> _Process[T]:
        if self._process.pid != os.getpid():
            _inherited.append(self._process)
            self._process = _Process()
        return self._process

    def _used(self, here: _Process[T], thread: int) -> None:
        with here.lock:
            here.users[thread] -= 1
            if not here.users[thread]:
                del here.users[thread]
                if self.closed:
                    here.close([thread])


class _Process(Generic[T]):
    """The connections of one process."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.lock = threading.RLock()
        self.opened: dict[int, T] = {}  # by thread
        self.users: dict[int, int] = {}  # threads that are using theirs, and how deeply nested

    def close(self, threads: Iterable[int]) -> None:
        """Close the connections of these threads, if they do not use them; call it with the
        lock."""
        for thread in list(threads):
            if thread not in self.users:
                _close(self.opened.pop(thread, None))


def _close(connection: Connection | None) -> None:
    if connection is not None:
        with suppress(sqlite3.Error):
            connection.close()
