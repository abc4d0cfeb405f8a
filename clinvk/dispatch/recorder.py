"""What a turn records in the store, while it is running and afterwards."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

from msgspec.structs import replace

from clinvk.backend.options import stored_options
from clinvk.config.schema import SessionConfig
from clinvk.dispatch.off_loop import StoreCalls
from clinvk.dispatch.turn_plan import TurnPlan
from clinvk.errors import ClinvkError
from clinvk.model.result import Result
from clinvk.model.session import Message, MessageRole, Session, after_turn, prompt_excerpt
from clinvk.process.threads import for_long
from clinvk.sessions.masking import redact_data_for_store, redact_for_store
from clinvk.store.base import CompletesTurns, Damaged, Query, TurnLock

_STEP = timedelta(milliseconds=1)  # the precision of stored times


class Recorder:
    """Records one turn of one session. The prompt and the native id are stored as soon as they are
    known, so that a turn that is killed can be resumed."""

    def __init__(
        self,
        calls: StoreCalls,
        plan: TurnPlan,
        session_id: str,
        settings: SessionConfig,
        turn: TurnLock,
    ) -> None:
        self.calls = calls
        self.store = calls.store
        self.plan = plan
        self.settings = settings
        self.session_id = session_id
        self._is_clock_right = False  # no session was used later than now
        self.backend: str = plan.manifest.name
        # A task's session is flushed together with the journal of its run.
        self._is_task = plan.request.chosen_id is not None
        self._append = calls.store.deferred().append if self._is_task else calls.store.append
        self._update = (
            calls.store.deferred().update
            if self._is_task
            else partial(calls.store.update, durable=False)
        )
        # What the CLI keeps may have to be deleted once it has ended, which needs the turn.
        is_last = plan.command.state is None
        self._complete = turn.complete if is_last and isinstance(turn, CompletesTurns) else None

    async def record_prompt(self, messages: list[Message]) -> None:
        """Store the prompt of a further turn, before anything is started. Raises `SessionError`."""
        # Written in any case: a session deleted meanwhile is noticed now, not at the end.
        title = self.plan.request.title and redact_for_store(self.plan.request.title, self.settings)
        tags, new_id = self.plan.request.tags, self.plan.command.new_id
        options = redact_data_for_store(
            stored_options(self.plan.settings), self.settings, self.plan.request.secrets
        )

        def change(session: Session) -> Session:
            session = _session_with_prompt(session, messages, title, tags)
            session = _session_in_worktree(session, self.plan)
            if _is_first_turn(session):
                session = replace(session, options=session.options | options)
            return _with_native_id(session, self.plan, new_id, None) if new_id else session

        await self.calls(lambda: self.store.append(self.session_id, messages, change))

    async def record_native_id(self, native_id: str, model: str | None) -> list[str]:
        """Store the backend's own id at once; return notices about it."""
        told = await self.shared_id_notices(native_id)
        now = await self._time_of_use()

        def change(session: Session) -> Session:
            session = _with_native_id(session, self.plan, native_id, model)
            return replace(session, updated_at=max(session.updated_at, now))

        try:
            await self.calls(lambda: self._update(self.session_id, change))
        except ClinvkError as error:
            told.append(f"the session id could not be stored yet: {error}")
        return told

    async def shared_id_notices(self, native_id: str) -> list[str]:
        """Notices about other sessions with this native id; none for a task, whose session is
        rarely continued by hand."""
        if self.plan.resumes is not None or self._is_task:
            return []
        try:
            owners = await self.calls(lambda: self.store.find_by_native_id(self.backend, native_id))
        except ClinvkError:  # an error of the store is reported when something is stored
            return []
        others = [other for other in owners if other != self.session_id]
        if not others:
            return []
        gave = f"{self.backend} gave the native id {native_id}, which session {others[0]}"
        if len(others) == 1:
            return [f"{gave} also has: both continue the same conversation"]
        return [
            f"{gave} and {len(others) - 1:,} more also have: all continue the same conversation"
        ]

    async def _time_of_use(self) -> datetime:
        """Now; if the clock was set back, the time after the session of this directory that was
        used last, so that this one is continued by `-c`."""
        now = datetime.now(UTC)
        if self._is_task or self._is_clock_right:  # `-c` skips tasks
            return now
        with suppress(ClinvkError):  # an error of the store is reported when something is stored
            return await self.calls(lambda: self._after_last_use(now))
        return now

    def _after_last_use(self, now: datetime) -> datetime:
        if _last_use(self.store.select(Query(tasks=True, limit=1)), now) == now:
            self._is_clock_right = True  # asked once in a turn
            return now
        cwd = self.plan.session.cwd if self.plan.session else None
        return _last_use(self.store.select(Query(cwd=cwd, limit=1)), now)

    def kept(self, text: str) -> str:
        """The text as it may be stored. Takes time in proportion to its length, up to a second per
        megabyte."""
        return redact_for_store(text, self.settings, self.plan.request.secrets)

    async def record_result(
        self, result: Result, answers: str, totals: dict[str, Any], *, lost: bool
    ) -> None:
        """Store the answer, as returned by `kept`, and its usage. Raises `SessionError`."""
        now = await self._time_of_use()
        messages = []
        if answers and self.settings.store_messages:
            tokens = (
                result.usage.output if result.usage and self.settings.store_token_usage else None
            )
            about = {"backend": self.backend, "model": result.model}
            about = {k: v for k, v in about.items() if v}
            messages.append(
                Message(
                    MessageRole.ASSISTANT,
                    answers,
                    now,
                    about,
                    tokens,
                )
            )

        def change(session: Session) -> Session:
            return self._session_after_turn(session, result, len(messages), totals, now, lost)

        if self._complete is not None:
            complete = self._complete
            await self.calls(lambda: complete(messages, change))
        else:
            await self.calls(lambda: self._append(self.session_id, messages, change))

    def _session_after_turn(
        self,
        session: Session,
        result: Result,
        answers: int,
        totals: dict[str, Any],
        now: datetime,
        lost: bool,
    ) -> Session:
        keep = self.settings.store_token_usage
        model = _model_on(session, self.backend, result.model)
        session = after_turn(
            session,
            status="active" if result.ok else "error",
            said={"assistant": answers} if answers else {},
            usage=result.usage if keep else None,
            cost=result.cost if keep else None,
            error=_error_record(result, self.settings, self.plan.request.secrets),
            model=result.model,
            now=now,
        )
        natives = dict(session.native_ids)
        if result.native_id:
            natives[self.backend] = result.native_id
            env = with_native_env(session.native_env, self.plan)  # of a turn that ended at once
            session = replace(session, backend=self.backend, native_env=env, model=model)
            if totals:
                session = replace(session, totals=session.totals | {result.native_id: totals})
        elif result.ok and not self.plan.manifest.resumes:  # it gets the transcript each time
            session = replace(session, backend=self.backend, model=model)
        elif (new_id := self.plan.command.new_id) and natives.get(self.backend) == new_id:
            # The CLI has not begun the session that was recorded before its start.
            before = self.plan.session.native_ids if self.plan.session else {}
            natives.pop(self.backend)
            if (known := before.get(self.backend)) not in (None, new_id):
                natives[self.backend] = known
        if lost:
            natives.pop(self.backend, None)
        return replace(session, native_ids=natives)


