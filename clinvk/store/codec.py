"""Records and messages as bytes: the same JSON in every store."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from clinvk.disk.jsonl import encode
from clinvk.errors import SessionError, SessionNotFound
from clinvk.model.conversion import convert
from clinvk.model.session import UNSTORED_FIELDS, Message, Session

_DELETE = "delete it with: clinvk sessions delete {}"
_encoder = msgspec.json.Encoder(enc_hook=str)


def encode_session(session: Session) -> tuple[bytes, Session]:
    """The record, and the session as decoded from it."""
    try:
        return _encoder.encode(session.to_json()), session
    except UnicodeEncodeError:
        record = encode(session.to_json())
        return record, Session.from_json(msgspec.json.decode(record))


def decode_session(record: bytes, session_id: str, where: str) -> Session:
    """The session in a record. Raises `SessionError` if that is damaged or of a newer clinvk;
    `where` names the record for the user."""
    try:
        session = Session.from_json(msgspec.json.decode(record))
        _check_types(session)
    except RecursionError:
        raise SessionError(
            f"session {session_id} is damaged: {where}: nested too deeply",
            _DELETE.format(session_id),
        ) from None
    except (ValueError, TypeError, AttributeError) as error:
        raise SessionError(
            f"session {session_id} is damaged: {where}: {error}", _DELETE.format(session_id)
        ) from error
    if session.id != session_id:
        raise SessionError(
            f"session {session_id} is damaged: its record has the id {session.id!r}",
            _DELETE.format(session_id),
        )
    return session


def decode_messages(lines: Iterable[bytes]) -> list[Message]:
    """The messages in lines; torn or invalid lines are skipped."""
    return [m for m in map(_decode_message, lines) if m is not None]


def damaged(id_: str, why: str) -> SessionError:
    return SessionError(f"session {id_} is damaged: {why}", _DELETE.format(id_))


def damaged_error(session_id: str, where: str, why: str | None) -> SessionError:
    return SessionError(
        f"session {session_id} cannot be read: {where}: {why}", _DELETE.format(session_id)
    )


def not_found_error(session_id: str) -> SessionNotFound:
    return SessionNotFound(f"no session {session_id!r}", "see them all: clinvk sessions list")


def taken_error(session_id: str) -> SessionError:
    return SessionError(
        f"session {session_id} already exists", f"resume it with: clinvk resume {session_id}"
    )


def running_error(session_id: str) -> IsRunning:
    return IsRunning(f"session {session_id} is running", "stop it first, or wait for it to finish")


def left_behind_error(session_id: str) -> LeftBehind:
    return LeftBehind(
        f"session {session_id} was interrupted: its clinvk was killed, and may have left something running",
        f"stop that and delete it: clinvk sessions delete {session_id}",
    )


class IsRunning(SessionError):  # noqa: N818 - reads as what it says
    """A turn of the session is running."""


class LeftBehind(SessionError):  # noqa: N818 - reads as what it says
    """The session may not be deleted yet: it holds the note on how to stop what it left running."""


def _check_types(session: Session) -> None:
    """Raise `ValueError` for an invalid field, so that a hand-edited record is reported as damaged
    and does not fail where it is shown."""
    names = [name for name in session.__struct_fields__ if name not in UNSTORED_FIELDS]
    convert({name: getattr(session, name) for name in names}, Session)


def _decode_message(line: bytes) -> Message | None:
    if not line:
        return None
    try:
        return Message.from_json(msgspec.json.decode(line))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
