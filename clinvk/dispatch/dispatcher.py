"""From a `Request` to `Event`s: choose, resume, start, record."""

from __future__ import annotations

import json
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import (
    AbstractContextManager,
    asynccontextmanager,
    contextmanager,
    nullcontext,
    suppress,
)
from datetime import UTC, datetime
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from msgspec.structs import replace

from clinvk.backend import native, permissions
from clinvk.backend.catalog import Catalog
from clinvk.backend.command_line import build_command, changed_env, expand_variables
from clinvk.backend.files import tempfiles
from clinvk.backend.inherited import adapt_environment, expand_homes
from clinvk.backend.manifest import Manifest
from clinvk.backend.options import (
    Setting,
    resolve_settings,
    settle_planning,
    stored_options,
    supported_settings,
)
from clinvk.backend.permissions import INSTRUCTION, PLANNING
from clinvk.backend.selection import BackendSelector
from clinvk.backend.versions.installed import VersionNeeded, fitting_manifest
from clinvk.config import loading
from clinvk.config import schema as configs
from clinvk.config.stored_options import NOTHING_STORED, StoredOptions, read_options_file
from clinvk.disk.closing import Closing
from clinvk.disk.reading import directory_problem
from clinvk.disk.waiting import check_may_block
from clinvk.dispatch.limit_check import (
    check_limit,
    find_limit,
    limit_error,
    needs_limit_policy,
    remember_result,
)
from clinvk.dispatch.native_env import env_to_store, stored_env
from clinvk.dispatch.off_loop import ENDED_TIMEOUT, StoreCalls
from clinvk.dispatch.recorder import Recorder, prompt_messages, with_native_env, with_prompt
from clinvk.dispatch.turn_plan import TurnPlan
from clinvk.errors import LimitError, SessionError, UsageError
from clinvk.model.option_table import CONTEXT_OPTIONS, OPTIONS, OWN_OPTIONS
from clinvk.model.option_values import value_problem
from clinvk.model.request import Request
from clinvk.model.result import Result
from clinvk.model.session import MessageRole, Session, check_id, new_id
from clinvk.process.marker import MARKER, new_marker
from clinvk.sessions.instructions import AskedSkills, asked_skills, begin_with, template_options
from clinvk.sessions.lookup import NoSessionHere, SessionLookup, real_path
from clinvk.sessions.masking import redact_data_for_store, redact_for_store
from clinvk.store import open_store
from clinvk.store.base import Query, Store
from clinvk.text import values
from clinvk.text.typed import format_path

if TYPE_CHECKING:
    from clinvk.dispatch.answer_schema import AnswerSchema
    from clinvk.dispatch.series.turn_series import TurnSeries
    from clinvk.dispatch.turn import Save, Turn
    from clinvk.knowledge.context import Context

__all__ = ["Dispatcher", "NoSessionHere", "TurnPlan"]


# The options of a request by which its work is checked.
CHECKING = ("check", "protect", "expect_change")
PATHS = [option.name for option in OPTIONS if option.path == "directory"]
TEXT_OPTIONS = [
    option.name
    for option in OPTIONS
    if not option.repeatable and not option.path and option.type not in (int, float, bool)
]


