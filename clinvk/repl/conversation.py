"""A conversation: where its next message goes, what it has said and used so far.

It knows no terminal and no event loop; what sends a message and accounts for its turn is in `sending`
and `by_line`."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from clinvk.dispatch.dispatcher import Dispatcher
from clinvk.errors import ClinvkError, SessionNotFound
from clinvk.model.events import Event, Notice
from clinvk.model.request import Request
from clinvk.model.result import Result
from clinvk.model.session import Session
from clinvk.model.session_ref import DefaultSession, LatestSession, NewSession, SessionById
from clinvk.model.usage import Usage
from clinvk.repl.project.changes import TurnChanges
from clinvk.repl.project.worktree import ConversationWorktree
from clinvk.sessions.lookup import real_path

if TYPE_CHECKING:
    from clinvk.model.plan import Worktree


_NOTHING = Request(prompt="")  # what a request says if nothing is asked for


class Conversation:
    def __init__(
        self,
        dispatcher: Dispatcher,
        base: Request,
        template: str | None = None,
        worktree: Worktree | None = None,
    ) -> None:
        """`base` is what all messages have in common; its prompt is not sent. Its session is the one
        of the first message. `template` is that of a new session. With `worktree`, it works in a git
        worktree like that."""
        self.dispatcher = dispatcher
        self.session: Session | None = None
        self.last: Result | None = None
        self.options: dict[str, Any] = dict(base.options)
        self.used = Usage()  # by this conversation, since it was opened here
        self.cost: float | None = None  # the same in US dollars, as reported
        self.limited_until: datetime | None = None
        self.attached: str | None = None  # what goes after the next message
        self.changes = TurnChanges(dispatcher.env)
        self.worktree = ConversationWorktree(dispatcher.config.home, dispatcher.env, worktree)
        self.done: str | None = None  # what the last turn has changed in the worktree
        self._told: set[str] = set()  # notices of earlier turns
        self._base = base
        self._ref = base.session_ref
        self._backend = base.backend
        self._to = base.to
        self._template = template
        self._default: str | None = None  # the backend if none is chosen

    def open(self) -> Session | None:
        """Find the session that the first message continues. Raises `SessionError`."""
        found = self.dispatcher.sessions.find(self._base)
        if found is not None:
            self.take_session(found)
        self._look_for_limit()
        return found

    # What the next message is sent to.

    @property
    def backend(self) -> str:
        """The name of the backend that the next message is sent to."""
        name = self._to or (self.session.backend if self.session else None) or self._backend
        return name or self._default_backend()

    def _default_backend(self) -> str:
        if self._default is None:  # asked for with each key
            self._default = self.dispatcher.config.config.default_backend
            with suppress(ClinvkError):
                self._default = self.dispatcher.selector.select(None).manifest.name
        return self._default

    @property
    def model(self) -> str | None:
        """The model of the next message, if it is known."""
        if chosen := self.options.get("model"):
            return str(chosen)
        if self._to is None and self.session is not None:
            if self.last is not None and self.last.model and self.last.backend == self.backend:
                return self.last.model
            return self.session.model
        return None

    @property
    def directory(self) -> str:
        """The directory of the next message."""
        session, in_worktree = self.session, self.worktree.exists
        if session is not None and session.cwd and (in_worktree or self._base.cwd is None):
            is_gone = session.started_in is not None and not in_worktree
            return session.directory if is_gone and session.directory else session.cwd
        return real_path(self._base.cwd)

    @property
    def shown_directory(self) -> str:
        """The same for people: of a worktree, the directory that it was made from."""
        if self.worktree.wanted is None:
            return self.directory
        session = self.session
        own = session.directory if session is not None and self.worktree.exists else None
        return f"{own or self.directory} (worktree)"

    @property
    def creates_session(self) -> bool:
        """Whether a session is created from a template before its next message is sent."""
        return self._template is not None

    @property
    def has_begun(self) -> bool:
        """Whether it has messages that another backend would have to be told."""
        return self.session is not None and bool(
            self.session.turns or self.session.native_ids or sum(self.session.counts.values())
        )

    @property
    def tokens(self) -> int:
        stored = self.session.usage.counted if self.session and self.session.usage else 0
        return max(stored, self.used.counted)

    @property
    def dollars(self) -> float | None:
        stored = self.session.cost if self.session else None
        return self.cost if stored is None else stored

    def switch_backend(self, name: str) -> bool:
        """Send the next message to another backend; return whether the conversation is handed over
        with it. The chosen model is forgotten: backends call theirs differently. Raises
        `ClinvkError` if the backend is unknown, disabled or not installed."""
        found = self.dispatcher.selector.select(name).manifest.name
        if found == self.backend:
            return False
        self.options.pop("model", None)
        if not self.has_begun:
            if self.session is None:
                self._backend = found
            else:
                self._to = found
            return False
        self._to = found if self.session and self.session.backend != found else None
        self._look_for_limit()
        return True

    def set_model(self, model: str | None) -> None:
        """The model of the next messages; None: what the backend or the configuration says."""
        self.options.pop("model", None)
        if model:
            self.options["model"] = model

    def resume(self, session: Session) -> None:
        self._forget()
        self.take_session(session)
        self._look_for_limit()

    def start_new(self, title: str | None = None) -> None:
        """The next message starts a session, on the same backend."""
        backend = self.backend
        self._forget()
        self._backend, self._ref = backend, NewSession()
        self._base = self._base.replace(title=title)
        self.worktree.follow(None)

    def reload(self, dispatcher: Dispatcher) -> None:
        """Use another configuration."""
        self.dispatcher, self._default = dispatcher, None
        self.refresh()

    def refresh(self) -> bool:
        """Read the session again, which a command may have changed. Return whether it is still
        there; if not, the next message starts another one."""
        if self.session is None:
            return True
        try:
            self.take_session(self.dispatcher.store.get(self.session.id))
        except SessionNotFound:
            self.start_new()
            return False
        return True

    def _forget(self) -> None:
        self.session, self.last, self._to, self._template = None, None, None, None
        self.used, self.cost, self.limited_until = Usage(), None, None
        self._told.clear()

    def take_session(self, session: Session) -> None:
        """Its next message goes to this session."""
        self.session = session
        self._ref = SessionById(session.id)
        self.worktree.follow(session)
        if session.backend == self._to:
            self._to = None
        if session.backend:
            self._backend = None

    def close(self) -> None:
        """Release what it holds."""
        self.worktree.release()
        self.changes.close()

    # Turns.

    def request(self, prompt: str, given: Request | None = None) -> Request:
        """The request of a message. `given` is that of a command line, which may say more, and which
        session."""
        if self.attached is not None:
            prompt = f"{prompt}\n\n{self.attached}"  # the session is listed with its beginning
        request = self._base.replace(
            session=self._ref,
            backend=self._backend,
            to=self._to,
            options=dict(self.options),
            cwd=None if self.worktree.exists else self._base.cwd,
        )
        if given is not None:
            said = {
                name: value
                for name, value in vars(given).items()
                if name not in ("session_ref", "options") and value != vars(_NOTHING)[name]
            }
            request = request.replace(
                **said,
                options={**self.options, **given.options},
                spelled={**self._base.spelled, **given.spelled},
            )
            is_this = isinstance(given.session_ref, LatestSession) and self.session is not None
            if not is_this and not isinstance(given.session_ref, DefaultSession):
                request = request.replace(session=given.session_ref, to=given.to)
        return request.replace(prompt=prompt)

    def is_told(self, event: Event, notices: Collection[str]) -> bool:
        """Whether the event is one of the notices that a turn begins with, and an earlier turn of the
        session has begun with it, too."""
        if not isinstance(event, Notice) or event.message not in notices:
            return False
        known = event.message in self._told
        self._told.add(event.message)
        return known

    def watch(self, request: Request) -> None:
        """A turn is about to start: its changes are those from now on."""
        self.changes.begin(real_path(request.cwd) if request.cwd else self.directory)
        self.changes.wait()

    def account(self, result: Result) -> None:
        """Take the result of a turn into account."""
        self.changes.end()
        self.last, self.attached = result, None
        if result.usage is not None:
            self.used += result.usage
        if result.cost is not None:
            self.cost = (self.cost or 0.0) + result.cost
        if result.session_id is not None:
            self._template = None
            self._base = self._base.replace(replay=False)
            self.options.pop("fast_context", None)  # the conversation has these files now
            with suppress(ClinvkError):
                self.take_session(self.dispatcher.store.get(result.session_id))
        self.done = self.worktree.describe(result)
        self._look_for_limit()
        if result.error is not None and result.error.retry_at is not None:
            self.limited_until = result.error.retry_at

    def _look_for_limit(self) -> None:
        self.limited_until = None
        with suppress(ClinvkError):
            if found := self.dispatcher.find_limit(self.backend, {}, self.options.get("model")):
                self.limited_until = found.retry_at

    def is_limited(self) -> bool:
        return self.limited_until is not None and self.limited_until > datetime.now(UTC)

    def begin(self, request: Request) -> tuple[Request, str | None]:
        """The request as it is sent, and the id of the session that was created for it from a
        template; see `abandon`. Raises `ClinvkError`."""
        if self._template is None or self.session is not None:
            return request, None
        # Only with --template.
        from clinvk.api.sessions.manager import SessionManager

        manager = SessionManager(self.dispatcher.store, config=self.dispatcher.config)
        created = manager.create_session(
            request.title,
            self._template,
            name=request.name,
            backend=request.backend,
            tags=request.tags,
        )
        return request.replace(session=SessionById(created), title=None, tags=()), created

    def abandon(self, created: str | None) -> None:
        """Delete a session that was created for a message that could not be sent."""
        self.changes.abandon()
        if created is not None:
            with suppress(ClinvkError):
                self.dispatcher.store.delete(created)
