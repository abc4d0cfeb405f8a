"""Decides all about a turn before anything starts: the program, its session, options and prompt."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from msgspec import Struct
from msgspec.structs import replace

from clinvk.backend import native
from clinvk.backend.command_line import build_command
from clinvk.backend.files import tempfiles
from clinvk.backend.inherited import adapt_environment, expand_homes
from clinvk.backend.manifest import Manifest
from clinvk.backend.options import Setting, supported_settings
from clinvk.backend.selection import BackendSelector
from clinvk.backend.versions.installed import VersionNeeded, fitting_manifest
from clinvk.config import schema as configs
from clinvk.dispatch.planning.directories import started_in, without_worktree, working_directory
from clinvk.dispatch.planning.native_env import env_to_store, stored_env
from clinvk.dispatch.planning.prompt_parts import PromptParts
from clinvk.dispatch.planning.request_check import check_further_turns, check_rounds
from clinvk.dispatch.planning.settings import (
    begun_with,
    lacking_notices,
    read_schema,
    wanted_settings,
)
from clinvk.dispatch.turn_plan import TurnPlan
from clinvk.errors import SessionError, UsageError
from clinvk.model.option_table import OWN_OPTIONS
from clinvk.model.request import Request
from clinvk.model.session import Session
from clinvk.process.command import Command
from clinvk.sessions.instructions import template_options
from clinvk.sessions.lookup import SessionLookup
from clinvk.store.base import Store

if TYPE_CHECKING:
    from clinvk.knowledge.context import Context


class Origin(Struct, frozen=True):
    """Which native session a turn continues."""

    resumes: str | None  # its id
    forks: str | None  # the id of one that is copied
    owner: Session | None  # the session whose native session it is

    @property
    def continued(self) -> str | None:
        return self.resumes or self.forks

    @property
    def totals(self) -> dict[str, Any]:
        """The CLI's totals so far in that native session."""
        return self.owner.totals.get(self.continued or "", {}) if self.owner else {}


