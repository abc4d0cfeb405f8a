"""From a `Request` to `Event`s: choose, resume, start, record."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import (
    asynccontextmanager,
    contextmanager,
    suppress,
)
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from clinvk.backend import permissions
from clinvk.backend.catalog import Catalog
from clinvk.backend.command.environment import changed_env, expand_variables
from clinvk.backend.options import (
    stored_options,
)
from clinvk.backend.selection import BackendSelector
from clinvk.backend.versions.installed import VersionNeeded
from clinvk.config import loading
from clinvk.config import schema as configs
from clinvk.disk.closing import Closing
from clinvk.dispatch.limit_check import (
    check_limit,
    find_limit,
    limit_error,
    needs_limit_policy,
)
from clinvk.dispatch.off_loop import ENDED_TIMEOUT, StoreCalls
from clinvk.dispatch.planning.new_session import new_session
from clinvk.dispatch.planning.planner import TurnPlanner
from clinvk.dispatch.planning.request_check import check_request
from clinvk.dispatch.recorder import Recorder, prompt_messages, with_prompt
from clinvk.dispatch.recovery import turn_facts
from clinvk.dispatch.start_turn import BeforeTurn, start_turn
from clinvk.dispatch.turn_plan import TurnPlan
from clinvk.errors import LimitError, SessionError
from clinvk.model.option_table import CONTEXT_OPTIONS
from clinvk.model.request import Request
from clinvk.model.result import Result
from clinvk.model.session import Session
from clinvk.model.session_ref import NewSession
from clinvk.process.marker import MARKER, new_marker
from clinvk.sessions.lookup import NoSessionHere, SessionLookup
from clinvk.store import open_store
from clinvk.store.base import BeginsTurns, Store, TurnLock

if TYPE_CHECKING:
    from clinvk.backend.manifest import Manifest
    from clinvk.dispatch.account import Account
    from clinvk.dispatch.series.turn_series import TurnSeries
    from clinvk.dispatch.turn import Turn

__all__ = ["Dispatcher", "NoSessionHere", "TurnPlan"]


# The options of a request by which its work is checked.
CHECKING = ("check", "protect", "expect_change")


class Dispatcher(Closing):
    """Runs requests. Everything that it needs from outside is passed in here.

    `close`, or the end of a `with` block, closes the store that it has opened, not one that it was
    given."""

    def __init__(
        self,
        config: configs.Loaded | None = None,
        *,
        store: Store | None = None,
        catalog: Catalog | None = None,
        env: Mapping[str, str] | None = None,
        patient: bool = False,
        read_interval: float = 0.0,
    ) -> None:
        """If `patient`, it waits for a store whose server is restarted. The output of a program is
        read every `read_interval` seconds at most."""
        self.env = dict(os.environ if env is None else env)
        self.config = config or loading.load(self.env)
        self.catalog = catalog or Catalog(self.config.home)
        self.selector = BackendSelector(self.catalog, self.config, self.env)
        # Called with (done, total) while documents are read, by the thread that does.
        self.index_progress: Callable[[int, int], None] = lambda _done, _total: None
        self._store = store
        self._is_patient = patient
        self._read_interval = read_interval
        # By session: the permissions it was started with here, which its later turns may have too.
        self._created: dict[str, dict[str, Any]] = {}
        self._opened: Store | None = None  # the store, if it is closed here
        self._closed = False

    def close(self) -> None:
        self._closed = True
        if self._opened is not None:
            self._opened.close()

    def with_marker(self, marker: str) -> Dispatcher:
        """The same for another environment: all programs that it starts carry the marker."""
        env = {**self.env, MARKER: marker} if marker else self.env
        return Dispatcher(
            self.config, store=self.store, catalog=self.catalog, env=env,
            read_interval=self._read_interval,
        )  # fmt: skip

    @property
    def store(self) -> Store:
        if self._store is None:
            if self._closed:
                raise SessionError("the dispatcher is closed", "use it inside its `with` block")
            settings = self.config.config.session
            self._store = self._opened = open_store(
                settings.storage, self.config.home, patient=self._is_patient
            )
        return self._store

    @cached_property
    def sessions(self) -> SessionLookup:
        return SessionLookup(self.store, auto_resume=self.config.config.session.auto_resume)

    @cached_property
    def planner(self) -> TurnPlanner:
        return TurnPlanner(
            self.config, self.selector, self.env,
            store=lambda: self.store, sessions=lambda: self.sessions, created=self._created,
            index_progress=self._on_index_progress,
        )  # fmt: skip

    def _on_index_progress(self, done: int, total: int) -> None:
        self.index_progress(done, total)  # which may have been replaced since

    async def run(self, request: Request) -> Result:
        """The result of the request. Raises `ClinvkError` before anything runs; once a program
        runs, its failure is in the result."""
        async with self.stream(request) as run:
            async for _ in run:
                pass
        return run.result

    @asynccontextmanager
    async def stream(
        self,
        request: Request,
        notify: Callable[[str], None] = lambda _: None,
        may_continue: Callable[[Result], str | None] = lambda _: None,
    ) -> AsyncIterator[Turn | TurnSeries]:
        """The running turn: `async for event in run`, then `run.result`. Leaving the block early
        stops the program. `notify` gets messages before there are events, such as waiting. At a
        rate limit, it continues as the request says, on another backend or after a wait; an answer
        that does not match the request's schema is followed by a turn that corrects it; work that
        does not pass its check, by turns that fix it. `may_continue` is asked before each of those:
        it returns why there may be none."""
        check_request(request)
        if not request.own_directory:
            async with self._stream_checked(request, notify, may_continue) as run:
                yield run
            return
        # Only for an empty directory.
        from clinvk.dispatch.planning.own_directory import in_own_directory

        async with (
            in_own_directory(request, self._find_session, self.config.home, notify) as there,
            self._stream_checked(there, notify, may_continue) as run,
        ):
            yield run

    @asynccontextmanager
    async def _stream_checked(
        self,
        request: Request,
        notify: Callable[[str], None],
        may_continue: Callable[[Result], str | None],
    ) -> AsyncIterator[Turn | TurnSeries]:
        if not any(request.options.get(name) for name in CHECKING):
            async with self._stream_matching(request, notify) as run:
                yield run
            return
        # Only with a check.
        from clinvk.dispatch.series.check_rounds import CheckedTurn

        checked = CheckedTurn(
            lambda before: partial(self._stream_matching, before=before), request, notify,
            home=self.config.home, env=self.env, redacting=self.config.config.session.redact,
            plan=self.aplan, may_continue=may_continue,
        )  # fmt: skip
        async with checked as series:
            yield series

    async def _find_session(self, request: Request) -> Session | None:
        if isinstance(request.session_ref, NewSession):
            return None
        return await StoreCalls(self.store)(lambda: self.sessions.find(request))

    @asynccontextmanager
    async def _stream_matching(
        self, request: Request, notify: Callable[[str], None], before: BeforeTurn | None = None
    ) -> AsyncIterator[Turn | TurnSeries]:
        if request.options.get("schema") is None:
            async with self._stream_limited(request, notify, before) as run:
                yield run
            return
        # Only with a schema.
        from clinvk.dispatch.series.schema_repair import RepairedTurn

        stream = partial(self._stream_limited, before=before)
        async with RepairedTurn(stream, request, notify) as series:
            yield series

    @asynccontextmanager
    async def _stream_limited(
        self, request: Request, notify: Callable[[str], None], before: BeforeTurn | None = None
    ) -> AsyncIterator[Turn | TurnSeries]:
        if not needs_limit_policy(request, self.config.config.unified_flags):
            async with self._stream(request, notify, before) as run:
                yield run
            return
        # Only if a rate limit is not to end the turn.
        from clinvk.dispatch.series.limit_policy import LimitedTurn, policy_of

        policy = policy_of(request, self.config.config.unified_flags, self.catalog)
        stream = partial(self._stream, before=before)
        async with LimitedTurn(stream, request, policy, notify) as series:
            yield series

    @asynccontextmanager
    async def _stream(
        self, request: Request, notify: Callable[[str], None], before: BeforeTurn | None = None
    ) -> AsyncIterator[Turn]:
        marker = new_marker(self.env)
        home = self.config.home
        if request.ephemeral:
            is_quick = not any(request.options.get(name) for name in CONTEXT_OPTIONS)
            plan = await self.planner.when_known(no_calls if is_quick else in_thread, request, None)
            await check_limit(plan, home)
            async with start_turn(
                plan, self.config, self.env, marker, None, before,
                read_interval=self._read_interval,
            ) as run:  # fmt: skip
                yield run
            return
        calls = StoreCalls(self.store)
        session = await calls(lambda: self.sessions.find(request))
        plan = await self.planner.when_known(calls, request, session)
        await check_limit(plan, home)
        new = session is None
        turn: TurnLock | None = None  # from its beginning, if the store can do that
        if session is None:
            session, turn = await self._create_session(plan, calls, marker)
        is_known = new and (turn is not None or request.chosen_id is not None)
        begun = False
        try:
            # Anyio, 45 ms: needed only once something runs.
            from clinvk.dispatch.turn_lock import acquire_turn, release_turn

            if turn is None:
                turn = await acquire_turn(
                    calls, session.id, marker, wait=request.wait, notify=notify
                )
            try:
                # Another turn may have changed the record while this one waited, unless the session
                # was made a moment ago for a task.
                if not is_known:
                    session = await calls(partial(self.store.get, session.id))
                plan = (
                    replace(plan, session=session)
                    if new
                    else await self.planner.when_known(calls, request, session, plan.context)
                )
                await check_limit(plan, home)  # another process may have met one meanwhile
                recorder = Recorder(calls, plan, session.id, self.config.config.session, turn)
                async with start_turn(
                    plan, self.config, self.env, marker, recorder, before,
                    new=new, read_interval=self._read_interval,
                ) as run:  # fmt: skip
                    begun = True
                    yield run
            finally:
                await release_turn(calls, turn.close)
        except BaseException:
            if new and not begun:  # nothing has started, so there is nothing to keep
                await delete_session(calls, session.id)
            raise

    def find_limit(
        self, backend: str, env: Mapping[str, str], model: str | None
    ) -> LimitError | None:
        """The rate limit of a backend that was remembered, for programs with these variables in
        addition to this process's."""
        if not os.path.isdir(self.config.home / "limits"):
            return None
        manifest, used = self._manifest_and_env(backend, env)
        found = find_limit(backend, manifest, used, model, self.config.home)
        return limit_error(backend, found) if found else None

    def find_account(self, backend: str, env: Mapping[str, str]) -> Account:
        """The account that the programs of a backend use here, with these variables in addition to
        this process's."""
        # Only if there is a rate limit to remember.
        from clinvk.dispatch.account import find_account

        return find_account(*self._manifest_and_env(backend, env))

    def _manifest_and_env(
        self, backend: str, env: Mapping[str, str]
    ) -> tuple[Manifest, dict[str, str]]:
        manifest = self.catalog.load(backend)
        base = {**self.selector.child_env(backend), **env}
        added = {k: expand_variables(v, base) if v else v for k, v in manifest.env.items()}
        return manifest, changed_env(base, added)

    async def aplan(self, request: Request) -> TurnPlan:
        """`plan`, without blocking the event loop."""
        return await StoreCalls(self.store)(lambda: self.plan(request))

    def plan(self, request: Request) -> TurnPlan:
        """What `stream` would do; nothing is started, locked or written."""
        check_request(request)
        session = None if request.ephemeral else self.sessions.find(request)
        try:
            return self.planner.plan(request, session, writes=False)
        except VersionNeeded:  # assume the newest
            return self.planner.plan(request, session, ask=False, writes=False)

    async def _create_session(
        self, plan: TurnPlan, calls: StoreCalls, marker: str
    ) -> tuple[Session, TurnLock | None]:
        """Create the record of a new session, before anything is paid for, so that a store that
        cannot be written fails now. Some stores take its first turn in the same step."""
        chosen_id, name = plan.request.chosen_id, plan.request.chosen_id or plan.request.name
        messages = await prompt_messages(plan, self.config.config.session)
        session = new_session(plan, self.config.config.session)
        if messages:
            session = with_prompt(session, messages[0].content)
        turn: TurnLock | None = None
        if isinstance(self.store, BeginsTurns):
            begin = partial(
                self.store.begin, session, messages, partial(turn_facts, marker), exact=bool(name)
            )
            made = await calls(begin, self._undo_begin)
            session, turn = made
        else:
            # A named session must survive a power cut. Without a name, its id is not known to anyone
            # before its answer is stored.
            if chosen_id:
                create = partial(self.store.deferred().create, session, messages)
            else:
                create = partial(
                    self.store.create, session, messages, exact=bool(name), durable=bool(name)
                )
            session = await calls(create, lambda made: self.store.delete(made.id))
        if begun := permissions.only_permissions(stored_options(plan.settings)):
            self._created[session.id] = begun
        return session, turn

    def _undo_begin(self, made: tuple[Session, TurnLock]) -> None:
        session, turn = made
        turn.close()
        self.store.delete(session.id)


@contextmanager
def own_unless(dispatcher: Dispatcher | None) -> Iterator[Dispatcher]:
    """The given one, otherwise a new one, which is closed at the end."""
    if dispatcher is not None:
        yield dispatcher
        return
    with Dispatcher() as own:
        yield own


async def delete_session(calls: StoreCalls, session_id: str) -> None:
    """Delete a session in which nothing has started, unless that takes too long."""
    # Anyio, 45 ms: needed only once something runs.
    import anyio

    calls.limit_wait(ENDED_TIMEOUT)
    with anyio.CancelScope(shield=True), suppress(SessionError):
        await calls(lambda: calls.store.delete(session_id))


async def in_thread(function: Callable[[], TurnPlan]) -> TurnPlan:
    """Call it in a thread: it reads files."""
    # Anyio, 45 ms: needed only once something runs.
    from clinvk.process import threads

    return await threads.in_thread(function)


async def no_calls(function: Callable[[], TurnPlan]) -> TurnPlan:
    """Call it on the event loop: without a session, nothing is read from a store."""
    return function()