def _last_use(newest: list[Session | Damaged], now: datetime) -> datetime:
    """The time just after that of the newest session, if that is later than now."""
    times = [s.updated_at + _STEP for s in newest if isinstance(s, Session) and s.updated_at > now]
    return max(times, default=now)


async def prompt_messages(plan: TurnPlan, settings: SessionConfig) -> list[Message]:
    """The first message of a turn; None if messages are not stored."""
    if not settings.store_messages:
        return []
    about = {"backend": plan.manifest.name}
    prompt = await for_long(
        plan.request.prompt, lambda text: redact_for_store(text, settings, plan.request.secrets)
    )
    return [Message(MessageRole.USER, prompt, metadata=about)]


def _session_with_prompt(
    session: Session, messages: list[Message], title: str | None, tags: tuple[str, ...]
) -> Session:
    if messages:
        session = with_prompt(session, messages[0].content)
    tags = tuple(dict.fromkeys([*session.tags, *tags]))
    return replace(session, title=title or session.title, tags=tags)


def _is_first_turn(session: Session) -> bool:
    """Whether the session was created without a turn, so that its options are those of this one."""
    return not (session.turns or session.native_ids or session.parents)


def _session_in_worktree(session: Session, plan: TurnPlan) -> Session:
    """The session; if it continues in a new worktree, its directory is that from now on."""
    if plan.request.started_in is None:
        return session
    return replace(session, cwd=str(plan.command.cwd), started_in=str(plan.request.started_in))


def with_prompt(session: Session, prompt: str) -> Session:
    """The session with one more prompt."""
    counts = session.counts | {"user": session.counts.get("user", 0) + 1}
    return replace(
        session,
        counts=counts,
        prompt=session.prompt or prompt_excerpt(prompt),
        updated_at=datetime.now(UTC),
    )


def _error_record(
    result: Result, settings: SessionConfig, secrets: tuple[str, ...]
) -> dict[str, Any] | None:
    if result.error is None:
        return None
    error = result.error.to_json()
    return error | {"message": redact_for_store(str(error.get("message") or ""), settings, secrets)}


def _with_native_id(session: Session, plan: TurnPlan, native_id: str, model: str | None) -> Session:
    backend: str = plan.manifest.name
    return replace(
        session,
        backend=backend,
        native_ids=session.native_ids | {backend: native_id},
        native_env=with_native_env(session.native_env, plan),
        model=_model_on(session, backend, model),
    )


def _model_on(session: Session, backend: str, reported: str | None) -> str | None:
    """The model of the session on this backend: that of another one is not its model."""
    return reported or (session.model if session.backend == backend else None)


def with_native_env(before: dict[str, dict[str, str]], plan: TurnPlan) -> dict[str, dict[str, str]]:
    """The variables of the native sessions, with those of this turn."""
    others = {name: env for name, env in before.items() if name != plan.manifest.name}
    return others | ({plan.manifest.name: plan.native_env} if plan.native_env else {})
