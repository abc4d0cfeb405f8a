"""Records and messages as bytes: the same JSON in every store."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from clinvk.disk.jsonl import encode
from clinvk.errors import SessionError, SessionNotFound
from clinvk.model.session import NOT_KEPT, Message, Session

_DELETE = "take it away with: clinvk sessions delete {}"
_encoder = msgspec.json.Encoder(enc_hook=str)


def as_kept(session: Session) -> tuple[bytes, Session]:
    """The record, and the session as it comes back from it."""
    try:
        return _encoder.encode(session.to_json()), session
    except UnicodeEncodeError:
        record = encode(session.to_json())
        return record, Session.from_json(msgspec.json.decode(record))


def session_of(record: bytes, id_: str, where: str) -> Session:
    """The session in a record. Raises `SessionError` where that is damaged, or a newer one;
    `where` tells a person what to look at."""
    try:
        session = Session.from_json(msgspec.json.decode(record))
        _check_types(session)
    except RecursionError:
        raise SessionError(
            f"session {id_} is damaged: {where}: nested too deeply", _DELETE.format(id_)
        ) from None
    except (ValueError, TypeError, AttributeError) as error:
        raise SessionError(
            f"session {id_} is damaged: {where}: {error}", _DELETE.format(id_)
        ) from error
    if session.id != id_:
        raise SessionError(
            f"session {id_} is damaged: its record says {session.id!r}", _DELETE.format(id_)
        )
    return session


def messages_of(lines: Iterable[bytes]) -> list[Message]:
    """The messages in lines; one that is torn, or holds something else, is left out."""
    return [m for m in map(_message, lines) if m is not None]


def damaged(id_: str, why: str) -> SessionError:
    return SessionError(f"session {id_} is damaged: {why}", _DELETE.format(id_))


def unreadable(id_: str, where: str, why: str | None) -> SessionError:
    return SessionError(f"session {id_} cannot be read: {where}: {why}", _DELETE.format(id_))


def unknown(id_: str) -> SessionNotFound:
    return SessionNotFound(f"no session {id_!r}", "see them all: clinvk sessions list")


def taken(id_: str) -> SessionError:
    return SessionError(f"session {id_} exists already", f"go on with it: clinvk resume {id_}")


def is_running(id_: str) -> IsRunning:
    return IsRunning(f"session {id_} is running", "end it first, or wait for it")


def left_behind(id_: str) -> LeftBehind:
    return LeftBehind(
        f"session {id_} was cut off: its clinvk was killed, and may have left something running",
        f"end that and delete it: clinvk sessions delete {id_}",
    )


class IsRunning(SessionError):  # noqa: N818 - reads as what it says
    """A turn of the session runs now."""


class LeftBehind(SessionError):  # noqa: N818 - reads as what it says
    """The session may not be deleted yet: how to end what it left running would go with it."""


def _check_types(session: Session) -> None:
    """Raise `ValueError` where a field is not what it has to be: a record that somebody wrote by
    hand is to be said to be wrong, rather than to surprise whoever shows it."""
    names = [name for name in session.__struct_fields__ if name not in NOT_KEPT]
    msgspec.convert({name: getattr(session, name) for name in names}, Session)


def _message(line: bytes) -> Message | None:
    if not line:
        return None
    try:
        return Message.from_json(msgspec.json.decode(line))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
