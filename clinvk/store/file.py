"""Sessions as files: one record each, one transcript each, and locks.

    sessions/<id>.json       the record, replaced atomically
    transcripts/<id>.jsonl   the messages, one a line, appended to
    locks/<id>               held while a turn runs; what it holds tells how to end that turn
    lock                     held while anything is written; never deleted

Folders are 0700 and files 0600. Reading needs no lock and writes nothing.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from clinvk.errors import SessionError, SessionNotFound
from clinvk.session import Message, Session, check_id, new_id
from clinvk.store import Change, Damaged

NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL)


class FileStore:
    def __init__(self, home: Path) -> None:
        self.home = home
        self._sessions = home / "sessions"
        self._transcripts = home / "transcripts"
        self._locks = home / "locks"

    def create(self, session: Session, *, exact: bool = False) -> Session:
        check_id(session.id)
        with self.writing():
            while self._taken(session.id, exact=exact):
                if exact:
                    raise SessionError(
                        f"session {session.id} exists already",
                        f"go on with it: clinvk resume {session.id}",
                    )
                session = _renamed(session, new_id())
            self._write(session, durable=exact)
        return session

    def get(self, id: str) -> Session:  # noqa: A002
        return self._read(check_id(id))

    def update(self, id: str, change: Change, *, durable: bool = True) -> Session:  # noqa: A002
        with self.writing():
            session = change(self.get(id))
            self._write(session, durable=durable)
        return session

    def append(self, id: str, messages: Iterable[Message], change: Change) -> Session:  # noqa: A002
        with self.writing():
            session = change(self.get(id))
            self._append(id, messages)
            self._write(session, durable=True)
        return session

    def messages(self, id: str) -> list[Message]:  # noqa: A002
        return [message for message in self._transcript(check_id(id)) if message is not None]

    def torn(self, id: str) -> bool:  # noqa: A002
        """Whether the transcript has a line that was not written to its end."""
        return any(message is None for message in self._transcript(check_id(id)))

    def size(self, id: str) -> int:  # noqa: A002
        return sum(path.stat().st_size for path in self._files(check_id(id)) if path.is_file())

    def all(self) -> Iterator[Session | Damaged]:
        for id_ in self.ids():
            try:
                yield self._read(id_)
            except SessionNotFound:
                continue  # deleted meanwhile
            except SessionError as error:
                yield Damaged(id_, error.message)

    def ids(self) -> list[str]:
        try:
            return [name[:-5] for name in os.listdir(self._sessions) if name.endswith(".json")]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise _cannot("read", self._sessions, error) from error

    def delete(self, id: str) -> None:  # noqa: A002
        check_id(id)
        if not os.path.lexists(self._record(id)):
            raise _unknown(id)
        turn = self.turn(id)
        if turn is None:
            raise SessionError(f"session {id} is running", "end it first, or wait for it")
        try:
            with self.writing():
                for path in self._files(id):
                    _remove(path)
        finally:
            turn.close()
            with suppress(OSError):
                os.unlink(self._locks / id)

    def turn(self, id: str) -> FileTurn | None:  # noqa: A002
        path = self._locks / check_id(id)
        while True:
            fd = self._open_lock(path)
            if not _try_lock(fd, path):
                os.close(fd)
                return None
            if _same_file(fd, path):  # else it was deleted while we waited
                return FileTurn(fd)
            os.close(fd)

    def running(self, id: str) -> dict[str, Any] | None:  # noqa: A002
        try:
            fd = os.open(self._locks / id, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return _facts(fd) or {}
        except OSError:
            return None
        finally:
            os.close(fd)
        return None

    @contextmanager
    def writing(self) -> Iterator[None]:
        fd = self._open_lock(self.home / "lock")
        try:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX)
            except OSError as error:
                raise _no_locks(self.home, error) from error
            yield
        finally:
            os.close(fd)

    def _record(self, id_: str) -> Path:
        return self._sessions / f"{id_}.json"

    def _files(self, id_: str) -> tuple[Path, Path]:
        return self._record(id_), self._transcripts / f"{id_}.jsonl"

    def _taken(self, id_: str, *, exact: bool) -> bool:
        """Names differ in more than case, so that no file system confuses two of them."""
        if os.path.lexists(self._record(id_)):
            return True
        return exact and id_.lower() in (name.lower() for name in self.ids())

    def _read(self, id_: str) -> Session:
        path = self._record(id_)
        try:
            with open(path, "rb") as file:
                session = Session.from_json(json.loads(file.read()))
        except FileNotFoundError:
            raise _unknown(id_) from None
        except OSError as error:
            raise SessionError(
                f"session {id_} cannot be read: {path}: {error.strerror}", _DELETE.format(id_)
            ) from error
        except (ValueError, TypeError) as error:
            raise SessionError(
                f"session {id_} is damaged: {path}: {error}", _DELETE.format(id_)
            ) from error
        if session.id != id_:
            raise SessionError(f"session {id_} is damaged: its file says {session.id!r}")
        return session

    def _write(self, session: Session, *, durable: bool) -> None:
        data = json.dumps(session.to_json(), ensure_ascii=False, indent=1, default=str) + "\n"
        path = self._record(session.id)
        try:
            _make_folder(self._sessions)
            replace_file(path, data.encode("utf-8", "surrogateescape"), durable=durable)
        except OSError as error:
            raise _cannot("write", path, error) from error

    def _append(self, id_: str, messages: Iterable[Message]) -> None:
        path = self._transcripts / f"{id_}.jsonl"
        lines = [json.dumps(m.to_json(), ensure_ascii=False, default=str) for m in messages]
        data = "".join(line + "\n" for line in lines).encode("utf-8", "backslashreplace")
        try:
            _make_folder(self._transcripts)
            append_file(path, data)
        except OSError as error:
            raise _cannot("write", path, error) from error

    def _transcript(self, id_: str) -> Iterator[Message | None]:
        """The messages; nothing in place of a line that is torn or is no message."""
        path = self._transcripts / f"{id_}.jsonl"
        try:
            with open(path, "rb") as file:
                for line in file:
                    yield _message(line)
        except FileNotFoundError:
            return
        except OSError as error:
            raise _cannot("read", path, error) from error

    def _open_lock(self, path: Path) -> int:
        try:
            _make_folder(path.parent)
            return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise _cannot("write", path, error) from error


class FileTurn:
    """An open, locked file; `close` empties it and lets go."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self.left = _facts(fd)

    def note(self, facts: dict[str, Any]) -> None:
        data = json.dumps(facts).encode() if facts else b""
        with suppress(OSError):  # on a full disk only the next clinvk's clean-up is lost
            os.pwrite(self._fd, data, 0)
            os.ftruncate(self._fd, len(data))

    def close(self) -> None:
        self.note({})
        os.close(self._fd)

    def abandon(self) -> None:
        os.close(self._fd)


