"""A `Request` becomes `Event`s: choose, resume, start, record."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import Struct
from msgspec.structs import replace

from clinvk import catalog as catalogs
from clinvk import config as configs
from clinvk.catalog import Catalog
from clinvk.command import Command, build
from clinvk.errors import ClinvkError, ConfigError, NotInstalledError, SessionError, UsageError
from clinvk.manifest import Manifest
from clinvk.messages import Request, Result
from clinvk.recorder import Recorder, asking, with_prompt
from clinvk.session import Session, new_id
from clinvk.settings import Setting, honoured, resolve, to_keep
from clinvk.store import Query, Store, Turn, open_store

if TYPE_CHECKING:
    from clinvk.run import Run

WAIT = 0.05  # seconds between looks at a turn that another process has


class NoSessionHere(SessionError):  # noqa: N818 - reads as what it says
    """This folder has no session to continue; `elsewhere` is the newest of another one."""

    def __init__(self, message: str, hint: str, elsewhere: Session | None) -> None:
        super().__init__(message, hint)
        self.elsewhere = elsewhere


class Plan(Struct, frozen=True):
    """All that is decided before anything starts."""

    request: Request
    manifest: Manifest
    session: Session | None  # none where the run is ephemeral
    resumes: str | None  # the native id that goes on
    settings: dict[str, Setting]
    command: Command
    timeout: float | None  # seconds
    notices: tuple[str, ...]


class Dispatcher:
    """Runs requests. Everything that it needs of the outside comes in here."""

    def __init__(
        self,
        config: configs.Loaded | None = None,
        *,
        store: Store | None = None,
        catalog: Catalog | None = None,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.env = dict(os.environ if env is None else env)
        self.config = config or configs.load(self.env)
        self.catalog = catalog or Catalog(self.config.home)
        self._store = store

    @property
    def store(self) -> Store:
        if self._store is None:
            self._store = open_store(self.config.config.session.storage, self.config.home)
        return self._store

    async def run(self, request: Request) -> Result:
        """What came of the request. Raises `ClinvkError` before anything runs; once a program
        runs, its failure is in the result."""
        async with self.stream(request) as run:
            async for _ in run:
                pass
        return run.result

    @asynccontextmanager
    async def stream(
        self, request: Request, notify: Callable[[str], None] = lambda _: None
    ) -> AsyncIterator[Run]:
        """The running turn: `async for event in run`, then `run.result`. Leaving the block early
        ends the program. `notify` is told what happens before there are events, such as waiting.
        """
        from clinvk.process import new_marker  # anyio: only once something is to run

        self._check_ephemeral(request)
        marker = new_marker(self.env)
        if request.ephemeral:
            async with _started(self, self._plan(request, None), None, marker) as run:
                yield run
            return
        session = self.find(request)
        plan = self._plan(request, session)
        new = session is None
        if new:
            session = self._create(plan)
        assert session is not None  # noqa: S101 - just made sure
        begun = [False]
        try:
            turn = await self._turn(session.id, request, marker, notify)
            try:
                # Another turn may have changed the record while we waited.
                session = self.store.get(session.id)
                plan = replace(plan, session=session) if new else self._plan(request, session)
                async with _started(self, plan, turn, marker, new=new) as run:
                    begun = [True]
                    yield run
            finally:
                turn.close()
        except BaseException:
            if new and not any(begun):  # nothing has begun, so there is nothing to keep
                with suppress(SessionError):
                    self.store.delete(session.id)
            raise

    def plan(self, request: Request) -> Plan:
        """What `stream` would do; nothing is started, locked or written."""
        self._check_ephemeral(request)
        return self._plan(request, self.find(request))

    def find(self, request: Request) -> Session | None:
        """The session that the request goes on with, if it does. Raises `SessionError`."""
        if request.ephemeral:
            return None
        wanted = request.session
        if wanted == "last":
            return self._last(request)
        if wanted is not None:
            return self.lookup(wanted)
        if self.config.config.session.auto_resume and not request.new:
            return self.newest(cwd=_real(request.cwd), backend=request.backend)
        return None

    def lookup(self, text: str) -> Session:
        """The session with this id, unique prefix of an id, or native id. Raises `SessionError`:
        an ambiguous prefix names the candidates."""
        matches = self.store.matching(text) if text else []
        exact = [i for i in matches if i.lower() == text.lower()]
        if exact or len(matches) == 1:
            return self.store.get((exact or matches)[0])
        if matches:
            shown = "".join(f"\n  {self._describe(i)}" for i in matches[:10])
            more = "\n  … and more" if len(matches) > 10 else ""
            raise SessionError(
                f"{text!r} is the beginning of several sessions:{shown}{more}",
                "give more of the id",
            )
        if owners := self.store.owners(None, text):
            return self.store.get(owners[0])
        return self.store.get(text)  # which says that there is none, or why it cannot be one

    def newest(self, *, cwd: str | None = None, backend: str | None = None) -> Session | None:
        """The resumable session that was used last, of a folder (real path) or anywhere; tasks of
        a fan-out are passed over."""
        found = self.resumable(Query(cwd=cwd, backend=backend, limit=1))
        return found[0] if found else None

    def resumable(self, query: Query) -> list[Session]:
        """The sessions of a query that can be gone on with, tasks of a fan-out left out."""
        wanted = replace(query, resumable=True, tasks=False)
        return [s for s in self.store.select(wanted) if isinstance(s, Session)]

    def choose(self, request: Request, session: Session | None) -> tuple[Manifest, str, list[str]]:
        """The manifest, the path of its program, and notices. Raises `ClinvkError`."""
        name = request.backend or (session.backend if session else None)
        default = self.config.config.default_backend
        chosen = name or default
        never_chosen = name is None and self.config.origin("default_backend") == "default"
        if never_chosen and (found := self._first_installed()):
            notices = [] if found[0].name == default else [
                f"{default} is not installed; using {found[0].name} (choose one with -b, or: clinvk config set default_backend {found[0].name})"
            ]  # fmt: skip
            return *found, notices
        if never_chosen:
            installs = [m.install for m in map(self.catalog.load, catalogs.FIRST_CHOICES)]
            raise NotInstalledError(
                "no AI CLI is installed",
                "install one, for example: "
                + " | ".join(i for i in installs if i)
                + "\n      or try clinvk without one: clinvk -b echo hello",
            )
        self._check_enabled(chosen)
        if self.catalog.find(chosen) is None and name is not None:
            raise NotInstalledError(
                f"unknown backend {chosen!r}", f"known: {', '.join(self.catalog.names())}"
            )
        manifest = self.catalog.load(chosen)
        return manifest, catalogs.locate(manifest, self._child_env(chosen)), []

    def _plan(self, request: Request, session: Session | None) -> Plan:
        if not request.prompt.strip():
            raise UsageError("the prompt is empty", 'say something: clinvk "explain this folder"')
        manifest, program, notices = self.choose(request, session)
        native_id = self._native_id(session, manifest)
        settings, dropped = honoured(
            resolve(request, session, self.config, manifest.name), manifest, lenient=request.lenient
        )
        extra = self.config.backend(manifest.name).extra_flags
        command = build(
            manifest,
            program,
            prompt=request.prompt,
            options={k: s.value for k, s in settings.items()},
            cwd=_folder(request, session),
            env=self._child_env(manifest.name),
            scratch=_scratch(self.env),
            native_id=native_id,
            ephemeral=request.ephemeral,
            expand=request.expand,
            args=[*extra, *request.args],
        )
        timeout = request.timeout
        if timeout is None:
            timeout = self.config.config.unified_flags.command_timeout_secs
        said = (*notices, *dropped, *command.notices)
        return Plan(request, manifest, session, native_id, settings, command, timeout, said)

    def _native_id(self, session: Session | None, manifest: Manifest) -> str | None:
        """What the backend is to resume. A session that has turns but no native session there
        cannot simply go on."""
        if session is None:
            return None
        if session.status in ("completed", "archived"):
            raise SessionError(f"session {session.id} is {session.status}", "start a new one")
        native_id = session.native_ids.get(manifest.name)
        if native_id is None and session.backend not in (None, manifest.name):
            raise SessionError(
                f"session {session.id} is a {session.backend} session, not one of {manifest.name}",
                f"leave out -b {manifest.name}, or start a new session",
            )
        if native_id is None and session.messages.get("assistant"):
            raise SessionError(
                f"session {session.id} has no session of {manifest.name} to go on with",
                "start a new one",
            )
        return native_id

    def _create(self, plan: Plan) -> Session:
        """The record of a new session. It is there before anything is paid for, so that a store
        that cannot be written is met now."""
        settings = self.config.config.session
        session = Session(
            id=new_id(),
            backend=plan.manifest.name,
            model=_value(plan.settings, "model"),
            cwd=str(plan.command.cwd),
            title=plan.request.title,
            tags=tuple(dict.fromkeys([*settings.default_tags, *plan.request.tags])),
            options=to_keep(plan.settings),
        )
        messages = asking(plan, settings)
        if messages:
            session = with_prompt(session, plan.request.prompt)
        return self.store.create(session, messages)

    async def _turn(
        self,
        id_: str,
        request: Request,
        marker: str,
        notify: Callable[[str], None],
    ) -> Turn:
        """The right to the next turn of the session. Raises `SessionError` where waiting is not
        wanted, or would be for ever."""
        import anyio

        from clinvk import recovery

        waiting = False
        while (turn := self.store.turn(id_)) is None:
            running = self.store.running(id_) or {}
            own = str(running.get("run", "")).rsplit("/", 1)[-1]
            if own and own in marker.split("/")[:-1]:
                raise SessionError(
                    f"session {id_} is running this very command, which would wait for itself",
                    "use another session, or none",
                )
            if not request.wait:
                raise SessionError(
                    f"session {id_} is running", "leave out --no-wait to wait for it"
                )
            if not waiting:
                notify(f"session {id_} is running; waiting for it to end (Ctrl-C gives up)")
                waiting = True
            await anyio.sleep(WAIT)
        if turn.left:
            try:
                if found := await recovery.end(turn.left, id_):
                    notify(found)
            except BaseException:
                turn.abandon()
                raise
        turn.note(recovery.facts(marker))
        return turn

    def _last(self, request: Request) -> Session:
        here = _real(request.cwd)
        found = self.newest(cwd=None if request.anywhere else here, backend=request.backend)
        if found is not None:
            return found
        of = f"{request.backend} " if request.backend else ""
        other = None if request.anywhere else self.newest(backend=request.backend)
        if other is None:
            raise NoSessionHere(
                f"there is no {of}session to continue", 'start one: clinvk "your prompt"', None
            )
        raise NoSessionHere(
            f"there is no {of}session to continue in {here}",
            f"the last one is {other.id}, in {other.cwd}; go on there with: "
            f'clinvk resume {other.id} "your prompt"   (or: clinvk -c --anywhere "your prompt")',
            other,
        )

    def _first_installed(self) -> tuple[Manifest, str] | None:
        for name in catalogs.FIRST_CHOICES:
            if not self.config.backend(name).enabled:
                continue
            manifest = self.catalog.load(name)
            try:
                return manifest, catalogs.locate(manifest, self._child_env(name))
            except NotInstalledError:
                continue
        return None

    def _check_enabled(self, name: str) -> None:
        if not self.config.backend(name).enabled:
            raise ConfigError(
                f"backend {name!r} is disabled in {self.config.path}",
                f"enable it: clinvk config set backends.{name}.enabled true",
            )

    @staticmethod
    def _check_ephemeral(request: Request) -> None:
        if request.ephemeral and request.session is not None:
            raise UsageError(
                "an ephemeral run has no session to go on with",
                "leave out --ephemeral, or what names the session",
            )

    def _child_env(self, name: str) -> dict[str, str]:
        """Ours, and what the config file adds for this backend."""
        return self.env | self.config.backend(name).env

    def _describe(self, id_: str) -> str:
        try:
            session = self.store.get(id_)
        except ClinvkError:
            return id_
        return f"{id_}  {session.backend or '-'}  {session.label[:60]}"


@asynccontextmanager
async def _started(
    dispatcher: Dispatcher, plan: Plan, turn: Turn | None, marker: str, *, new: bool = False
) -> AsyncIterator[Run]:
    from clinvk import process  # anyio: only once something is to run

    recorder = None
    if plan.session is not None and turn is not None:
        recorder = Recorder(dispatcher.store, plan, turn, dispatcher.config.config.session)
        if not new:
            recorder.asked()
    began = time.monotonic()
    with _files(plan.command):
        async with process.start(plan.command, marker, ask=_signal(plan.manifest)) as child:
            # The child boots while this is imported: jmespath is not needed to start it.
            from clinvk.run import Run

            if recorder:
                recorder.started(child.pid, marker)
            run = Run(plan, child, recorder, began)
            try:
                yield run
            finally:
                await run.close()


def _signal(manifest: Manifest) -> Any:
    import signal

    return signal.Signals[manifest.stop]


@contextmanager
def _files(command: Command) -> Iterator[None]:
    """The private files of a run are there, in a folder that goes when it ends."""
    if command.scratch is None:
        yield
        return
    import shutil

    try:
        command.scratch.mkdir(mode=0o700)
        for path, text in command.files:
            path.touch(mode=0o600)
            path.write_text(text, encoding="utf-8")
    except OSError as error:
        shutil.rmtree(command.scratch, ignore_errors=True)
        raise ClinvkError(
            f"{command.scratch}: {error.strerror}", "set TMPDIR to a folder that can be written"
        ) from error
    try:
        yield
    finally:
        shutil.rmtree(command.scratch, ignore_errors=True)


def _scratch(env: Mapping[str, str]) -> Path:
    """A name that nobody can have taken; the folder is made only if a run needs it."""
    return Path(env.get("TMPDIR") or "/tmp") / f"clinvk-{os.urandom(8).hex()}"  # noqa: S108


def _folder(request: Request, session: Session | None) -> Path:
    """Where the program runs: where it was told to, else where its session lives, else here."""
    if request.cwd is not None:
        path = Path(_real(request.cwd))
    elif session is not None and session.cwd:
        path = Path(session.cwd)
    else:
        path = Path(_real(None))
    if not path.is_dir():
        whose = f"session {session.id} ran in it; " if session and request.cwd is None else ""
        raise UsageError(f"{path}: no such folder", f"{whose}name another one with -w")
    return path


def _real(path: Path | None) -> str:
    return os.path.realpath(path or os.getcwd())


def _value(settings: Mapping[str, Setting], name: str) -> Any:
    return settings[name].value if name in settings else None
