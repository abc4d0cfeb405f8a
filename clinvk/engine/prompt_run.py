"""A prompt in a git worktree: a run of one task, so that its result can be shown and applied."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from msgspec.structs import replace

from clinvk.engine.driven_run import DrivenRun
from clinvk.engine.executor import Finish, LocalExecutor, Reporter, RunningRequest
from clinvk.engine.run_context import local_context
from clinvk.errors import UsageError
from clinvk.model.events import Event
from clinvk.model.outcome import Outcome
from clinvk.model.plan import Limits, Plan, Rules, Task, Worktree, with_keys
from clinvk.model.request import Request
from clinvk.model.result import EXIT_CODES, Result
from clinvk.plans.taskfile.worktree import worktree_of
from clinvk.process.threads import in_thread
from clinvk.text.headline import headline

if TYPE_CHECKING:
    from clinvk.dispatch.dispatcher import Dispatcher
    from clinvk.dispatch.series.turn_series import TurnSeries
    from clinvk.dispatch.turn import Turn
    from clinvk.model.progress import Change
    from clinvk.model.session import Session

T = TypeVar("T")
Notify = Callable[[str], None]

NAME = "prompt"  # of the task

# Follows a turn to its end: calls the first function with each event, and the second with its result,
# which it returns with what has changed in the worktree.
Follow = Callable[
    [
        "Turn | TurnSeries",
        Callable[[Event], Awaitable[None]],
        Finish,
    ],
    Awaitable[Result],
]


class PromptRun:
    """`await run()` once; its result is that of the turn. `stop` works as of a `DrivenRun`."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        request: Request,
        wanted: Worktree,
        *,
        notify: Callable[[str], None] = lambda _: None,
        follow: Follow | None = None,
    ) -> None:
        """Raises `ClinvkError` if there can be no worktree; nothing has happened then."""
        if request.own_directory:
            raise UsageError(
                "an empty directory has no git worktree", "leave out -w none, or --worktree"
            )
        session = None if request.ephemeral else dispatcher.sessions.find(request)
        if session is not None and session.native_ids:
            notify(
                f"session {session.id} continues in a worktree, from its transcript: its own "
                "conversation belongs to another directory"
            )
            request = request.replace(replay=True)
        task = Task(
            name=NAME, prompt=request.prompt, backend=_backend_of(request, session),
            options=dict(request.options), args=request.args, timeout=request.timeout,
            stall_timeout=request.stall_timeout, title=request.title, tags=request.tags,
            lenient=request.lenient, worktree=wanted,
            cwd=str(request.cwd) if request.cwd else session.directory if session else None,
        )  # fmt: skip
        rules = Rules(
            max_parallel=1, ephemeral=request.ephemeral,
            # The turn itself waits for a rate limit, or switches.
            limits=Limits(action="fail", at_start="ignore"),
        )  # fmt: skip
        plan = with_keys(
            Plan(kind="prompt", tasks=(task,), rules=rules, source=headline(request.prompt)[:80])
        )
        self._executor = _PromptExecutor(dispatcher, request, follow or _read_events)
        context = local_context(dispatcher)
        context = replace(context, create_executor=self._executor.with_marker)
        self.driven = DrivenRun(context, plan, notify=notify, observe=_tell(notify))

    async def run(self) -> Result:
        """The result. Raises `ClinvkError` if the turn could not be started; the run is deleted
        then."""
        run = self.driven
        done = await run.run()
        if self._executor.result is not None:
            return self._executor.result
        if self._executor.error is None:
            return _result_of(done.results[0])
        await in_thread(self._discard)
        raise self._executor.error

    def stop(self, why: str = "cancelled", *, now: bool = False) -> None:
        self.driven.stop(why, now=now)

    @property
    def run_id(self) -> str | None:
        return self.driven.folder.id if self.driven.folder else None

    def _discard(self) -> None:
        """Delete a run in which nothing has started."""
        # Only with a worktree.
        from clinvk.worktrees.remove import drop_results, places_of

        folder = self.driven.folder
        if folder is None:
            return
        home, env = folder.home, self.driven.context.env
        for place in places_of(home, folder.id, self.driven.plan, env):
            drop_results(place)
        folder.delete()


