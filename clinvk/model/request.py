"""The request of a caller."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NoReturn

from clinvk.model.option_table import CONTEXT_OPTIONS
from clinvk.model.session_ref import (
    LAST,
    LatestSession,
    NamedSession,
    NewSession,
    SessionById,
    SessionRef,
    session_ref_from_words,
)

if TYPE_CHECKING:
    from clinvk.model.checks.progress import CheckProgress
    from clinvk.model.plan import TaskWorktree

EMPTY: Mapping[str, Any] = MappingProxyType({})
WORDS = {"session", "name", "anywhere", "history", "new"}  # that say which session


class Request:
    """A request to a backend. It is immutable.

    `session` says which session: a `SessionRef`, an id, a unique prefix of one, a native id, or
    "last", which may be a session of another directory with `anywhere`. In place of an id, `name`
    is the name of a session that is created at its first use. `history` puts that many earlier
    sessions of the directory before the first prompt of a new session. `new` starts a session
    though session.auto_resume is on."""

    # Not a Struct: the words that say which session are arguments of it, and one field.

    prompt: str
    backend: str | None
    session_ref: SessionRef
    to: str | None  # a backend that the conversation is handed over to
    replay: bool  # start the native session over, from the transcript
    options: Mapping[str, Any]
    spelled: Mapping[str, str]  # what the user typed for an option, for messages
    args: tuple[str, ...]  # passed to the backend unchanged
    cwd: Path | None  # None: the session's directory, else the current one
    own_directory: bool  # in an empty one that is deleted at the end; `cwd` is where it was started
    ephemeral: bool
    timeout: float | None  # seconds
    stall_timeout: float | None  # seconds without output
    env: Mapping[str, str]  # for the program, in addition to this process's
    secrets: tuple[str, ...]  # texts that are removed from everything that is stored
    title: str | None
    tags: tuple[str, ...]
    lenient: bool  # drop options that the backend lacks, with a notice
    expand: bool  # let the CLI expand @path and /command
    wait: bool  # for another turn of the same session
    fail_on_denied: bool
    on_limit: str | None  # fail, wait or switch:BACKEND at a rate limit; None: as configured
    max_wait: float | None  # seconds to wait for its end; None: as configured
    fallback: tuple[str, ...] | None  # backends to switch to; None: as configured
    labels: tuple[str, ...]  # that a worker of a cluster needs to run it
    ignore_limit: bool  # try even if a rate limit is remembered
    resends: bool  # its prompt is the last one of the session, which a rate limit has ended
    task: str | None  # the run that it is a task of
    stored_options: bool  # apply the options that the user has stored
    worktree: TaskWorktree | None  # in which an executor runs it, in place of `cwd`
    started_in: (
        Path | None
    )  # the directory of the user that a `cwd` in a worktree, or an empty one, belongs to
    check_dir: Path | None  # where the output of checks is stored, and what is needed to continue
    check_progress: CheckProgress | None  # how far an earlier attempt at this got
    attempt: tuple[int, int] | None  # of a run: the position of its task, and which attempt it is

    def __init__(
        self,
        *,
        prompt: str,
        backend: str | None = None,
        session: SessionRef | str | None = None,
        name: str | None = None,
        anywhere: bool = False,
        history: int = 0,
        new: bool = False,
        to: str | None = None,
        replay: bool = False,
        options: Mapping[str, Any] = EMPTY,
        spelled: Mapping[str, str] = EMPTY,
        args: tuple[str, ...] = (),
        cwd: Path | None = None,
        own_directory: bool = False,
        ephemeral: bool = False,
        timeout: float | None = None,
        stall_timeout: float | None = None,
        env: Mapping[str, str] = EMPTY,
        secrets: tuple[str, ...] = (),
        title: str | None = None,
        tags: tuple[str, ...] = (),
        lenient: bool = False,
        expand: bool = False,
        wait: bool = True,
        fail_on_denied: bool = False,
        on_limit: str | None = None,
        max_wait: float | None = None,
        fallback: tuple[str, ...] | None = None,
        ignore_limit: bool = False,
        labels: tuple[str, ...] = (),
        resends: bool = False,
        task: str | None = None,
        stored_options: bool = False,
        worktree: TaskWorktree | None = None,
        started_in: Path | None = None,
        check_dir: Path | None = None,
        check_progress: CheckProgress | None = None,
        attempt: tuple[int, int] | None = None,
    ) -> None:
        fields = dict(locals())
        for word in ("self", *WORDS):
            del fields[word]
        if not isinstance(session, SessionRef):
            session = session_ref_from_words(
                session, name=name, anywhere=anywhere, history=history, new=new
            )
        self.__dict__.update(fields, session_ref=session)

    @property
    def session(self) -> str | None:
        """An id, a unique prefix, a native id, or "last"; None for a new or a named session."""
        match self.session_ref:
            case SessionById(text):
                return text
            case LatestSession():
                return LAST
        return None

    @property
    def name(self) -> str | None:
        return self.session_ref.name if isinstance(self.session_ref, NamedSession) else None

    @property
    def anywhere(self) -> bool:
        return isinstance(self.session_ref, LatestSession) and self.session_ref.anywhere

    @property
    def history(self) -> int:
        ref = self.session_ref
        return ref.history if isinstance(ref, (NewSession, NamedSession)) else 0

    @property
    def new(self) -> bool:
        return isinstance(self.session_ref, NewSession)

    @property
    def chosen_id(self) -> str | None:
        """The id of a new session, if the caller has chosen it."""
        return self.session_ref.id if isinstance(self.session_ref, NewSession) else None

    @property
    def options_of_follow_up(self) -> dict[str, Any]:
        """The options of a turn that clinvk adds to this one: the conversation has the context
        already."""
        return {k: v for k, v in self.options.items() if k not in CONTEXT_OPTIONS}

    def with_session(self, session: SessionRef) -> Request:
        """The same for another session."""
        return self.replace(session=session)

    def replace(self, **changes: Any) -> Request:
        """The same with other fields. A word that says which session replaces all that say it, but
        `anywhere` and `history`, which add to them."""
        fields = dict(self.__dict__)
        ref = changes.pop("session_ref", fields.pop("session_ref"))
        words = WORDS & changes.keys()
        if not words:
            fields["session"] = ref
        elif words <= {"anywhere", "history"}:
            same = {"session": self.session, "name": self.name, "new": self.new}
            fields |= same | {"anywhere": self.anywhere, "history": self.history}
        return Request(**fields | changes)

    __replace__ = replace  # for `copy.replace`

    def __reduce__(self) -> tuple[Any, ...]:
        fields = dict(self.__dict__)
        fields["session"] = fields.pop("session_ref")
        for name, value in fields.items():
            if isinstance(value, MappingProxyType):
                fields[name] = dict(value)
        return partial(Request, **fields), ()

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"immutable type: 'Request', so {name!r} cannot be set")

    def __eq__(self, other: object) -> bool:
        return self.__dict__ == other.__dict__ if isinstance(other, Request) else NotImplemented

    def __hash__(self) -> int:
        raise TypeError("unhashable type: 'Request'")  # as mappings are, which are part of it

    def __repr__(self) -> str:
        return f"Request({', '.join(f'{k}={v!r}' for k, v in self.__dict__.items())})"