class BeforeTurn(Protocol):
    """What is to be done before a turn."""

    async def start(self, plan: TurnPlan) -> None:
        """Called before the program is started."""

    async def prompt(self) -> None:
        """Called before it gets its prompt, if that is on stdin."""


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
    ) -> None:
        self.env = dict(os.environ if env is None else env)
        self.config = config or loading.load(self.env)
        self.catalog = catalog or Catalog(self.config.home)
        self.selector = BackendSelector(self.catalog, self.config, self.env)
        # Called with (done, total) while documents are read, by the thread that does.
        self.index_progress: Callable[[int, int], None] = lambda _done, _total: None
        self._store = store
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
        return Dispatcher(self.config, store=self.store, catalog=self.catalog, env=env)

    @property
    def store(self) -> Store:
        if self._store is None:
            if self._closed:
                raise SessionError("the dispatcher is closed", "use it inside its `with` block")
            settings = self.config.config.session
            self._store = self._opened = open_store(settings.storage, self.config.home)
        return self._store

    @cached_property
    def sessions(self) -> SessionLookup:
        return SessionLookup(self.store, auto_resume=self.config.config.session.auto_resume)

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
        _check_request(request)
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
            plan = await self.plan_when_known(no_calls if is_quick else in_thread, request, None)
            check_limit(plan, home)
            async with _start_turn(self, plan, marker, None, before) as run:
                yield run
            return
        calls = StoreCalls(self.store)
        session = await calls(lambda: self.sessions.find(request))
        plan = await self.plan_when_known(calls, request, session)
        check_limit(plan, home)
        new = session is None
        if session is None:
            session = await self._create_session(plan, calls)
        begun = False
        try:
            # Anyio, 45 ms: needed only once something runs.
            from clinvk.dispatch.turn_lock import acquire_turn, release_turn

            turn = await acquire_turn(calls, session.id, marker, wait=request.wait, notify=notify)
            try:
                # Another turn may have changed the record while this one waited.
                session = current = await calls(partial(self.store.get, session.id))
                plan = (
                    replace(plan, session=session)
                    if new
                    else await self.plan_when_known(calls, request, current, plan.context)
                )
                check_limit(plan, home)  # another process may have met one meanwhile
                async with _start_turn(self, plan, marker, calls, before, new=new) as run:
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
        manifest = self.catalog.load(backend)
        base = {**self.selector.child_env(backend), **env}
        added = {k: expand_variables(v, base) if v else v for k, v in manifest.env.items()}
        found = find_limit(backend, manifest, changed_env(base, added), model, self.config.home)
        return limit_error(backend, found) if found else None

    async def aplan(self, request: Request) -> TurnPlan:
        """`plan`, without blocking the event loop."""
        return await StoreCalls(self.store)(lambda: self.plan(request))

    def plan(self, request: Request) -> TurnPlan:
        """What `stream` would do; nothing is started, locked or written."""
        _check_request(request)
        session = None if request.ephemeral else self.sessions.find(request)
        try:
            return self._plan(request, session, writes=False)
        except VersionNeeded:  # assume the newest
            return self._plan(request, session, ask=False, writes=False)

    async def plan_when_known(
        self, calls: Callable[[Callable[[], TurnPlan]], Awaitable[TurnPlan]], *args: Any
    ) -> TurnPlan:
        """The plan of a turn of this session, or of a new one; if it depends on the version of the
        CLI, that is asked first."""
        try:
            return await calls(partial(self._plan, *args))
        except VersionNeeded as needed:
            # Only for some options of a CLI whose version is not known yet.
            from clinvk.backend.probe import ask_version

            env = self.selector.child_env(needed.manifest.name)
            await ask_version(needed.manifest, needed.program, env, self.config.home)
        return await calls(partial(self._plan, *args))

    def _plan(
        self,
        request: Request,
        session: Session | None,
        context: Context | None = None,
        *,
        ask: bool = True,
        writes: bool = True,
    ) -> TurnPlan:
        """`context` is what an earlier plan of the same request has added to the prompt. It is
        found without changing an index unless this `writes`."""
        if not request.prompt.strip():
            raise UsageError("the prompt is empty", 'try: clinvk "explain this directory"')
        choice = self.selector.select(
            request.to or request.backend or (session.backend if session else None)
        )
        manifest = choice.manifest
        request, moved = _without_worktree(request, session)
        native_id = _native_id_to_resume(session, manifest, request)
        parent = None if native_id or request.replay else self._find_fork_source(session, manifest)
        forks = parent.native_ids[manifest.name] if parent else None
        begins = self._begins_with(request, session, native_id or forks)
        wanted, permitted = self._wanted(
            request, session, manifest, template_options(begins, self.config.home)
        )
        own = {name: wanted.pop(name) for name in OWN_OPTIONS if name in wanted}
        if context is None:
            context = self._find_context(request, session, own, writes=writes)
        prompt = f"{INSTRUCTION}{request.prompt}" if PLANNING in wanted else request.prompt
        skills = self._find_skills(request, session, own, wanted, manifest)
        prompt = f"{skills.text}{prompt}"
        prompt = context.put_before(prompt) if context else prompt
        prompt, carried = self._build_prompt(
            request, prompt, session, manifest, native_id or forks, wanted
        )
        metadata: dict[str, Any] = {}
        if begins:
            above, metadata = begin_with(begins, wanted, manifest, self.config.home)
            prompt = f"{above}\n\n{prompt}" if above else prompt
        if manifest.by_version and ask:
            manifest = fitting_manifest(
                manifest, choice.program, self.config.home, options=wanted, prompt=prompt,
                ephemeral=request.ephemeral, expand=request.expand,
                resumes=(native_id or forks) is not None,
            )  # fmt: skip
        begun = self._begun(session, wanted) if session and native_id else None
        schema = None
        if "schema" in wanted:
            schema = _read_schema(wanted["schema"].value)
            wanted["schema"] = replace(wanted["schema"], value=schema.text)
        for name in ("schema_retries", "rounds"):
            _check_further_turns(name, own, request, manifest)
        _check_rounds(own, request)
        if schema is not None and "schema" not in manifest.options:
            prompt = schema.add_to(prompt)
            own["schema"] = wanted.pop("schema")
        settings, dropped = supported_settings(
            wanted, manifest, lenient=request.lenient, first_turn_options=begun
        )
        owner = parent or session
        env = self.selector.child_env(manifest.name)
        env |= expand_homes(request.env, {**env, **request.env})
        stored: list[str] = []
        if owner is not None and owner.native_env and (native_id or forks):
            trusted = owner.options_trusted and self.store.is_own(owner.id)
            kept, stored = stored_env(manifest, owner, env, request.env, trusted=trusted)
            env |= kept
        command = build_command(
            manifest,
            choice.program,
            prompt=prompt,
            options={k: s.value for k, s in settings.items()} | skills.options,
            cwd=_working_directory(request, session),
            env=env,
            temp_dir=tempfiles.temp_dir_path(self.env),
            home=self.config.home,
            native_id=native_id or forks,
            fork=forks is not None,
            ephemeral=request.ephemeral,
            expand=request.expand,
            args=[*self.config.backend(manifest.name).extra_flags, *request.args],
        )
        given = {*self.config.backend(manifest.name).env, *request.env}
        if started_in := _started_in(request, session, command.cwd):
            # Only in a worktree.
            from clinvk.backend.files.trust import inherit_trust

            command = inherit_trust(manifest, command, started_in)
        command, adapted = adapt_environment(command, given)
        if command.state and not command.new_id:
            native.check_state(command.state)
        timeout = request.timeout
        if timeout is None:
            timeout = self.config.config.unified_flags.command_timeout_secs
        said = (
            *choice.notices,
            *moved,
            *permitted,
            *carried,
            *skills.notices,
            *(context.notices if context else ()),
            *dropped,
            *_lacking(settings),
            *command.notices,
            *adapted,
            *stored,
        )
        before = owner.totals.get(native_id or forks or "", {}) if owner else {}
        return TurnPlan(
            request, manifest, session, native_id, forks, before, settings | own, command, timeout,
            said, self.config.home, self.config.config.unified_flags.exit_timeout_secs,
            env_to_store(manifest, command.env, given, request.secrets), schema,
            begins.template, metadata, context,
        )  # fmt: skip

    def _find_skills(
        self,
        request: Request,
        session: Session | None,
        own: Mapping[str, Setting],
        settings: Mapping[str, Setting],
        manifest: Manifest,
    ) -> AskedSkills:
        """The skills that were asked for with the prompt. In a read-only sandbox, a CLI gets their
        text: a skill of its own may run commands when it is read."""
        asked = own.get("skill_set")
        if asked is None or not asked.value:
            return AskedSkills()
        names = [asked.value] if isinstance(asked.value, str) else asked.value
        sandbox = settings.get("sandbox")
        is_free = PLANNING not in settings and (sandbox is None or sandbox.value != "read-only")
        directory = os.path.realpath(_working_directory(request, session))
        return asked_skills(names, manifest, self.config.home, directory, native=is_free)

    def _find_context(
        self,
        request: Request,
        session: Session | None,
        settings: Mapping[str, Setting],
        *,
        writes: bool,
    ) -> Context | None:
        """What the options add to the prompt; None without any of them."""
        names = [name for name in CONTEXT_OPTIONS if name != "skill_set"]
        wanted = {n: settings[n].value for n in names if n in settings and settings[n].value}
        if not wanted:
            return None
        # Only with one of the options.
        from clinvk.knowledge.context import Place, find_context

        check_may_block()
        directory = _working_directory(request, session)
        place = Place(
            self.config.home,
            os.path.realpath(directory),
            os.path.realpath(_started_in(request, session, directory) or directory),
            lambda: self.store,
            self.config.config.session.storage,
            session.id if session else None,
            self.index_progress,
            writes,
        )
        return find_context(wanted, request.prompt, place)

    def _begins_with(
        self, request: Request, session: Session | None, native_id: str | None
    ) -> StoredOptions:
        """The skills and the template that the user has stored, for the first turn of a session."""
        if not request.stored_options or native_id or (session and session.turns):
            return NOTHING_STORED
        known = read_options_file(self.config.home)
        of_session = known.of(session.id) if session else NOTHING_STORED
        is_free = session is None or session.template is None
        asked = request.options.get("skill_set")
        return StoredOptions(
            skills=() if asked else of_session.skills or known.user.skills,
            template=(of_session.template or known.user.template) if is_free else None,
        )

    def _begun(self, session: Session, wanted: Mapping[str, Setting]) -> dict[str, Any]:
        """The options that the native session was started with. A value that was stored without its
        secret is replaced by the requested one if that would be stored the same way."""
        settings = self.config.config.session
        return {
            name: wanted[name].value
            if name in wanted and redact_data_for_store(wanted[name].value, settings) == value
            else value
            for name, value in session.options.items()
        }

    def _wanted(
        self,
        request: Request,
        session: Session | None,
        manifest: Manifest,
        of_template: Mapping[str, Any],
    ) -> tuple[dict[str, Setting], list[str]]:
        """The settings of a turn, with notices about those by which its session permits more than
        the user does: they are dropped if others can write the session's record."""
        backend = manifest.name
        wanted = resolve_settings(request, session, self.config, backend, of_template)
        settle_planning(wanted, manifest)
        if session is None:
            return wanted, []
        ours = self._created.get(session.id, {})
        own = {
            name: s.value
            for name, s in wanted.items()
            if s.origin == "session" and (name not in ours or s.value != ours[name])
        }
        granted = resolve_settings(request, None, self.config, backend, of_template)
        more = permissions.elevated(own, {name: s.value for name, s in granted.items()})
        if not more:
            return wanted, []
        said = permissions.describe(more)
        if session.options_trusted and self.store.is_own(session.id):
            told = f"session {session.id} runs with {said} (set when it was created)"
            return wanted, [told]
        for name in more:
            left = permissions.without(name, own[name], more)
            if left is not None:
                wanted[name] = Setting(left, "session")
            elif name in granted:
                wanted[name] = granted[name]
            else:
                del wanted[name]
        can = "can" if session.options_trusted else "could"
        told = (
            f"session {session.id} asks for {said}, which was dropped, since others {can} write "
            f"its record; to grant it: {permissions.flags(more)}"
        )
        return wanted, [told]

    def _find_fork_source(self, session: Session | None, manifest: Manifest) -> Session | None:
        """The session whose native session the CLI itself can copy for the first turn of a branch:
        the branch contains all of it, and it has not been continued since."""
        if session is None or session.native_ids or "fork" not in manifest.argv:
            return None
        if len(session.parents) != 1 or "branched_at" not in session.metadata:
            return None
        try:
            parent = self.store.get(session.parents[0])
        except SessionError:
            return None
        unchanged = sum(parent.counts.values()) == session.metadata["branched_at"] + 1
        mine = sum(session.counts.values()) == sum(parent.counts.values())
        same = parent.backend == manifest.name and manifest.name in parent.native_ids
        return parent if unchanged and mine and same else None

    def _build_prompt(
        self,
        request: Request,
        prompt: str,
        session: Session | None,
        manifest: Manifest,
        native_id: str | None,
        settings: dict[str, Setting],
    ) -> tuple[str, list[str]]:
        """The prompt with the earlier turns that the backend needs, and notices about that."""
        carried = None
        if session is None and not request.history:
            return prompt, []
        # A new session, as most are, has nothing to hand over.
        from clinvk.sessions import handover

        if request.replay and session is not None and not self.store.messages(session.id):
            raise SessionError(
                f"session {session.id} has no transcript to start over from", "start a new session"
            )
        if session is not None and (native_id is None or session.backend != manifest.name):
            messages = self.store.messages(session.id)
            if request.resends:
                messages = handover.without_last_prompt(messages)
            if native_id is None:
                _add_system_messages(
                    [m.content for m in messages if m.role is MessageRole.SYSTEM], settings
                )
            # Without a native session there, the backend has seen none of the messages.
            unseen = handover.unseen_messages(messages, manifest.name if native_id else "")
            carried = handover.hand_over(
                unseen, prompt, session.backend or "another", manifest.name
            )
        elif session is None and request.history:
            carried = handover.history(self._recent_sessions(request), prompt)
        if carried is None:
            return prompt, []
        return carried.text, [carried.notice]

    def _recent_sessions(self, request: Request) -> Any:
        """The last sessions of this directory in which something was answered, with their messages,
        newest first."""
        wanted = limit = request.history
        while True:
            recent = self.sessions.list_resumable(Query(cwd=real_path(request.cwd), limit=limit))
            answered = [s for s in recent if s.counts.get("assistant")]
            if len(answered) >= wanted or len(recent) < limit:
                break
            limit *= 4  # look further back, but not through the sessions of years
        for session in answered[:wanted]:
            yield session, self.store.messages(session.id)

    async def _create_session(self, plan: TurnPlan, calls: StoreCalls) -> Session:
        """Create the record of a new session, before anything is paid for, so that a store that
        cannot be written fails now."""
        chosen_id, name = plan.request.chosen_id, plan.request.chosen_id or plan.request.name
        messages = await prompt_messages(plan, self.config.config.session)
        session = self.new_session(plan)
        if messages:
            session = with_prompt(session, messages[0].content)
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
        return session

    def new_session(self, plan: TurnPlan) -> Session:
        """The record of a new session, which is not stored yet. Raises `SessionError` for a name
        that cannot be one."""
        settings, name = self.config.config.session, plan.request.chosen_id or plan.request.name
        return Session(
            id=check_id(name) if name else new_id(),
            backend=plan.manifest.name,
            model=_setting_value(plan.settings, "model"),
            cwd=str(plan.command.cwd),
            started_in=str(plan.request.started_in) if plan.request.started_in else None,
            title=redact_for_store(plan.request.title, settings) if plan.request.title else None,
            tags=tuple(dict.fromkeys([*settings.default_tags, *plan.request.tags])),
            options=redact_data_for_store(
                stored_options(plan.settings), settings, plan.request.secrets
            ),
            began_with=plan.manifest.name,
            native_ids={plan.manifest.name: plan.command.new_id} if plan.command.new_id else {},
            native_env=with_native_env({}, plan) if plan.command.new_id else {},
            task=plan.request.task,
            template=plan.template,
            metadata=redact_data_for_store(plan.metadata, settings),
        )


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


