"""Decides all about a turn before anything starts: the program, its session, options and prompt."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from clinvk.backend import native
from clinvk.backend.command_line import build_command
from clinvk.backend.files import tempfiles
from clinvk.backend.inherited import adapt_environment, expand_homes
from clinvk.backend.manifest import Manifest
from clinvk.backend.options import supported_settings
from clinvk.backend.permissions import INSTRUCTION, PLANNING
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
from clinvk.sessions.instructions import begin_with, template_options
from clinvk.sessions.lookup import SessionLookup
from clinvk.store.base import Store

if TYPE_CHECKING:
    from clinvk.knowledge.context import Context


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
        request, moved = without_worktree(request, session)
        native_id = _native_id_to_resume(session, manifest, request)
        parent = None if native_id or request.replay else self._find_fork_source(session, manifest)
        forks = parent.native_ids[manifest.name] if parent else None
        begins = self._parts.begins_with(request, session, native_id or forks)
        wanted, permitted = wanted_settings(
            request, session, manifest, self.config, lambda asked: self._store().is_own(asked),
            template_options(begins, self.config.home),
            self._created.get(session.id, {}) if session else {},
        )  # fmt: skip
        own = {name: wanted.pop(name) for name in OWN_OPTIONS if name in wanted}
        if context is None:
            context = self._parts.context(request, session, own, writes=writes)
        prompt = f"{INSTRUCTION}{request.prompt}" if PLANNING in wanted else request.prompt
        skills = self._parts.skills(request, session, own, wanted, manifest)
        prompt = f"{skills.text}{prompt}"
        prompt = context.put_before(prompt) if context else prompt
        prompt, carried = self._parts.with_earlier_turns(
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
        begun = (
            begun_with(session, wanted, self.config.config.session)
            if session and native_id
            else None
        )
        schema = None
        if "schema" in wanted:
            schema = read_schema(wanted["schema"].value)
            wanted["schema"] = replace(wanted["schema"], value=schema.text)
        for name in ("schema_retries", "rounds"):
            check_further_turns(name, own, request, manifest)
        check_rounds(own, request)
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
            trusted = owner.options_trusted and self._store().is_own(owner.id)
            kept, stored = stored_env(manifest, owner, env, request.env, trusted=trusted)
            env |= kept
        command = build_command(
            manifest,
            choice.program,
            prompt=prompt,
            options={k: s.value for k, s in settings.items()} | skills.options,
            cwd=working_directory(request, session),
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
        if place := started_in(request, session, command.cwd):
            # Only in a worktree.
            from clinvk.backend.files.trust import inherit_trust

            command = inherit_trust(manifest, command, place)
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
            *lacking_notices(settings),
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
