"""What a turn's prompt begins with: skills, context, a template, and turns that were had elsewhere."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from clinvk.backend.manifest import Manifest
from clinvk.backend.options import Setting
from clinvk.backend.permissions import INSTRUCTION, PLANNING
from clinvk.config import schema as configs
from clinvk.config.stored_options import NOTHING_STORED, StoredOptions, read_options_file
from clinvk.disk.waiting import check_may_block
from clinvk.dispatch.planning.directories import started_in, working_directory
from clinvk.errors import SessionError
from clinvk.model.option_table import CONTEXT_OPTIONS
from clinvk.model.request import Request
from clinvk.model.session import Message, MessageRole, Session
from clinvk.sessions.instructions import AskedSkills, asked_skills, begin_with
from clinvk.sessions.lookup import SessionLookup, real_path
from clinvk.store.base import Query, Store

if TYPE_CHECKING:
    from clinvk.knowledge.context import Context


class WrittenPrompt(Struct, frozen=True):
    """The prompt as the CLI gets it."""

    text: str
    notices: tuple[str, ...]
    skill_options: dict[str, Any]  # that give a CLI its skills
    metadata: dict[str, Any]  # of a new session


class PromptParts:
    """Finds what is put before the prompts of turns."""

    def __init__(
        self,
        config: configs.Loaded,
        *,
        store: Callable[[], Store],
        sessions: Callable[[], SessionLookup],
        index_progress: Callable[[int, int], None],
    ) -> None:
        """`store` and `sessions` are called only if something is read from them."""
        self.config = config
        self._store = store
        self._sessions = sessions
        self._index_progress = index_progress

    def begins_with(
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

    def write(
        self,
        request: Request,
        session: Session | None,
        native_id: str | None,
        manifest: Manifest,
        own: Mapping[str, Setting],
        wanted: dict[str, Setting],
        begins: StoredOptions,
        context: Context | None,
    ) -> WrittenPrompt:
        """The whole prompt. What goes into the system prompt instead is added to `wanted`."""
        prompt = f"{INSTRUCTION}{request.prompt}" if PLANNING in wanted else request.prompt
        skills = self.skills(request, session, own, wanted, manifest)
        prompt = f"{skills.text}{prompt}"
        prompt = context.put_before(prompt) if context else prompt
        prompt, carried = self.with_earlier_turns(
            request, prompt, session, manifest, native_id, wanted
        )
        metadata: dict[str, Any] = {}
        if begins:
            above, metadata = begin_with(begins, wanted, manifest, self.config.home)
            prompt = f"{above}\n\n{prompt}" if above else prompt
        notices = (*carried, *skills.notices, *(context.notices if context else ()))
        return WrittenPrompt(prompt, notices, skills.options, metadata)

    def skills(
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
        directory = os.path.realpath(working_directory(request, session, self.config.home))
        return asked_skills(names, manifest, self.config.home, directory, native=is_free)

    def context(
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
        directory = working_directory(request, session, self.config.home)
        place = Place(
            self.config.home,
            os.path.realpath(directory),
            os.path.realpath(started_in(request, session, directory) or directory),
            self._store,
            self.config.config.session.storage,
            session.id if session else None,
            self._index_progress,
            writes,
        )
        return find_context(wanted, request.prompt, place)

    def with_earlier_turns(
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

        if request.replay and session is not None and not self._store().messages(session.id):
            raise SessionError(
                f"session {session.id} has no transcript to start over from", "start a new session"
            )
        if session is not None and (native_id is None or session.backend != manifest.name):
            messages = self._store().messages(session.id)
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

    def _recent_sessions(self, request: Request) -> Iterator[tuple[Session, list[Message]]]:
        """The last sessions of this directory in which something was answered, with their messages,
        newest first."""
        wanted = limit = request.history
        while True:
            recent = self._sessions().list_resumable(Query(cwd=real_path(request.cwd), limit=limit))
            answered = [s for s in recent if s.counts.get("assistant")]
            if len(answered) >= wanted or len(recent) < limit:
                break
            limit *= 4  # look further back, but not through the sessions of years
        for session in answered[:wanted]:
            yield session, self._store().messages(session.id)


def _add_system_messages(system: list[str], settings: dict[str, Setting]) -> None:
    """The system messages of a session are its system prompt, unless another one is given."""
    if system and "system_prompt" not in settings:
        settings["system_prompt"] = Setting("\n\n".join(system), "session")