@asynccontextmanager
async def _start_turn(
    dispatcher: Dispatcher,
    plan: TurnPlan,
    marker: str,
    calls: StoreCalls | None,
    before: BeforeTurn | None,
    *,
    new: bool = False,
) -> AsyncIterator[Turn]:
    # Anyio, 45 ms: needed only once something runs.
    import signal

    # Anyio, 45 ms: needed only once something runs.
    from clinvk.backend.files import login_lock
    from clinvk.process import child as process  # anyio: only once something is to run

    recorder = None
    if plan.session is not None and calls is not None:
        recorder = Recorder(calls, plan, plan.session.id, dispatcher.config.config.session)
    began = time.monotonic()
    ask = signal.Signals[plan.manifest.stop]
    home = dispatcher.config.home
    with (
        tempfiles.temp_files(plan.command, dispatcher.env),
        keep_state(plan, home),
        _keep_worktree(plan, home),
    ):
        async with login_lock.login_lock(plan.manifest, plan.command.env, home) as begun:
            if recorder is not None and not new and not plan.request.resends:
                await recorder.record_prompt(await prompt_messages(plan, recorder.settings))
            if before is not None:
                await before.start(plan)
            async with process.start(
                plan.command, marker, stop_signal=ask, holds_prompt=before is not None
            ) as child:
                if before is not None:  # it boots meanwhile
                    await before.prompt()
                    child.send_prompt()
                # The child boots while this is imported: jmespath is not needed to start it.
                from clinvk.dispatch.turn import Turn

                started_at = datetime.now(UTC)
                remember = partial(remember_result, plan, home, started_at=started_at)
                save = _save_changes(dispatcher, plan)
                run = Turn(plan, child, recorder, began, begun, remember, save)
                try:
                    yield run
                finally:
                    await run.close()