def replace_file(path: Path, data: bytes, *, durable: bool) -> None:
    """The file holds either what it held or `data`, whatever happens; after a power cut too,
    where `durable`."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        try:
            write_all(fd, data)
            if durable:
                os.fsync(fd)
        finally:
            os.close(fd)
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise


def append_file(path: Path, data: bytes) -> None:
    """All of `data` behind what is there, on disk; or nothing of it. A torn last line, left by a
    writer that was killed, gets its end first, so that it spoils no other line."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        end = os.lseek(fd, 0, os.SEEK_END)
        if end and os.pread(fd, 1, end - 1) != b"\n":
            data = b"\n" + data
        try:
            write_all(fd, data)
            os.fsync(fd)
        except OSError:
            os.ftruncate(fd, end)
            raise
    finally:
        os.close(fd)


def write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def _make_folder(path: Path) -> None:
    """The folder and those above it, each as private as the store has to be."""
    if not path.is_dir():
        if not path.parent.exists():
            _make_folder(path.parent)
        path.mkdir(mode=0o700, exist_ok=True)


def _try_lock(fd: int, path: Path) -> bool:
    """Several tries, since who only asks whether a turn runs holds the lock for a moment."""
    for pause in (0.0, 0.002, 0.005):
        time.sleep(pause)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            continue
        except OSError as error:
            os.close(fd)
            raise _no_locks(path, error) from error
        return True
    return False


def _same_file(fd: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), os.stat(path))
    except FileNotFoundError:
        return False


def _facts(fd: int) -> dict[str, Any] | None:
    try:
        facts = json.loads(os.pread(fd, 65_536, 0) or b"null")
    except (OSError, ValueError):
        return None
    return facts if isinstance(facts, dict) else None


def _message(line: bytes) -> Message | None:
    try:
        return Message.from_json(json.loads(line))
    except (ValueError, KeyError, TypeError):
        return None


def _remove(path: Path) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
    except (IsADirectoryError, PermissionError) as error:
        # A folder where a record should be is damage, and deleting is how one gets rid of that.
        try:
            os.rmdir(path)
        except OSError:
            raise _cannot("delete", path, error) from error
    except OSError as error:
        raise _cannot("delete", path, error) from error


def _renamed(session: Session, id_: str) -> Session:
    from msgspec.structs import replace

    return replace(session, id=id_)


_DELETE = "take it away with: clinvk sessions delete {}"


def _unknown(id_: str) -> SessionNotFound:
    return SessionNotFound(f"no session {id_!r}", "see them all: clinvk sessions list")


def _cannot(verb: str, path: Path, error: OSError) -> SessionError:
    hints = {
        errno.ENOSPC: "make room on that disk; nothing that was stored before is lost",
        errno.EDQUOT: "make room on that disk; nothing that was stored before is lost",
        errno.EROFS: "set CLINVK_HOME to a folder that can be written, or use --ephemeral",
        errno.EACCES: "set CLINVK_HOME to a folder that can be written, or use --ephemeral",
        errno.EPERM: "set CLINVK_HOME to a folder that can be written, or use --ephemeral",
    }
    return SessionError(f"cannot {verb} {path}: {error.strerror}", hints.get(error.errno or 0))


def _no_locks(path: Path, error: OSError) -> SessionError:
    if error.errno in NO_LOCKS:
        return SessionError(
            f"{path}: this file system has no locks", "set CLINVK_HOME to a folder on a local disk"
        )
    return _cannot("lock", path, error)
