"""Sessions of many tasks: written one by one, flushed and indexed together.

A new session is written with its first change, which saves two files and a rename for each of many
tasks, most of which write more at once. Until then only its own process sees it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from clinvk.disk.atomic import file_error
from clinvk.disk.sync import sync_files
from clinvk.model.session import Message, Session, check_id
from clinvk.store.base import Change
from clinvk.store.codec import taken_error
from clinvk.store.files.index_sync import IndexSync
from clinvk.store.files.records import SessionFiles

BATCH_SIZE = 32  # sessions whose files are open at a time


class DeferredFiles:
    """`FileStore.deferred()`."""

    def __init__(self, home: Path, files: SessionFiles, index_sync: IndexSync) -> None:
        self.home = home
        self._files = files
        self._index_sync = index_sync
        self._begun: dict[str, tuple[Session, list[Message]]] = {}  # not written yet

    def create(self, session: Session, messages: Iterable[Message] = ()) -> Session:
        self._index_sync.check_open()
        if check_id(session.id) in self._begun or self._files.exists(session.id):
            raise taken_error(session.id)
        self._files.check_writable()
        self._begun[session.id] = (session, list(messages))
        return session

    def update(self, session_id: str, change: Change) -> Session:
        with self._index_sync.write_unflushed(session_id):
            session = change(self.read(session_id))
            self.write_begun(session_id)
            return self._write(session)

    def append(self, session_id: str, messages: Iterable[Message], change: Change) -> Session:
        with self._index_sync.write_unflushed(session_id):
            session = change(self.read(session_id))
            if not self.write_begun(session_id, messages):
                self._files.append(session_id, messages, durable=False)
            return self._write(session)

    def flush(self, session_ids: Iterable[str]) -> None:
        self._index_sync.check_open()
        session_ids = list(session_ids)
        try:
            for start in range(0, len(session_ids), BATCH_SIZE):
                some = session_ids[start : start + BATCH_SIZE]
                sync_files(
                    path
                    for session_id in some
                    for path in self._files.both_paths(check_id(session_id))
                )
        except OSError as error:
            raise file_error("write", self.home, error) from error
        self._index_sync.flush(session_ids, are_more_begun=bool(self._begun))

    # Queries of the store about new sessions.

    def __contains__(self, session_id: str) -> bool:
        return session_id in self._begun

    def read(self, session_id: str) -> Session:
        """The session, written or not."""
        begun = self._begun.get(session_id)
        return begun[0] if begun else self._files.read(check_id(session_id))

    def begun(self, session_id: str) -> tuple[Session, list[Message]] | None:
        """The session and its messages, if it is not written yet."""
        return self._begun.get(session_id)

    def forget(self, session_id: str) -> Session | None:
        """Drop the session, and return it if it was not written yet."""
        begun = self._begun.pop(session_id, None)
        return begun and begun[0]

    def write_begun(self, session_id: str, more: Iterable[Message] = ()) -> bool:
        """Write the messages of a new session, and `more`; its record comes next. False if it is
        written already."""
        begun = self._begun.get(session_id)
        if begun is None:
            return False
        if self._files.exists(session_id):
            raise taken_error(session_id)
        self._files.write_transcript(session_id, [*begun[1], *more], durable=False)
        return True

    def _write(self, session: Session) -> Session:
        session = self._files.write_unflushed(session)
        self._begun.pop(session.id, None)
        return session
