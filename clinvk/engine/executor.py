"""Runs an attempt: a request in, a result out. The scheduler knows nothing else about it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from msgspec import Struct

from clinvk.model.events import Event
from clinvk.model.request import Request
from clinvk.model.result import Result
from clinvk.process.threads import in_thread

if TYPE_CHECKING:
    from clinvk.dispatch.dispatcher import Dispatcher

BUDGET_SPENT = "the budget is spent"


class Cancel(Protocol):
    """Stops the program and everything that it started; with `now`, kills it without asking
    first."""

    def __call__(self, reason: str = "cancelled", *, now: bool = False) -> None: ...


class RunningRequest(Struct, frozen=True, kw_only=True):
    """A request whose program has been started. After `cancel`, its result says that it was
    cancelled."""

    cancel: Cancel
    session_id: str | None = None  # the session that it uses; None if it is ephemeral
    cwd: Path | None = None  # the directory that it runs in


class Reporter(Protocol):
    """What an executor reports while it runs a request."""

    def on_notice(self, message: str) -> None:
        """A notice before there are events, such as waiting for a lock."""

    def on_started(self, running: RunningRequest) -> None:
        """The program has been started. Before that, nothing has been sent to the backend."""

    async def on_node(self, node: str) -> None:
        """A worker of a cluster has taken the request; none, if it is empty: that one has passed it
        on."""

    async def on_event(self, event: Event) -> None:
        """The next event of the turn."""

    def may_continue(self, result: Result) -> str | None:
        """Why there may be no further turn after this result; None if there may."""


class Allowance(Struct, frozen=True, omit_defaults=True):
    """What is left for further turns of the tasks that run."""

    ended: str | None = None  # why there are none
    cost: float | None = None  # US dollars; None: no cap
    tokens: float | None = None

    def why_not(self, result: Result) -> str | None:
        """Why a task may have no further turn after this result; None if it may."""
        if self.ended is not None:
            return self.ended
        used = (result.cost or 0.0, result.usage.counted if result.usage else 0)
        caps = zip((self.cost, self.tokens), used, strict=True)
        return BUDGET_SPENT if any(cap is not None and use >= cap for cap, use in caps) else None


@runtime_checkable
class KnowsAllowance(Protocol):
    """An executor whose tasks ask elsewhere whether they may have a further turn."""

    def share_allowance(self, allowance: Allowance) -> None:
        """What is left has changed."""


@runtime_checkable
class HasWorkers(Protocol):
    """An executor whose requests begin when a worker has taken them: see `Reporter.on_node`."""

    waits_for_workers: bool


class Executor(Protocol):
    """Runs requests, here or elsewhere. It decides the directory: the request's `cwd`, or one that
    corresponds to it."""

    async def describe(self, request: Request) -> str:
        """The command that `run` would start. Raises `ClinvkError` if there is none."""
        ...

    async def run(self, request: Request, reporter: Reporter) -> Result:
        """The result of the request. Cancelling the scope in which this is awaited stops the
        program. Raises an exception if nothing could be started; once something has started, its
        failure is in the result. Exceptions of the reporter are passed on, after the program has
        been stopped."""
        ...


@runtime_checkable
class KeepsNews(Protocol):
    """An executor that has what is to be known about the attempts at a task until that is recorded."""

    def forget(self, task: int) -> None:
        """The end of the task is recorded, with all attempts at it."""

    async def close(self) -> None:
        """The run has ended."""


Finish = Callable[[Result], Awaitable[Result]]


CheckDirectories = Callable[[Request, Path | None], None]


def _no_check(request: Request, worktree: Path | None) -> None: ...


class LocalExecutor:
    """Runs requests on this machine."""

    def __init__(self, dispatcher: Dispatcher, check: CheckDirectories = _no_check) -> None:
        """`check` gets the request when its directory is there, and the root of its worktree if it has one;
        it raises `ClinvkError` if that may not be run. It is called in a thread."""
        self.dispatcher = dispatcher
        self.check = check

    async def describe(self, request: Request) -> str:
        return str((await self.dispatcher.aplan(request)).command)

    async def run(self, request: Request, reporter: Reporter) -> Result:
        if request.worktree is None:
            await self._check(request, None)
            return await self._run(request, reporter, _unchanged)
        # Only with a worktree.
        from clinvk.worktrees.attempt import AttemptInWorktree, with_worktree

        wanted, dispatcher = request.worktree, self.dispatcher
        manifest = dispatcher.selector.select(request.to or request.backend).manifest
        inside = AttemptInWorktree(
            dispatcher.config.home, wanted.run, wanted.wanted, wanted.attempt,
            env=dispatcher.env, notify=reporter.on_notice, copied=tuple(manifest.worktree.copy),
            start=wanted.start, tip=wanted.tip,
        )  # fmt: skip
        await inside.begin()
        there = request.replace(worktree=None, cwd=inside.cwd, started_in=inside.started_in)
        await self._check(there, inside.place.path)
        return await self._run(there, reporter, lambda result: with_worktree(result, inside))

    async def _check(self, request: Request, worktree: Path | None) -> None:
        if self.check is not _no_check:
            await in_thread(lambda: self.check(request, worktree))

    async def _run(self, request: Request, reporter: Reporter, finish: Finish) -> Result:
        """`finish` gets the result of the turn, and returns that of the request."""
        async with self.dispatcher.stream(
            request, reporter.on_notice, reporter.may_continue
        ) as turn:
            session = turn.plan.session
            running = RunningRequest(
                cancel=turn.cancel,
                session_id=session.id if session else None,
                cwd=turn.plan.command.cwd,
            )
            reporter.on_started(running)
            async for event in turn:
                await reporter.on_event(event)
            return await finish(turn.result)
        raise AssertionError("unreachable: the stream raises what went wrong")


async def _unchanged(result: Result) -> Result:
    return result
