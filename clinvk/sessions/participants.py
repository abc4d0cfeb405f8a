"""Sessions that several people write to: `metadata` says `type: shared`, and who `participants`
are."""

from __future__ import annotations

from collections.abc import Iterable

from clinvk.errors import SessionError
from clinvk.model.session import Message, Session


class NotAParticipant(SessionError, PermissionError):  # noqa: N818 - reads as what it says
    """A shared session takes messages of its participants only."""


def check_participants(session: Session, messages: Iterable[Message]) -> None:
    """Raise `NotAParticipant` where a message's `metadata["user"]` takes no part in the session.
    Messages of nobody, such as a model's, are fine."""
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
