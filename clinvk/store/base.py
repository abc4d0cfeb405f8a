"""What the rest of clinvk asks of a place that keeps sessions."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Protocol, Self

from msgspec import Struct

from clinvk.model.session import Message, Session
from clinvk.model.usage import rfc3339

Change = Callable[[Session], Session]


class Damaged(Struct, frozen=True):
    """A record that cannot be read: named, listed, and deletable."""

    id: str
    problem: str


class Query(Struct, frozen=True, kw_only=True):
    """Which sessions; the ones used last come first."""

    backend: str | None = None  # theirs, or one that they were handed to
    status: str | None = None  # of the stored ones, or "damaged"
    cwd: str | None = None  # real path
    tag: str | None = None
    metadata: dict[str, str] = {}
    resumable: bool = False
    tasks: bool = True  # those of fan-outs, too
    before: str | None = None  # last used before this moment (RFC 3339, Z)
    limit: int | None = None

    def matches(self, session: Session) -> bool:
        """Whether the session is one of them, whatever the limit."""
        return (
            (self.backend is None or self.backend in (session.backend, *session.native_ids))
            and self.status in (None, session.status)
            and self.cwd in (None, session.cwd)
            and (self.tag is None or self.tag in session.tags)
            and all(str(session.metadata.get(k, "")) == v for k, v in self.metadata.items())
            and (session.resumable or not self.resumable)
            and (self.tasks or session.task is None)
            and (self.before is None or rfc3339(session.updated_at) < self.before)
        )

    @property
    def includes_damaged(self) -> bool:
        """Whether damaged sessions, of which nothing is known, are among them."""
        only = Query(status=self.status, limit=self.limit, tasks=self.tasks)
        return self == only and self.status in (None, "damaged")


class Hit(Struct, frozen=True, kw_only=True):
    """Where a search found what it looked for. `text` is a piece of the message (or the title,
    where `role` is None) around the first word found; `words` are what to mark in it."""

    session: Session
    role: str | None
    text: str
    words: tuple[str, ...]
    score: float


class TurnLock(Protocol):
    """The right to run a turn of a session, until it is closed."""

    @property
    def leftover(self) -> dict[str, Any] | None:
        """What the turn before this one noted, where it did not live to close."""
        ...

    @property
    def location(self) -> str:
        """Where that is, for a person who has to delete it."""
        ...

    def note(self, facts: dict[str, Any]) -> None:
        """Keep what somebody needs to know to end this turn, should we not live to do it."""
        ...

    def close(self) -> None:
        """Let the next turn begin; what was noted is taken back."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *exception: object) -> None: ...

    def abandon(self) -> None:
        """Let go, as if this process had been killed: what was noted stays for the next turn."""
        ...


class DeferredWrites(Protocol):
    """Writes of sessions that survive a power cut only after `flush`. Its methods raise the errors
    of the store's own, and can be called from any thread."""

    def create(self, session: Session, messages: Iterable[Message] = ()) -> Session:
        """Keep a new session, with exactly its id, which is one that nobody else would choose.
        Other processes may see it only after its first change."""
        ...

    def update(self, session_id: str, change: Change) -> Session: ...

    def append(self, session_id: str, messages: Iterable[Message], change: Change) -> Session: ...

    def flush(self, session_ids: Iterable[str]) -> None:
        """Make everything that was written of these sessions survive a power cut; for many it takes
        a disk little longer than for one. Ids without a session are skipped."""
        ...


class ImmediateWrites:
    """The `DeferredWrites` of a store that would gain nothing by waiting."""

    def __init__(self, store: Store, check_open: Callable[[], object]) -> None:
        self._store = store
        self._check_open = check_open

    def create(self, session: Session, messages: Iterable[Message] = ()) -> Session:
        return self._store.create(session, messages, exact=True)

    def update(self, session_id: str, change: Change) -> Session:
        return self._store.update(session_id, change, durable=False)

    def append(self, session_id: str, messages: Iterable[Message], change: Change) -> Session:
        return self._store.append(session_id, messages, change)

    def flush(self, session_ids: Iterable[str]) -> None:  # noqa: ARG002 - all is written
        self._check_open()


class Store(Protocol):
    """Every method raises `SessionError` where the place cannot be read or written, and
    `SessionNotFound` for an id that it does not have. A store is used by any number of threads, and
    is closed by `with`, or by `close`."""

    def close(self) -> None:
        """Close what is open; from any thread, and more than once. What another thread is doing
        comes to its end, and a turn lasts until it is closed itself; everything else that is asked
        of a closed store raises `SessionError`."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *exception: object) -> None: ...

    def create(
        self,
        session: Session,
        messages: Iterable[Message] = (),
        *,
        exact: bool = False,
        durable: bool = True,
    ) -> Session:
        """Keep a new session. A taken id is replaced by a free one, unless `exact`. Where not
        `durable`, a power cut may take it back, until something is appended."""
        ...

    def get(self, session_id: str) -> Session: ...

    def update(self, session_id: str, change: Change, *, durable: bool = True) -> Session:
        """The session after `change`, which sees the newest record; other writers wait, or it is
        called again with what they wrote."""
        ...

    def append(self, session_id: str, messages: Iterable[Message], change: Change) -> Session:
        """`update`, with messages put behind the transcript in the same step."""
        ...

    def deferred(self) -> DeferredWrites:
        """Writes that only `flush` makes durable, for whoever writes many sessions. It is the same
        one each time."""
        ...

    def rewrite(self, session_id: str, messages: Iterable[Message], change: Change) -> Session:
        """`update`, with a transcript in place of the one that was there."""
        ...

    def messages(self, session_id: str) -> list[Message]: ...

    def size(self, session_id: str) -> int:
        """Bytes that the session takes."""
        ...

    def select(self, query: Query) -> list[Session | Damaged]:
        """The sessions of a query, the one used last first."""
        ...

    def count(self, query: Query) -> int: ...

    def find_ids(self, text: str, limit: int = 11) -> list[str]:
        """Ids that are `text` or begin with it, whatever its case; in order."""
        ...

    def find_by_native_id(self, backend: str | None, native_id: str) -> list[str]:
        """Ids of the sessions that a backend (or any) knows by this id."""
        ...

    def search(self, text: str, *, role: str | None = None, limit: int = 20) -> list[Hit]:
        """The sessions that hold all words of `text`, the best first; any text is a query."""
        ...

    def reindex(self, progress: Callable[[int, int], None] = ...) -> int:
        """Make what is derived from the sessions anew; how many there are. `progress` is told
        (done, all)."""
        ...

    def delete(self, session_id: str) -> None:
        """Take a session away, a damaged one too. One that runs is refused, and so is one whose
        clinvk was killed (`records.LeftBehind`): `manager.delete` ends what it left first."""
        ...

    def clean(self, before: str, *, dry_run: bool = False) -> list[str]:
        """Take away what was last used before this moment (RFC 3339, Z) and does not run, nor
        was cut off; ids."""
        ...

    def acquire_turn(self, session_id: str) -> TurnLock | None:
        """The right to the next turn; nothing while another turn has it."""
        ...

    def is_own(self, session_id: str) -> bool:
        """Whether the current user alone can have written the session's record, ever."""
        ...

    def running_turn(self, session_id: str) -> dict[str, Any] | None:
        """What the running turn noted; nothing where none runs."""
        ...

    def running_ids(self) -> list[str]:
        """Ids of the sessions that have a turn now."""
        ...