class TurnPlanner:
    """Plans turns. Nothing is started, locked or written, but for the index of what is searched for
    a prompt's context."""

    def __init__(
        self,
        config: configs.Loaded,
        selector: BackendSelector,
        env: Mapping[str, str],
        *,
        store: Callable[[], Store],
        sessions: Callable[[], SessionLookup],
        created: Mapping[str, Mapping[str, Any]],
        index_progress: Callable[[int, int], None],
    ) -> None:
        """`store` and `sessions` are called only if something is read from them. `created` has the
        permissions of the sessions that were created with this planner's plans."""
        self.config = config
        self.selector = selector
        self.env = env
        self._store = store
        self._created = created
        self._parts = PromptParts(
            config, store=store, sessions=sessions, index_progress=index_progress
        )

    async def when_known(
        self, calls: Callable[[Callable[[], TurnPlan]], Awaitable[TurnPlan]], *args: Any
    ) -> TurnPlan:
        """The plan of a turn of this session, or of a new one; if it depends on the version of the
        CLI, that is asked first."""
        try:
            return await calls(partial(self.plan, *args))
        except VersionNeeded as needed:
            # Only for some options of a CLI whose version is not known yet.
            from clinvk.backend.probe import ask_version

            env = self.selector.child_env(needed.manifest.name)
            await ask_version(needed.manifest, needed.program, env, self.config.home)
        return await calls(partial(self.plan, *args))

    def plan(
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
        request, moved = without_worktree(request, session, self.config.home)
        origin = self._origin(request, session, manifest)
        begins = self._parts.begins_with(request, session, origin.continued)
        wanted, permitted = wanted_settings(
            request, session, manifest, self.config, lambda asked: self._store().is_own(asked),
            template_options(begins, self.config.home),
            self._created.get(session.id, {}) if session else {},
        )  # fmt: skip
        own = {name: wanted.pop(name) for name in OWN_OPTIONS if name in wanted}
        if context is None:
            context = self._parts.context(request, session, own, writes=writes)
        written = self._parts.write(
            request, session, origin.continued, manifest, own, wanted, begins, context
        )
        if manifest.by_version and ask:
            manifest = fitting_manifest(
                manifest, choice.program, self.config.home, options=wanted, prompt=written.text,
                ephemeral=request.ephemeral, expand=request.expand,
                resumes=origin.continued is not None,
            )  # fmt: skip
        prompt, schema = written.text, None
        begun = self._begun_with(session, origin, wanted)
        if "schema" in wanted:
            schema = read_schema(wanted["schema"].value)
            wanted["schema"] = replace(wanted["schema"], value=schema.text)
            if "schema" not in manifest.options:
                prompt = schema.add_to(prompt)
                own["schema"] = wanted.pop("schema")
        for name in ("schema_retries", "rounds"):
            check_further_turns(name, own, request, manifest)
        check_rounds(own, request)
        settings, dropped = supported_settings(
            wanted, manifest, lenient=request.lenient, first_turn_options=begun
        )
        env, stored = self._environment(request, manifest, origin)
        command, adapted = self._command(
            request, session, origin, manifest, choice.program, prompt, env,
            {name: setting.value for name, setting in settings.items()} | written.skill_options,
        )  # fmt: skip
        timeout = request.timeout
        if timeout is None:
            timeout = self.config.config.unified_flags.command_timeout_secs
        said = (
            *choice.notices, *moved, *permitted, *written.notices, *dropped,
            *lacking_notices(settings), *command.notices, *adapted, *stored,
        )  # fmt: skip
        return TurnPlan(
            request, manifest, session, origin.resumes, origin.forks, origin.totals,
            settings | own, command, timeout, said, self.config.home,
            self.config.config.unified_flags.exit_timeout_secs,
            env_to_store(manifest, command.env, self._given(request, manifest), request.secrets),
            schema, begins.template, written.metadata, context,
        )  # fmt: skip

    def _origin(self, request: Request, session: Session | None, manifest: Manifest) -> Origin:
        native_id = _native_id_to_resume(session, manifest, request)
        parent = None if native_id or request.replay else self._find_fork_source(session, manifest)
        forks = parent.native_ids[manifest.name] if parent else None
        return Origin(native_id, forks, parent or session)

    def _begun_with(
        self, session: Session | None, origin: Origin, wanted: Mapping[str, Setting]
    ) -> dict[str, Any] | None:
        """The options of the first turn, if this is a later one."""
        if session is None or not origin.resumes:
            return None
        return begun_with(session, wanted, self.config.config.session)

    def _given(self, request: Request, manifest: Manifest) -> set[str]:
        """The names of the variables that the user has set for the CLI."""
        return {*self.config.backend(manifest.name).env, *request.env}

    def _environment(
        self, request: Request, manifest: Manifest, origin: Origin
    ) -> tuple[dict[str, str], list[str]]:
        """The variables of the CLI, and notices about those that are stored with its native session."""
        env = self.selector.child_env(manifest.name)
        env |= expand_homes(request.env, {**env, **request.env})
        owner = origin.owner
        if owner is None or not owner.native_env or not origin.continued:
            return env, []
        trusted = owner.options_trusted and self._store().is_own(owner.id)
        kept, notices = stored_env(manifest, owner, env, request.env, trusted=trusted)
        return env | kept, notices

    def _command(
        self,
        request: Request,
        session: Session | None,
        origin: Origin,
        manifest: Manifest,
        program: str,
        prompt: str,
        env: dict[str, str],
        options: dict[str, Any],
    ) -> tuple[Command, list[str]]:
        """What is started, and notices about its environment."""
        command = build_command(
            manifest,
            program,
            prompt=prompt,
            options=options,
            cwd=working_directory(request, session, self.config.home),
            env=env,
            temp_dir=tempfiles.temp_dir_path(self.env),
            home=self.config.home,
            native_id=origin.continued,
            fork=origin.forks is not None,
            ephemeral=request.ephemeral,
            expand=request.expand,
            args=[*self.config.backend(manifest.name).extra_flags, *request.args],
        )
        if place := started_in(request, session, command.cwd):
            # Only in a worktree.
            from clinvk.backend.files.trust import inherit_trust

            command = inherit_trust(manifest, command, place)
        command, adapted = adapt_environment(command, self._given(request, manifest))
        if command.state and not command.new_id:
            native.check_state(command.state)
        return command, adapted

    def _find_fork_source(self, session: Session | None, manifest: Manifest) -> Session | None:
        """The session whose native session the CLI itself can copy for the first turn of a branch:
        the branch contains all of it, and it has not been continued since."""
        if session is None or session.native_ids or "fork" not in manifest.argv:
            return None
        if len(session.parents) != 1 or "branched_at" not in session.metadata:
            return None
        try:
            parent = self._store().get(session.parents[0])
        except SessionError:
            return None
        unchanged = sum(parent.counts.values()) == session.metadata["branched_at"] + 1
        mine = sum(session.counts.values()) == sum(parent.counts.values())
        same = parent.backend == manifest.name and manifest.name in parent.native_ids
        return parent if unchanged and mine and same else None


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
