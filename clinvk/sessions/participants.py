"""Sessions that several people write to: their `metadata` has `type: shared`, and a list of
`participants`."""

from __future__ import annotations

from collections.abc import Iterable

from clinvk.errors import SessionError
from clinvk.model.session import Message, Session


class NotAParticipant(SessionError, PermissionError):  # noqa: N818 - reads as what it says
    """A shared session only accepts messages of its participants."""


def check_participants(session: Session, messages: Iterable[Message]) -> None:
    """Raise `NotAParticipant` where a message's `metadata["user"]` takes no part in the session.
    Messages without a user, such as a model's, are accepted."""
    if session.metadata.get("type") != "shared":
        return
    participants = session.metadata.get("participants") or ()
    for message in messages:
        user = message.metadata.get("user")
        if user is not None and user not in participants:
            raise NotAParticipant(
                f"{user!r} is not among the participants of session {session.id}",
                f"they are: {', '.join(map(str, participants)) or 'none'}",
            )
