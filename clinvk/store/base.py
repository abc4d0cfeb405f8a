"""The interface of a store of sessions."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Protocol, Self, runtime_checkable

from msgspec import Struct

from clinvk.model.session import Message, Session
from clinvk.model.usage import rfc3339

Change = Callable[[Session], Session]


class Damaged(Struct, frozen=True):
    """A record that cannot be read, but can be listed and deleted."""

    id: str
    problem: str


class Query(Struct, frozen=True, kw_only=True):
    """Selects sessions, most recently used first."""

    backend: str | None = None  # the sessions' backend, or one that they were handed over to
    status: str | None = None  # a stored status, or "damaged"
    cwd: str | None = None  # real path of the directory that they belong to
    tag: str | None = None
    metadata: dict[str, str] = {}
    resumable: bool = False
    tasks: bool = True  # include the sessions of tasks
    before: str | None = None  # last used before this time (RFC 3339, Z)
    limit: int | None = None

    def matches(self, session: Session) -> bool:
        """Whether the session matches, ignoring the limit."""
        return (
            (self.backend is None or self.backend in (session.backend, *session.native_ids))
            and self.status in (None, session.status)
            and self.cwd in (None, session.directory)
            and (self.tag is None or self.tag in session.tags)
            and all(str(session.metadata.get(k, "")) == v for k, v in self.metadata.items())
            and (session.resumable or not self.resumable)
            and (self.tasks or session.task is None)
            and (self.before is None or rfc3339(session.updated_at) < self.before)
        )

    @property
    def includes_damaged(self) -> bool:
        """Whether damaged sessions, of which nothing is known, match."""
        only = Query(status=self.status, limit=self.limit, tasks=self.tasks)
        return self == only and self.status in (None, "damaged")


class Hit(Struct, frozen=True, kw_only=True):
    """A hit of a search. `text` is a piece of the message (or the title, if `role` is None) around
    the first word found; `words` are the words to highlight in it."""

    session: Session
    role: str | None
    text: str
    words: tuple[str, ...]
    score: float


class TurnLock(Protocol):
    """The lock of a session's turn, until it is closed."""

    @property
    def leftover(self) -> dict[str, Any] | None:
        """The note of the previous turn, if it was killed before it closed."""
        ...

    @property
    def location(self) -> str:
        """The place of the note, for a user who has to delete it."""
        ...

    def note(self, facts: dict[str, Any]) -> None:
        """Store what is needed to stop this turn's programs if this process is killed."""
        ...

    def close(self) -> None:
        """Release the lock for the next turn, and remove the note."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *exception: object) -> None: ...

    def abandon(self) -> None:
        """Release the lock as if this process had been killed: the note stays for the next turn."""
        ...


@runtime_checkable
class CompletesTurns(Protocol):
    """The lock of a turn whose last write can release it, which saves a request to a server."""

    def complete(self, messages: Iterable[Message], change: Change) -> Session:
        """`append` to the session, and release the lock in the same step. Raises the errors of
        `append`, and holds the lock then."""
        ...


@runtime_checkable
class BeginsTurns(Protocol):
    """A store that can create a session together with its first turn, which saves two requests to a
    server."""

    def begin(
        self,
        session: Session,
        messages: Iterable[Message],
        facts: Callable[[str], dict[str, Any]],
        *,
        exact: bool,
    ) -> tuple[Session, TurnLock]:
        """`create`, `acquire_turn` and `note`, in one step. `facts` returns the note of the turn of a
        session with this id."""
        ...


class DeferredWrites(Protocol):
    """Writes of sessions that survive a power cut only after `flush`. Its methods raise the errors
    of the store's methods, and can be called from any thread."""

    def create(self, session: Session, messages: Iterable[Message] = ()) -> Session:
        """Store a new session under exactly its id, which has to be unique. Other processes may see
        it only after its first change."""
        ...

    def update(self, session_id: str, change: Change) -> Session: ...

    def append(self, session_id: str, messages: Iterable[Message], change: Change) -> Session: ...

    def flush(self, session_ids: Iterable[str]) -> None:
        """Make all writes of these sessions durable; for many it takes a disk little longer than
        for one. Ids without a session are skipped."""
        ...


class ImmediateWrites:
    """The `DeferredWrites` of a store that gains nothing by deferring."""

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
    """A store of sessions. Every method raises `SessionError` if the store cannot be read or
    written, and `SessionNotFound` for an unknown id. A store can be used by any number of threads,
    and is closed by `with` or `close`."""

    def close(self) -> None:
        """Close the store; may be called from any thread, and repeatedly. Calls in progress in
        other threads complete, and a turn lasts until it is closed itself; all other calls then
        raise `SessionError`."""
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
        """Store a new session. A taken id is replaced by a free one, unless `exact`. Unless
        `durable`, a power cut may undo it until something is appended."""
        ...

    def get(self, session_id: str) -> Session: ...

    def update(self, session_id: str, change: Change, *, durable: bool = True) -> Session:
        """The session after `change`, which gets the newest record; other writers wait, or it is
        called again with what they wrote."""
        ...

    def append(self, session_id: str, messages: Iterable[Message], change: Change) -> Session:
        """`update`, with messages appended to the transcript in the same step."""
        ...

    def deferred(self) -> DeferredWrites:
        """Writes that only `flush` makes durable, for writing many sessions. Always the same
        object."""
        ...

    def rewrite(self, session_id: str, messages: Iterable[Message], change: Change) -> Session:
        """`update`, with the transcript replaced."""
        ...

    def messages(self, session_id: str) -> list[Message]: ...

    def size(self, session_id: str) -> int:
        """The size of the session in bytes."""
        ...

    def select(self, query: Query) -> list[Session | Damaged]:
        """The sessions of a query, most recently used first."""
        ...

    def count(self, query: Query) -> int: ...

    def find_ids(self, text: str, limit: int = 11) -> list[str]:
        """Ids that start with `text`, ignoring case, in order."""
        ...

    def find_by_native_id(self, backend: str | None, native_id: str) -> list[str]:
        """Ids of the sessions with this native id, of one backend or any."""
        ...

    def search(self, text: str, *, role: str | None = None, limit: int = 20) -> list[Hit]:
        """The sessions that contain all words of `text`, best match first; any text is a valid
        query."""
        ...

    def reindex(self, progress: Callable[[int, int], None] = ...) -> int:
        """Rebuild what is derived from the sessions; return their number. `progress` is called with
        (done, total)."""
        ...

    def delete(self, session_id: str) -> None:
        """Delete a session, also a damaged one. Refuses one that is running, and one whose clinvk
        was killed (`records.LeftBehind`): `manager.delete` first stops what that left running."""
        ...

    def clean(self, before: str, *, dry_run: bool = False) -> list[str]:
        """Delete sessions last used before this time (RFC 3339, Z) that are neither running nor
        interrupted; return their ids."""
        ...

    def acquire_turn(self, session_id: str) -> TurnLock | None:
        """The lock of the next turn; None while another turn holds it."""
        ...

    def is_own(self, session_id: str) -> bool:
        """Whether only the current user can ever have written the session's record."""
        ...

    def running_turn(self, session_id: str) -> dict[str, Any] | None:
        """The note of the running turn; None without one."""
        ...

    def running_ids(self) -> list[str]:
        """Ids of the sessions with a running turn."""
        ...
