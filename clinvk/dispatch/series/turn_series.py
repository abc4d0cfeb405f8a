"""Several turns that look like one: what a turn needs to continue in another one."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from typing import TYPE_CHECKING, Any, ClassVar, Self

import anyio
from msgspec import Struct
from msgspec.structs import replace

from clinvk.errors import ClinvkError
from clinvk.model.events import Event, Failed, Notice
from clinvk.model.request import Request
from clinvk.model.result import EXIT_CODES, Denial, Failure, Result, describe_failure
from clinvk.model.usage import sum_costs

if TYPE_CHECKING:
    from clinvk.dispatch.turn import Turn
    from clinvk.dispatch.turn_plan import TurnPlan


Open = Callable[[Request, Callable[[str], None]], AbstractAsyncContextManager["Turn | TurnSeries"]]


class NextTurn(Struct, frozen=True):
    """The turn that follows: its request, what the user is told, and when it may begin."""

    request: Request
    notice: str
    until: datetime | None = None


class TurnSeries:
    """Looks like a `Turn`. Its events, its usage and its cost are those of all turns. A subclass
    says which turn follows one that failed, and of which `kind` of failure."""

    kind: ClassVar[str]

    def __init__(self, open_turn: Open, request: Request, notify: Callable[[str], None]) -> None:
        self._open_turn = open_turn
        self._request = request  # of the current turn
        self._notify = notify
        self._context: AbstractAsyncContextManager[Turn | TurnSeries] | None = None
        self._turn: Turn | TurnSeries | None = None
        self._ended: list[Result] = []  # of the turns before the current one
        self._next: NextTurn | None = None
        self._scope: anyio.CancelScope | None = None  # while the next turn is being opened
        self._cancelled: str | None = None
        self._result: Result | None = None

    async def __aenter__(self) -> Self:
        await self._start()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._close(*error)

    async def _start(self) -> None:
        await self._open()

    def _choose_next(self, event: Failed, result: Result) -> NextTurn | None:
        """The turn after the one that ended with this event; None if there is none."""
        raise NotImplementedError

    async def _open_next(self, following: NextTurn) -> None:
        self._request = following.request
        await self._open()

    def _explain(self, error: ClinvkError, last: Result) -> Failure | None:
        """The failure of a series whose next turn could not be opened."""
        raise NotImplementedError

    # As of a turn.

    @property
    def is_between_turns(self) -> bool:
        return self._next is not None

    @property
    def plan(self) -> TurnPlan:
        return self._current.plan

    @property
    def result(self) -> Result:
        return self._result if self._result is not None else self._combine(self._current.result)

    @property
    def marker(self) -> str:
        return self._current.marker

    @property
    def native_id(self) -> str | None:
        return self._current.native_id

    @property
    def model(self) -> str | None:
        return self._current.model

    @property
    def denied(self) -> list[Denial]:
        denied = [d for result in self._ended for d in result.denied]
        return denied if self.is_between_turns else [*denied, *self._current.denied]

    @property
    def deadline(self) -> float:
        return float("inf") if self.is_between_turns else self._current.deadline

    @property
    def pending(self) -> bool:
        return not self.is_between_turns and self._current.pending

    def has_unread_output(self) -> bool:
        return not self.is_between_turns and self._current.has_unread_output()

    def cancel(self, reason: str = "cancelled", *, now: bool = False) -> None:
        self._cancelled = self._cancelled or reason
        if self._scope is not None:
            self._scope.cancel()
        else:
            self._current.cancel(reason, now=now)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        if self._result is not None:
            raise StopAsyncIteration
        if self._next is not None and (event := await self._continue(self._next)):
            return event
        event = await self._current.__anext__()
        if not (isinstance(event, Failed) and event.kind == self.kind) or self._cancelled:
            return event
        result = self._current.result
        self._next = self._choose_next(event, result)
        if self._next is None:
            return event
        self._ended.append(result)
        said = describe_failure(result.backend, event.message)
        return Notice(message=f"{said}; {self._next.notice}")

    async def _continue(self, following: NextTurn) -> Event | None:
        """Open the next turn; the last event instead if it was cancelled or could not be."""
        with anyio.CancelScope() as self._scope:
            await self._close(None, None, None)
            try:
                await self._open_next(following)
            except ClinvkError as error:
                return self._give_up(self._explain(error, self._ended[-1]))
        cancelled = self._scope.cancelled_caught
        self._scope = self._next = None
        if cancelled:
            return self._give_up(Failure("cancelled", self._cancelled or "cancelled"))
        if self._cancelled is not None:  # too late to prevent the turn
            self._current.cancel(self._cancelled)
        return None

    def _give_up(self, failure: Failure | None) -> Event:
        """End with the last turn, and this failure."""
        last = self._ended.pop()
        self._scope = self._next = None
        failure = failure or Failure(self.kind, self.kind)
        code = EXIT_CODES.get(failure.kind, last.exit_code)
        self._result = self._combine(replace(last, ok=False, error=failure, exit_code=code))
        return Failed(
            kind=failure.kind, message=failure.message, hint=failure.hint,
            retry_at=failure.retry_at, usage=self._result.usage, cost=self._result.cost,
        )  # fmt: skip

    async def _open(self) -> None:
        context = self._open_turn(self._request, self._notify)
        self._turn = await context.__aenter__()
        self._context = context

    async def _close(self, *error: Any) -> None:
        context, self._context = self._context, None
        if context is not None:
            await context.__aexit__(*error)

    @property
    def _current(self) -> Turn | TurnSeries:
        if self._turn is None:
            raise RuntimeError("the turn has not started")
        return self._turn

    def _combine(self, result: Result) -> Result:
        """The result with the usage, the cost and the time of the turns before it. The cost is
        unknown if a turn that has used tokens did not report it."""
        if not self._ended:
            return result
        every = [*self._ended, result]
        usages = [r.usage for r in every if r.usage is not None]
        costs = [r.cost for r in every if r.cost is not None or r.usage is not None]
        return replace(
            result,
            usage=sum(usages[1:], usages[0]) if usages else None,
            cost=sum_costs(costs),
            seconds=sum(r.seconds for r in every),
            denied=tuple(d for r in every for d in r.denied),
        )