async def prepare_run(make: Callable[[Notify], T], notify: Notify = lambda _: None) -> T:
    """`make(…)` in a thread, since git looks at all files of a repository for a `PromptRun`; cancelling this
    stops git. `make` gets what its notices go to, which reach `notify` on the event loop."""
    # Only with a worktree.
    from clinvk.worktrees.git import stopping_git

    told: list[str] = []
    is_made = False

    def tell(message: str) -> None:
        if is_made:
            notify(message)
        else:  # in the thread
            told.append(message)

    made = await stopping_git(lambda: make(tell))
    is_made = True
    for message in told:
        notify(message)
    return made


async def run_in_worktree(
    dispatcher: Dispatcher, request: Request, keys: bool | Mapping[str, Any]
) -> Result:
    """The result of the request in a worktree with these keys; of a session that has a worktree, in
    that one. Raises `ClinvkError` before anything runs."""
    wanted = worktree_of(keys)
    if wanted is not None:
        run = await prepare_run(
            lambda tell: (
                None
                if in_own_worktree(dispatcher, request)
                else PromptRun(dispatcher, request, wanted, notify=tell)
            )
        )
        if run is not None:
            return await run.run()
    return await dispatcher.run(request)


def in_own_worktree(dispatcher: Dispatcher, request: Request) -> bool:
    """Whether the request continues a session that has a worktree."""
    session = None if request.ephemeral else dispatcher.sessions.find(request)
    return bool(session and session.started_in and os.path.isdir(session.cwd or ""))


def _tell(notify: Callable[[str], None]) -> Callable[[Change], None]:
    return lambda change: notify(change.message) if change.kind == "notice" else None


def _backend_of(request: Request, session: Session | None) -> str | None:
    return request.to or request.backend or (session.backend if session else None)


def _result_of(outcome: Outcome) -> Result:
    """The result of a task that was stopped before its turn began."""
    return Result(
        ok=False, text="", backend=outcome.backend or "", error=outcome.error,
        exit_code=EXIT_CODES["cancelled"] if outcome.exit_code is None else outcome.exit_code,
    )  # fmt: skip


class _PromptExecutor(LocalExecutor):
    """Runs the user's own request in the worktree of the task."""

    def __init__(self, dispatcher: Dispatcher, request: Request, follow: Follow) -> None:
        super().__init__(dispatcher)
        self.request = request
        self.follow = follow
        self.result: Result | None = None  # of the turn
        self.error: Exception | None = None  # why it could not be started

    def with_marker(self, marker: str) -> _PromptExecutor:
        self.dispatcher = self.dispatcher.with_marker(marker)
        return self

    async def run(self, request: Request, reporter: Reporter) -> Result:
        try:
            own = self.request.replace(
                worktree=request.worktree, check_dir=request.check_dir,
                check_progress=request.check_progress,
            )  # fmt: skip
            return await super().run(own, reporter)
        except Exception as error:
            if self.result is None:
                self.error = error
            raise

    async def _run(self, request: Request, reporter: Reporter, finish: Finish) -> Result:
        async with self.dispatcher.stream(
            request, reporter.on_notice, reporter.may_continue
        ) as turn:
            session = turn.plan.session
            reporter.on_started(
                RunningRequest(
                    cancel=turn.cancel, session_id=session.id if session else None,
                    cwd=turn.plan.command.cwd,
                )
            )  # fmt: skip
            self.result = await self.follow(turn, reporter.on_event, finish)
        return self.result


async def _read_events(
    turn: Turn | TurnSeries,
    on_event: Callable[[Event], Awaitable[None]],
    finish: Finish,
) -> Result:
    async for event in turn:
        await on_event(event)
    return await finish(turn.result)
