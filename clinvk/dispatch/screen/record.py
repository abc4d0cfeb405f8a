"""Add what was said in the CLI's own screen to the session, and only that."""

from __future__ import annotations

import os
from contextlib import suppress
from datetime import UTC, datetime

from msgspec import Struct
from msgspec.structs import replace

from clinvk.backend.native import has_state
from clinvk.config import extras
from clinvk.config.schema import SessionConfig
from clinvk.dispatch.recorder import with_native_env
from clinvk.dispatch.turn_plan import TurnPlan
from clinvk.errors import ClinvkError
from clinvk.model.session import (
    Message,
    MessageRole,
    Session,
    after_turn,
    count_roles,
    prompt_excerpt,
)
from clinvk.model.usage import Usage
from clinvk.sessions.masking import redact_for_store
from clinvk.sessions.native import NativeSession
from clinvk.sessions.native.lines import CompressedError
from clinvk.sessions.native.since import can_read, find_native, new_messages, used_since
from clinvk.store.base import Store


class Added(Struct, frozen=True):
    """What was added to a session. `problems` say what could not be, and why."""

    messages: int = 0
    problems: tuple[str, ...] = ()


class ScreenRecord:
    """What a session has before the screen is opened, and gets when it was closed."""

    def __init__(
        self,
        store: Store,
        plan: TurnPlan,
        session_id: str,
        settings: SessionConfig,
        *,
        is_new: bool,
    ) -> None:
        self.is_used = not is_new  # whether the session is to be kept
        self._store, self._plan, self._id, self._settings = store, plan, session_id, settings
        self._is_new = is_new
        self._backend: str = plan.manifest.name
        self._env = plan.command.env
        self._opened = datetime.now(UTC)
        self._before: NativeSession | None = None
        if plan.resumes and can_read(self._backend):
            # Whatever is in its files, the screen is opened: the time of a message also says what is new.
            with suppress(Exception):
                self._before = find_native(self._backend, self._env, plan.resumes)

    def add(self) -> Added:
        """Add what was said since the screen was opened. Raises `SessionError`."""
        if not can_read(self._backend):
            return self._keep_unread()
        own: NativeSession | None = None
        others: list[NativeSession] = []
        problem = None
        try:
            own, others = self._find_sessions()
        except ClinvkError:
            raise  # the error is in clinvk's own store
        except Exception as error:  # noqa: BLE001 - whatever is in a file of the CLI
            problem = f"what was said could not be read: {_describe(error)}"
            self.is_used = True
        said = new_messages(self._before, own, self._opened)
        if own is not None and said:
            self.is_used = True
            self._append(own, said)
        kept = len(said) if self._settings.store_messages else 0
        problems = [problem] if problem else []
        return Added(kept, (*problems, *(own.problems if own else ()), *map(self._other, others)))

    def _keep_unread(self) -> Added:
        """The session of a CLI whose own sessions cannot be read: it is kept, if it may have been
        used, with the id that the CLI was told."""
        state = self._plan.command.state
        self.is_used = self.is_used or state is None or has_state(state)
        if self.is_used:
            self._store.update(self._id, lambda s: replace(s, updated_at=datetime.now(UTC)))
        unread = f"what was said is not added: clinvk cannot read the sessions of {self._backend}"
        return Added(problems=(unread,) if self.is_used else ())

    def _find_sessions(self) -> tuple[NativeSession | None, list[NativeSession]]:
        """The session of the screen, if there is one by now, and others of the directory that were
        used meanwhile and that clinvk does not know."""
        cwd = os.path.realpath(self._plan.command.cwd)
        used = used_since(self._backend, self._env, cwd, self._opened)
        own_id = self._plan.resumes or self._plan.command.new_id
        own = find_native(self._backend, self._env, own_id) if own_id else None
        others = [
            s
            for s in used
            if s.native_id != own_id
            and not self._store.find_by_native_id(self._backend, s.native_id)
        ]
        if own is None and self._is_new:  # it chose the id itself, or the user started over in it
            own = next((s for s in others if s.created >= self._opened), None)
            others = [s for s in others if s is not own]
        return own, others

    def _append(self, native: NativeSession, said: list[Message]) -> None:
        messages = [
            Message(
                m.role,
                redact_for_store(m.content, self._settings, self._plan.request.secrets),
                m.timestamp,
                m.metadata,
            )
            for m in (said if self._settings.store_messages else ())
        ]
        now = datetime.now(UTC)
        usage = self._usage(native) if self._settings.store_token_usage else None

        def change(session: Session) -> Session:
            request = self._plan.request
            for prompt in [m.content for m in messages if m.role is MessageRole.USER][:1]:
                session = replace(session, prompt=session.prompt or prompt_excerpt(prompt))
            turns = sum(m.role is MessageRole.USER for m in said)
            totals = session.totals
            if native.usage is not None:  # otherwise the next turn would be charged for all of it
                known = totals.get(native.native_id) or {}
                totals = totals | {native.native_id: {**known, "usage": native.usage.to_json()}}
            session = after_turn(
                session, status="active", said=count_roles(messages), usage=usage, cost=None,
                error=None, model=native.model, now=max(now, session.updated_at),
            )  # fmt: skip
            return replace(
                session,
                turns=session.turns - 1 + turns,
                backend=self._backend,
                native_ids=session.native_ids | {self._backend: native.native_id},
                native_env=with_native_env(session.native_env, self._plan),
                totals=totals,
                title=request.title or session.title,
                tags=tuple(dict.fromkeys([*session.tags, *request.tags])),
            )

        self._store.append(self._id, messages, change)

    def _usage(self, native: NativeSession) -> Usage | None:
        """The usage of what was said, if the CLI counts it."""
        if self._before is None:
            return native.usage if self._is_new else None
        if native.usage is None or self._before.usage is None:
            return None
        return native.usage - self._before.usage

    def _other(self, native: NativeSession) -> str:
        return (
            f"{self._backend} also used its session {native.native_id} in this directory meanwhile; "
            f"to have it, too: clinvk sessions import --here -b {self._backend}"
        )


def _describe(error: Exception) -> str:
    if isinstance(error, CompressedError):
        return f"its session is compressed; {extras.install_hint('zstd')}"
    return str(error) or type(error).__name__