def _save_changes(dispatcher: Dispatcher, plan: TurnPlan) -> Save | None:
    """Commits what a further turn of a session in a worktree has changed; None for others. For a task
    in a new worktree, its executor does that."""
    if not _is_further_turn_in_worktree(plan):
        return None
    # Only in a worktree.
    from clinvk.worktrees.attempt import save_session_result

    home, cwd = dispatcher.config.home, plan.command.cwd
    return partial(save_session_result, home=home, cwd=cwd, env=dispatcher.env)


def _is_further_turn_in_worktree(plan: TurnPlan) -> bool:
    session = plan.session
    return bool(session and session.started_in) and plan.request.started_in is None


def _keep_worktree(plan: TurnPlan, home: Path) -> AbstractContextManager[None]:
    """Nothing removes the worktree during a further turn in it; a run keeps those of its tasks."""
    if not _is_further_turn_in_worktree(plan):
        return nullcontext()
    # Only in a worktree.
    from clinvk.worktrees.in_use import keep_worktree

    return keep_worktree(home, plan.command.cwd)


@contextmanager
def keep_state(plan: TurnPlan, home: Path) -> Iterator[None]:
    """The conversation that clinvk keeps for the CLI: at the end, one that has not begun is
    deleted, otherwise the one that it replaces. Raises `ClinvkError`."""
    command, name = plan.command, plan.manifest.name
    if command.state is None or command.new_id is None:
        yield
        return
    native.make_place(command.state)
    try:
        yield
    finally:
        before = plan.session.native_ids.get(name) if plan.session else None
        if not native.has_state(command.state):
            native.remove_state(home, name, command.new_id)
        elif before not in (None, command.new_id):
            native.remove_state(home, name, before or "")


