"""Which session a request is about: one `SessionRef`."""

from __future__ import annotations

from msgspec import Struct

LAST = "last"  # in place of an id: the session of this directory that was used last


class DefaultSession(Struct, frozen=True):
    """A new one; with `session.auto_resume`, the one of this directory that was used last."""


class NewSession(Struct, frozen=True):
    """A new one, whatever `session.auto_resume` says."""

    id: str | None = None  # of a task: it is unique, and flushed together with the run's journal
    history: int = 0  # that many earlier sessions of the directory go before the prompt


class NamedSession(Struct, frozen=True):
    """The one of exactly this name, created at its first use."""

    name: str
    history: int = 0  # for its first use


class SessionById(Struct, frozen=True):
    """The one with this id, unique prefix of an id, or native id."""

    text: str


class LatestSession(Struct, frozen=True):
    """The one that was used last, in this directory or `anywhere`."""

    anywhere: bool = False


SessionRef = DefaultSession | NewSession | NamedSession | SessionById | LatestSession


def parse_session(text: str, *, anywhere: bool = False) -> SessionRef:
    """What a caller means by this word: "last", with which goes `anywhere`, or an id."""
    return LatestSession(anywhere) if text == LAST else SessionById(text)


def session_ref_from_words(
    session: str | None = None,
    *,
    name: str | None = None,
    anywhere: bool = False,
    history: int = 0,
    new: bool = False,
) -> SessionRef:
    """What the words of the Python interface mean together. A name overrides an id, which overrides
    that it is a new session."""
    if name is not None:
        return NamedSession(name, history)
    if session is not None:
        return parse_session(session, anywhere=anywhere)
    return NewSession(history=history) if new or history else DefaultSession()
