"""Sends the messages of a conversation in an event loop, asyncio's or trio's, and stops their turns."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Protocol

import anyio

from clinvk.dispatch.off_loop import StoreCalls
from clinvk.model.events import Event, RateLimit
from clinvk.model.request import Request
from clinvk.model.result import Result
from clinvk.process.threads import in_thread
from clinvk.repl.conversation import Conversation

if TYPE_CHECKING:
    from clinvk.dispatch.series.turn_series import TurnSeries
    from clinvk.dispatch.turn import Turn
    from clinvk.engine.prompt_run import PromptRun
    from clinvk.model.plan import Worktree


OnEvent = Callable[[Event], Awaitable[None]]


class Listener(Protocol):
    """Shows a turn."""

    def notify(self, message: str) -> None:
        """Show a message before there are events."""

    def begin(self, turn: Turn | TurnSeries) -> None:
        """Its program has been started."""

    async def show(self, event: Event) -> None:
        """Show an event."""


class Sender:
    """Holds the turn that is running: one at a time."""

    def __init__(self, conversation: Conversation) -> None:
        self._conversation = conversation
        self._turn: Turn | TurnSeries | None = None
        self._run: PromptRun | None = None  # by which a worktree is being created
        self._scope: anyio.CancelScope | None = None

    async def send(self, request: Request, listener: Listener) -> Result | None:
        """Run a turn, whose events `listener` shows; its result, or None if it was stopped before
        anything ran. Raises `ClinvkError` before anything runs."""
        conversation = self._conversation
        result: Result | None = None
        if conversation.creates_session:
            request, created = await in_thread(lambda: conversation.begin(request))
        else:
            request, created = conversation.begin(request)
        try:
            with anyio.CancelScope() as self._scope:
                result = await self._send(request, listener)
        finally:
            turn, self._turn, self._scope, self._run = self._turn, None, None, None
            if result is None and turn is not None:
                result = turn.result
            if result is not None:
                with anyio.CancelScope(shield=True):
                    store = conversation.dispatcher.store
                    await StoreCalls(store)(partial(conversation.account, result))
            else:
                conversation.abandon(created)
        return result

    def stop(self, reason: str = "cancelled", *, now: bool = False) -> bool:
        """Stop the running turn and all that it started; `now` kills them. Return whether there was
        one."""
        if self._turn is not None:
            self._turn.cancel(reason, now=now)
        elif self._run is not None:
            self._run.stop(reason, now=now)
        elif self._scope is not None:
            self._scope.cancel()
        else:
            return False
        return True

    async def _send(self, request: Request, listener: Listener) -> Result | None:
        conversation = self._conversation
        if conversation.worktree.wanted is not None:
            self._run = await self._create_run(request, conversation.worktree.wanted, listener)
        if self._run is not None:
            result = await self._run.run()
            return result if self._turn is not None else None  # it was stopped before
        await in_thread(lambda: conversation.watch(request))
        async with conversation.dispatcher.stream(request, listener.notify) as turn:
            await self._show(turn, listener)
        return turn.result

    async def _create_run(
        self, request: Request, wanted: Worktree, listener: Listener
    ) -> PromptRun | None:
        """The run that sends the request in a new worktree; None if its session has one. Raises
        `ClinvkError` if there can be none."""
        # Only with a worktree.
        from clinvk.engine.prompt_run import PromptRun, in_own_worktree, prepare_run

        dispatcher = self._conversation.dispatcher

        async def follow(
            turn: Turn | TurnSeries,
            on_event: OnEvent,
            finish: Callable[[Result], Awaitable[Result]],
        ) -> Result:
            await self._show(turn, listener, on_event)
            return await finish(turn.result)

        def create(notify: Callable[[str], None]) -> PromptRun | None:
            if in_own_worktree(dispatcher, request):
                return None
            return PromptRun(dispatcher, request, wanted, notify=notify, follow=follow)

        return await prepare_run(create, listener.notify)

    async def _show(
        self, turn: Turn | TurnSeries, listener: Listener, on_event: OnEvent | None = None
    ) -> None:
        """Show a turn to its end. `on_event` gets each event before that."""
        conversation = self._conversation
        self._turn = turn
        if conversation.session is None and turn.plan.session is not None:
            conversation.take_session(turn.plan.session)
        listener.begin(turn)
        # Of a new worktree, which nothing has looked at before.
        conversation.changes.begin(str(turn.plan.command.cwd))
        async for event in turn:
            if on_event is not None:
                await on_event(event)
            if isinstance(event, RateLimit):
                conversation.limited_until = event.retry_at if event.reached else None
            if not conversation.is_told(event, turn.plan.notices):
                await listener.show(event)