async def in_thread(function: Callable[[], TurnPlan]) -> TurnPlan:
    """Call it in a thread: it reads files."""
    # Anyio, 45 ms: needed only once something runs.
    from clinvk.process import threads

    return await threads.in_thread(function)


async def no_calls(function: Callable[[], TurnPlan]) -> TurnPlan:
    """Call it on the event loop: without a session, nothing is read from a store."""
    return function()


def _check_request(request: Request) -> None:
    """Raise `UsageError` for requests that contradict themselves."""
    if not isinstance(request.prompt, str):
        raise UsageError(f"the prompt is {type(request.prompt).__name__}, not text")
    for name in ("timeout", "stall_timeout", "max_wait"):
        limit = getattr(request, name)
        if limit is not None and not (isinstance(limit, (int, float)) and 0 < limit < 1e9):
            raise UsageError(f"{name}: {limit!r} is not a number of seconds greater than 0")
    for name in request.options:
        if problem := value_problem(name, request.options[name]):
            raise UsageError(f"{request.spelled.get(name, name)}: {problem}")
    for name in TEXT_OPTIONS:
        if not isinstance(request.options.get(name) or "", str):
            raise UsageError(f"{name}: {request.options[name]!r} is not text")
    _check_values(request)
    if request.ephemeral and (request.session or request.name or request.chosen_id):
        raise UsageError(
            "an ephemeral run has no session to continue",
            "leave out --ephemeral or the session",
        )


