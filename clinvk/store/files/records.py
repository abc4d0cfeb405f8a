"""Sessions as files: a record and a transcript each, in two directories, without locks."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from clinvk.disk.atomic import (
    append_file,
    file_error,
    make_folder,
    remove_leftovers,
    replace_own,
    write_file,
)
from clinvk.disk.jsonl import encode, split_lines
from clinvk.disk.reading import open_regular, read_with_privacy
from clinvk.errors import SessionError, SessionNotFound
from clinvk.model.session import Message, Session, distrust_options
from clinvk.store.base import Damaged, Query
from clinvk.store.codec import (
    damaged_error,
    decode_messages,
    decode_session,
    encode_session,
    not_found_error,
)

FileState = tuple[int, ...]  # changes when a file is written or replaced
TimeAndSize = tuple[int, int]  # of a record: nanoseconds, bytes; as stored in the index
Unlink = Callable[[str], None]


class SessionFiles:
    """Reads and writes the files. Methods raise `SessionError` if the disk does not allow it."""

    def __init__(self, home: Path) -> None:
        self._records = str(home / "sessions")
        self._transcripts = str(home / "transcripts")
        # Sessions written but not flushed by this process, as decoded from their records, which
        # need not be read while they are unchanged.
        self.unflushed: dict[str, tuple[Session, FileState]] = {}

    def record_path(self, session_id: str) -> str:
        return f"{self._records}/{session_id}.json"

    def transcript_path(self, session_id: str) -> str:
        return f"{self._transcripts}/{session_id}.jsonl"

    def both_paths(self, session_id: str) -> tuple[str, str]:
        return self.record_path(session_id), self.transcript_path(session_id)

    def exists(self, session_id: str) -> bool:
        return os.path.lexists(self.record_path(session_id))

    def has_sessions(self) -> bool:
        """Whether there is, or ever was, a session."""
        return os.path.isdir(self._records)

    def ids(self) -> list[str]:
        try:
            return [name[:-5] for name in os.listdir(self._records) if _is_record(name)]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise file_error("read", self._records, error) from error

    def stats(self) -> dict[str, TimeAndSize]:
        found = {}
        for session_id in self.ids():
            with suppress(FileNotFoundError):  # deleted meanwhile
                stat = os.lstat(self.record_path(session_id))
                found[session_id] = (stat.st_mtime_ns, stat.st_size)
        return found

    def modified_ns(self) -> int:
        """When a record was last added, deleted or replaced, in nanoseconds."""
        try:
            return os.stat(self._records).st_mtime_ns
        except FileNotFoundError:
            return 0

    def size(self, session_id: str) -> int:
        return sum(os.path.getsize(f) for f in self.both_paths(session_id) if os.path.isfile(f))

    def remove_leftovers(self) -> None:
        """Delete the partial files of killed writers."""
        remove_leftovers(self._records)
        remove_leftovers(self._transcripts)

    # Reading.

    def read(self, session_id: str) -> Session:
        path = self.record_path(session_id)
        try:
            if (ours := self.unflushed.get(session_id)) and ours[1] == _file_state(path):
                return ours[0]
            data, is_private = read_with_privacy(path)
            session = decode_session(data, session_id, path)
            return session if is_private else distrust_options(session)
        except FileNotFoundError as error:
            if os.path.islink(path):  # to nowhere
                raise damaged_error(session_id, path, error.strerror) from error
            raise not_found_error(session_id) from None
        except OSError as error:
            raise damaged_error(session_id, path, error.strerror) from error

    def is_own(self, session_id: str) -> bool:
        """Whether only the current user can have written the present record and all earlier
        ones."""
        try:
            data, is_private = read_with_privacy(self.record_path(session_id))
            return is_private and decode_session(data, session_id, "").options_trusted
        except (OSError, SessionError):
            return False

    def read_transcript(self, session_id: str, start: int = 0) -> bytes:
        """The transcript, from that byte on."""
        path = self.transcript_path(session_id)
        try:
            with open_regular(path, follow=False) as file:
                file.seek(start)
                return file.read()
        except FileNotFoundError:
            return b""
        except OSError as error:
            raise file_error("read", path, error) from error

    def messages(self, session_id: str, start: int = 0) -> list[Message]:
        r"""The messages of a transcript. Lines end with `\n` alone, since messages may contain
        other separators; a torn line is skipped."""
        return decode_messages(self.read_transcript(session_id, start).split(b"\n"))

    def scan(self, query: Query) -> list[Session | Damaged]:
        """The sessions of a query without an index: every record is read."""
        sessions: list[Session] = []
        damaged: list[Session | Damaged] = []
        for session_id in self.ids():
            try:
                session = self.read(session_id)
            except SessionNotFound:
                continue  # deleted meanwhile
            except SessionError as error:
                damaged.append(Damaged(session_id, error.message))
                continue
            if query.matches(session):
                sessions.append(session)
        sessions.sort(key=lambda s: s.updated_at, reverse=True)
        return [*sessions, *(damaged if query.includes_damaged else [])][: query.limit]

    def session_if_unchanged(
        self, found: Session | Damaged, mtime: int, size: int
    ) -> Session | Damaged:
        """The session from the index if its record is unchanged, otherwise from the record."""
        try:
            stat = os.stat(self.record_path(found.id))
            if (stat.st_mtime_ns, stat.st_size) == (mtime, size):
                return found
            return self.read(found.id)
        except OSError:
            return found
        except SessionError as error:
            return Damaged(found.id, error.message)

    # Writing.

    def check_writable(self) -> None:
        """Raise `SessionError` if it is clear that nothing can be written."""
        for folder in (self._records, self._transcripts):
            try:
                make_folder(folder)
                if not os.access(folder, os.W_OK | os.X_OK):
                    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
            except OSError as error:
                raise file_error("write", folder, error) from error

    def write(self, session: Session, *, durable: bool) -> Session:
        """Replace the record; return the session as decoded from it."""
        path = self.record_path(session.id)
        record, session = encode_session(session)
        data = msgspec.json.format(record, indent=1) + b"\n"
        try:
            make_folder(self._records)
            replace_own(path, data, durable=durable)
        except OSError as error:
            raise file_error("write", path, error) from error
        return session

    def write_unflushed(self, session: Session) -> Session:
        """`write`, for a caller that flushes it later."""
        session = self.write(session, durable=False)
        with suppress(OSError):  # already deleted: nothing to remember
            self.unflushed[session.id] = (session, _file_state(self.record_path(session.id)))
        return session

    def write_transcript(
        self, session_id: str, messages: Iterable[Message], *, durable: bool
    ) -> None:
        """Replace the transcript, which may be left from a killed clinvk for a session with this
        id."""
        path = self.transcript_path(session_id)
        data = _lines(messages)
        if not data and not os.path.lexists(path):
            return
        try:
            make_folder(self._transcripts)
            if durable:
                replace_own(path, data, durable=True)
            else:
                write_file(path, data)  # not read before the record exists
        except OSError as error:
            raise file_error("write", path, error) from error

    def unsay(self, id_: str) -> None:
        """Delete a transcript whose record was not written."""
        with suppress(SessionError):
            _remove(self.transcript_path(id_))

    def append(
        self,
        session_id: str,
        messages: Iterable[Message],
        *,
        is_new: bool = False,
        durable: bool = True,
    ) -> None:
        data = _lines(messages)
        if not data:
            return
        path = self.transcript_path(session_id)
        try:
            make_folder(self._transcripts)
            append_file(path, data, is_new=is_new, durable=durable)
        except OSError as error:
            raise file_error("write", path, error) from error

    def remove(self, session_id: str, unlink: Unlink = os.unlink) -> None:
        """Delete the record last: while it exists, the rest can still be deleted."""
        _remove(self.transcript_path(session_id), unlink)
        _remove(self.record_path(session_id), unlink)

    def remove_old(
        self, session_id: str, before: str, stat: TimeAndSize | None, unlink: Unlink
    ) -> bool:
        """Delete the session if its record is unchanged since it was found old, or is still old."""
        try:
            now = os.stat(self.record_path(session_id))
        except OSError:
            return False
        if (now.st_mtime_ns, now.st_size) != stat and not self._is_old(session_id, before):
            return False
        self.remove(session_id, unlink)
        return True

    def _is_old(self, session_id: str, before: str) -> bool:
        try:
            return Query(before=before).matches(self.read(session_id))
        except SessionError:
            return False


class _Content(msgspec.Struct):
    """The part of a message that an index needs."""

    role: str
    content: str


_contents_decoder = msgspec.json.Decoder(_Content)


def message_contents(data: bytes) -> Iterator[Any]:
    """The role and the content of each message of a transcript."""
    for line in split_lines(data):
        with suppress(msgspec.MsgspecError, ValueError):
            yield _contents_decoder.decode(line)


def _file_state(path: str) -> FileState:
    stat = os.stat(path)
    return stat.st_mtime_ns, stat.st_size, stat.st_ino


def _is_record(name: str) -> bool:
    return name.endswith(".json") and not name.startswith(".")


def _lines(messages: Iterable[Message]) -> bytes:
    return b"".join(encode(m.to_json()) + b"\n" for m in messages)


def _remove(path: str, unlink: Unlink = os.unlink) -> None:
    try:
        unlink(path)
    except FileNotFoundError:
        pass
    except (IsADirectoryError, PermissionError) as error:
        # A directory in place of a record is damage, which deleting has to remove.
        try:
            os.rmdir(path)
        except OSError:
            raise file_error("delete", path, error) from error
    except OSError as error:
        raise file_error("delete", path, error) from error
