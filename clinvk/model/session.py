"""A session and its messages, independent of a store."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from msgspec import Struct, ValidationError, field
from msgspec.structs import replace

from clinvk.errors import SessionError
from clinvk.model.conversion import convert
from clinvk.model.usage import Usage, rfc3339

VERSION = 1  # of the record on disk
STATUSES = ("active", "error", "completed", "paused", "archived")
RESUMABLE = ("active", "paused", "error")
CWD_BYTES = "cwd_bytes"  # of a record whose directory is not UTF-8: its bytes, in hexadecimal
UNSTORED_FIELDS = {"extra", "messages"}  # fields that are not of the record under their own names
TITLE_LENGTH = 200  # characters of the first prompt that a record keeps

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_BACKEND = r"[\w.-]{1,64}"
RESERVED_IDS = ("last",)


class MessageRole(StrEnum):
    SYSTEM = "system"
    USER = "user"
    ASSISTANT = "assistant"


class Message(Struct):
    role: MessageRole
    content: str
    timestamp: datetime = field(default_factory=lambda: datetime.now(UTC))
    metadata: dict[str, Any] = {}
    tokens: int | None = None

    def __post_init__(self) -> None:
        self.role = MessageRole(self.role)
        if self.timestamp.tzinfo is None:  # local time, as everywhere in Python
            self.timestamp = self.timestamp.astimezone(UTC)

    @property
    def speaker(self) -> str:
        """Who said it, for readers: `User`, or `Assistant (codex)`; without the backend in messages
        that do not record it."""
        who = self.role.value.capitalize()
        backend = self.metadata.get("backend")  # anyone can have written it
        if self.role is not MessageRole.ASSISTANT or not isinstance(backend, str):
            return who
        return f"{who} ({backend})" if re.fullmatch(_BACKEND, backend) else who

    def to_json(self) -> dict[str, Any]:
        line: dict[str, Any] = {
            "role": self.role.value,
            "content": self.content,
            "timestamp": rfc3339(self.timestamp),
        }
        if self.metadata:
            line["metadata"] = self.metadata
        if self.tokens is not None:
            line["tokens"] = self.tokens
        return line

    @classmethod
    def from_json(cls, line: Mapping[str, Any]) -> Message:
        return cls(
            role=MessageRole(line["role"]),
            content=str(line["content"]),
            timestamp=datetime.fromisoformat(line["timestamp"]),
            metadata=dict(line.get("metadata") or {}),
            tokens=line.get("tokens"),
        )


class Session(Struct, frozen=True, kw_only=True):
    """A conversation: its record, which a store keeps apart from the transcript, and its messages,
    if they were requested."""

    id: str
    messages: list[Message] = []  # no part of the record: `SessionManager` reads them
    backend: str | None = None
    model: str | None = None
    status: str = "active"
    cwd: str | None = None  # real path
    # Of a session in a worktree: the directory of the user that it belongs to. Left out of a record
    # if there is none.
    started_in: str | None = None
    title: str | None = None
    prompt: str | None = None  # the beginning of the first prompt
    native_ids: dict[str, str] = {}  # backend: its own id
    # backend: the variables that decide where it keeps that session. Left out of a record if empty.
    native_env: dict[str, dict[str, str]] = {}
    turns: int = 0
    counts: dict[str, int] = {}  # role: how many messages
    usage: Usage | None = None
    cost: float | None = None  # US dollars, as reported; None where any turn's is unknown
    totals: dict[str, Any] = {}  # native id: the CLI's totals so far
    tags: tuple[str, ...] = ()
    metadata: dict[str, Any] = {}
    began_with: str | None = None  # the backend that `options` were meant for
    options: dict[str, Any] = {}  # kept for later turns
    # Whether only the user can have written `options` and `native_env`. In a record only if false,
    # since a record that others could write is private again once we have written it.
    options_trusted: bool = True
    template: str | None = None
    parents: tuple[str, ...] = ()
    task: str | None = None  # the run it was a task of
    error: dict[str, Any] | None = None  # the failure of the last turn
    created_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    updated_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    extra: dict[str, Any] = {}  # fields of other programs; kept

    @property
    def native_id(self) -> str | None:
        """Its native id on its backend."""
        return self.native_ids.get(self.backend or "")

    @property
    def directory(self) -> str | None:
        """The directory that it belongs to, and is continued in by `-c`."""
        return self.started_in or self.cwd

    @property
    def resumable(self) -> bool:
        return self.status in RESUMABLE and bool(self.native_ids or sum(self.counts.values()))

    @property
    def label(self) -> str:
        """Its label in a list: its title, otherwise the first line of its first prompt."""
        # Only to show a session: it compiles expressions.
        from clinvk.text.headline import headline

        return self.title or headline(self.prompt or "")

    def to_json(self) -> dict[str, Any]:
        record: dict[str, Any] = {"version": VERSION}
        for name in self.__struct_fields__:
            value = getattr(self, name)
            if isinstance(value, datetime):
                value = rfc3339(value)
            elif isinstance(value, Usage):
                value = value.to_json()
            if name not in UNSTORED_FIELDS:
                record[name] = value
        if self.options_trusted:
            del record["options_trusted"]
        if not self.native_env:
            del record["native_env"]
        if self.started_in is None:
            del record["started_in"]
        if self.cwd is not None and (text := _as_text(self.cwd)) != self.cwd:
            record |= {"cwd": text, CWD_BYTES: os.fsencode(self.cwd).hex()}
        return self.extra | record

    @classmethod
    def from_json(cls, record: Any) -> Session:
        """Raises `ValueError` if this is not a record, `SessionError` if it is from a newer
        clinvk."""
        if not isinstance(record, dict) or not isinstance(record.get("id"), str):
            raise ValueError("not a session record")  # noqa: TRY004 - one kind of damage
        if record.get("version", 0) > VERSION:
            raise SessionError(
                f"session {record['id']} was written by a newer clinvk"
                f" (record version {record['version']}, this one reads up to {VERSION})",
                "update clinvk to use it",
            )
        if "messages" in record:  # what `counts` was called at first
            record = {"counts": record["messages"]} | record
        known = {*cls.__struct_fields__} - UNSTORED_FIELDS
        values = {k: v for k, v in record.items() if k in known}
        passed = (*known, "version", "messages", CWD_BYTES)
        extra = {k: v for k, v in record.items() if k not in passed}
        try:
            session = convert({**values, "extra": extra}, cls)
            return replace(session, cwd=_cwd(record)) if CWD_BYTES in record else session
        except ValidationError as error:
            raise ValueError(str(error)) from error


def _cwd(record: Mapping[str, Any]) -> str | None:
    """The directory as the system knows it; a changed text in the record takes precedence."""
    text: str | None = record.get("cwd")
    with suppress(ValueError, TypeError):
        path = os.fsdecode(bytes.fromhex(record[CWD_BYTES]))
        if _as_text(path) == text:
            return path
    return text


def _as_text(path: str) -> str:
    """A path as UTF-8 can hold it; what is not text in it is replaced."""
    try:
        return path.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    except UnicodeEncodeError:  # nor can any directory be called that
        return path


def distrust_options(session: Session) -> Session:
    """The session, with a note for every later reader if it has options or variables: others can
    have written them. The note stays with it in whatever record it is written to."""
    has_any = session.options or session.native_env
    return replace(session, options_trusted=False) if has_any else session


def new_id() -> str:
    """Ten hexadecimal digits; creating the record makes sure that they are unique."""
    return os.urandom(5).hex()


def check_id(text: str) -> str:
    """`text`, if it can name a session; ids and names are one space, and both are file names."""
    if not _ID.fullmatch(text):
        raise SessionError(
            f"{text[:40]!r} cannot name a session",
            "use letters, digits, '.', '_' and '-', starting with a letter or digit, at most 128",
        )
    if text.lower() in RESERVED_IDS:
        raise SessionError(f"{text!r} is reserved", "choose another name")
    return text


def prompt_excerpt(prompt: str) -> str:
    """The beginning of a prompt, for lists: its lines stay apart, and other white space is one
    space."""
    lines = (" ".join(line.split()) for line in prompt[: 4 * TITLE_LENGTH].splitlines())
    words = "\n".join(filter(None, lines))
    return words if len(words) <= TITLE_LENGTH else words[: TITLE_LENGTH - 1] + "…"


def after_turn(
    session: Session,
    *,
    status: str,
    said: Mapping[str, int],
    usage: Usage | None,
    cost: float | None,
    error: dict[str, Any] | None,
    model: str | None,
    now: datetime,
) -> Session:
    """The session one turn later. A sum with an unknown part stays what is known of tokens,
    and becomes unknown for money."""
    first = session.turns == 0
    counts = dict(session.counts)
    for role, n in said.items():
        counts[role] = counts.get(role, 0) + n
    known = [u for u in (session.usage, usage) if u is not None]
    paid = cost if first else None if None in (session.cost, cost) else session.cost + cost  # type: ignore[operator]
    return replace(
        session,
        status=status,
        model=model or session.model,
        turns=session.turns + 1,
        counts=counts,
        usage=sum(known[1:], known[0]) if known else None,
        cost=paid,
        error=error,
        updated_at=now,
    )


def count_roles(messages: Iterable[Message]) -> dict[str, int]:
    """The number of messages of each role."""
    counts: dict[str, int] = {}
    for message in messages:
        counts[message.role.value] = counts.get(message.role.value, 0) + 1
    return counts