def _check_values(request: Request) -> None:
    """Raise `UsageError` for a text that cannot be passed to a program."""
    for name, value in request.env.items():
        if problem := values.name_problem(str(name)):
            raise UsageError(f"env: {problem}: {name!r}", "use e.g. NAME")
        if not isinstance(value, str):
            raise UsageError(f"env.{name}: {value!r} is not text")
    cwd = str(request.cwd) if request.cwd else ""
    names = {name: getattr(request, name) for name in ("session", "name", "backend", "to")}
    given = {**names, "args": request.args, "env": request.env, "cwd": cwd, **request.options}
    for place, text in values.texts({name: value for name, value in given.items() if value}):
        is_replaced = place[0] in ("args", "env", *request.options) and place[0] not in PATHS
        if problem := (values.nul_problem if is_replaced else values.os_problem)(text):
            raise UsageError(f"{format_path(place)}: {problem}: {text[:40]!r}", "remove it")


def _read_schema(schema: Any) -> AnswerSchema:
    """The schema, which Python may pass as data."""
    # 0.1 s, and only with a schema.
    from clinvk.dispatch.answer_schema import AnswerSchema

    return AnswerSchema(schema if isinstance(schema, str) else json.dumps(schema))


def _check_rounds(settings: Mapping[str, Setting], request: Request) -> None:
    """Raise `UsageError` for rounds or a timeout of a check if there is none."""
    for name in ("rounds", "check_timeout"):
        setting = settings.get(name)
        if setting is None or setting.origin != "command line" or request.options.get("check"):
            continue
        spelled = setting.spelled or name
        check = "--check CMD" if setting.spelled else "check"
        raise UsageError(f"{spelled} needs a check", f"add {check}, or leave out {spelled}")


