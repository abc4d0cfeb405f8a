"""Where sessions are kept. `Store` is what the rest of clinvk asks of such a place."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

from msgspec import Struct

from clinvk.errors import ConfigError
from clinvk.session import Message, Session

Change = Callable[[Session], Session]


class Damaged(Struct, frozen=True):
    """A record that cannot be read: named, listed, and deletable."""

    id: str
    problem: str


class Turn(Protocol):
    """The right to run a turn of a session, until it is closed."""

    @property
    def left(self) -> dict[str, Any] | None:
        """What the turn before this one noted, where it did not live to close."""
        ...

    def note(self, facts: dict[str, Any]) -> None:
        """Keep what somebody needs to know to end this turn, should we not live to do it."""
        ...

    def close(self) -> None:
        """Let the next turn begin; what was noted is taken back."""
        ...

    def abandon(self) -> None:
        """Let go, as if this process had been killed: what was noted stays for the next turn."""
        ...


class Store(Protocol):
    """Every method raises `SessionError` where the place cannot be read or written, and
    `SessionNotFound` for an id that it does not have."""

    def create(self, session: Session, *, exact: bool = False) -> Session:
        """Keep a new session. A taken id is replaced by a free one, unless `exact`."""
        ...

    def get(self, id: str) -> Session: ...  # noqa: A002 - the field's name

    def update(self, id: str, change: Change, *, durable: bool = True) -> Session:  # noqa: A002
        """The session after `change`, which sees the newest record; other writers wait."""
        ...

    def append(self, id: str, messages: Iterable[Message], change: Change) -> Session:  # noqa: A002
        """`update`, with messages put behind the transcript in the same step."""
        ...

    def messages(self, id: str) -> list[Message]: ...  # noqa: A002

    def size(self, id: str) -> int:  # noqa: A002
        """Bytes that the session takes."""
        ...

    def all(self) -> Iterator[Session | Damaged]:
        """Every session, in no order."""
        ...

    def ids(self) -> list[str]: ...

    def delete(self, id: str) -> None:  # noqa: A002
        """Take a session away, a damaged one too. One that runs is refused."""
        ...

    def turn(self, id: str) -> Turn | None:  # noqa: A002
        """The right to the next turn; nothing while another turn has it."""
        ...

    def running(self, id: str) -> dict[str, Any] | None:  # noqa: A002
        """What the running turn noted; nothing where none runs."""
        ...

    def writing(self) -> AbstractContextManager[None]:
        """Hold off every other writer."""
        ...


def open_store(url: str, home: Path) -> Store:
    """The store that `session.storage` names. Raises `ConfigError` for an unknown kind."""
    if url == "file":
        from clinvk.store.file import FileStore

        return FileStore(home)
    raise ConfigError(f"session.storage: unknown store {url!r}", "known: file")