def _check_further_turns(
    option: str, settings: Mapping[str, Setting], request: Request, manifest: Manifest
) -> None:
    """Raise `UsageError` if further turns were asked for where the conversation cannot be
    continued."""
    setting = settings.get(option)
    if setting is None or not setting.value or setting.origin != "command line":
        return
    name = setting.spelled or option
    if request.ephemeral:
        raise UsageError(
            f"{name} needs a session, and an ephemeral run has none",
            f"leave out {name} or --ephemeral",
        )
    if not manifest.resumes:
        raise UsageError(
            f"{name} needs a backend that can continue a conversation; {manifest.name} cannot",
            "leave it out, or choose another backend with -b",
        )


def _native_id_to_resume(
    session: Session | None, manifest: Manifest, request: Request
) -> str | None:
    """The native id to resume; None if the backend has no session of its own yet, or if its session
    is to be started over from the transcript."""
    if session is None:
        return None
    if session.status in ("completed", "archived"):
        raise SessionError(
            f"session {session.id} is {session.status}",
            f"reactivate it: clinvk sessions edit {session.id} --status active",
        )
    known = session.backend in (None, manifest.name) or manifest.name in session.native_ids
    if not known and request.to is None:
        raise SessionError(
            f"session {session.id} runs on {session.backend}, not on {manifest.name}",
            f'hand it over: clinvk resume {session.id} --to {manifest.name} "your prompt"',
        )
    return None if request.replay else session.native_ids.get(manifest.name)


def _add_system_messages(system: list[str], settings: dict[str, Setting]) -> None:
    """The system messages of a session are its system prompt, unless another one is given."""
    if system and "system_prompt" not in settings:
        settings["system_prompt"] = Setting("\n\n".join(system), "session")


def _working_directory(request: Request, session: Session | None) -> Path:
    """The directory of the program: the requested one, else that of its session, else the current
    one."""
    if request.cwd is None and session is not None and session.cwd:
        path = session.cwd
    else:
        path = real_path(request.cwd)
    if problem := directory_problem(path):
        whose = f"session {session.id} ran in it; " if session and request.cwd is None else ""
        raise UsageError(f"{path}: {problem}", f"{whose}choose another one with -w")
    return Path(path)


def _without_worktree(request: Request, session: Session | None) -> tuple[Request, list[str]]:
    """The request as it continues a session whose worktree no longer exists: from the transcript, in
    the directory that it was started in."""
    if session is None or session.started_in is None or request.cwd is not None:
        return request, []
    if not session.cwd or os.path.isdir(session.cwd):
        return request, []
    told = (
        f"the worktree of session {session.id} no longer exists: the conversation continues in "
        f"{session.started_in}, from its transcript"
    )
    cwd = Path(session.started_in)
    return request.replace(cwd=cwd, replay=bool(session.native_ids)), [told]


def _started_in(request: Request, session: Session | None, cwd: Path) -> str | None:
    """The directory of the user that a worktree belongs to; None outside of worktrees."""
    if request.started_in is not None:
        return str(request.started_in)
    if session is None or session.started_in is None or str(cwd) != session.cwd:
        return None
    return session.started_in


def _lacking(settings: Mapping[str, Setting]) -> list[str]:
    """Notices about settings of a session that were stored without their secret."""
    return [
        f"{name} was stored without what looks like a key; pass it again with --{name.replace('_', '-')}"
        for name, setting in settings.items()
        if setting.origin == "session" and "[redacted: " in str(setting.value)
    ]


def _setting_value(settings: Mapping[str, Setting], name: str) -> Any:
    return settings[name].value if name in settings else None
