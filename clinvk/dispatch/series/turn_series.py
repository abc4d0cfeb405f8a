"""Several turns that look like one: what a turn needs to continue in another one."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any, Self

import anyio
from msgspec.structs import replace

from clinvk.model.events import Event, Failed
from clinvk.model.request import Request
from clinvk.model.result import EXIT_CODES, Denial, Failure, Result
from clinvk.model.usage import sum_costs

if TYPE_CHECKING:
    from clinvk.dispatch.turn import Turn
    from clinvk.dispatch.turn_plan import TurnPlan


Open = Callable[[Request, Callable[[str], None]], AbstractAsyncContextManager["Turn | TurnSeries"]]


class TurnSeries:
    """Looks like a `Turn`. Its events, its usage and its cost are those of all turns."""

    def __init__(self, open_turn: Open, request: Request, notify: Callable[[str], None]) -> None:
        self._open_turn = open_turn
        self._request = request  # of the current turn
        self._notify = notify
        self._context: AbstractAsyncContextManager[Turn | TurnSeries] | None = None
        self._turn: Turn | TurnSeries | None = None
        self._ended: list[Result] = []  # of the turns before the current one
        self._scope: anyio.CancelScope | None = None  # while no turn runs
        self._cancelled: str | None = None
        self._result: Result | None = None

    async def __aenter__(self) -> Self:
        await self._start()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._close(*error)

    @property
    def is_between_turns(self) -> bool:
        raise NotImplementedError

    async def _start(self) -> None:
        await self._open()

    # As of a turn.

    @property
    def plan(self) -> TurnPlan:
        return self._current.plan

    @property
    def result(self) -> Result:
        return self._result if self._result is not None else self._combine(self._current.result)

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

    def _pass_on_cancel(self) -> None:
        """Cancel the turn that has just been opened, if that was asked for too late to prevent
        it."""
        if self._cancelled is not None:
            self._current.cancel(self._cancelled)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        raise NotImplementedError

    def _give_up(self, failure: Failure | None, otherwise: str) -> Event:
        """End with the last turn, and this failure; `otherwise` is its kind if there is none."""
        last = self._ended.pop()
        self._scope = None
        failure = failure or Failure(otherwise, otherwise)
        code = EXIT_CODES.get(failure.kind, last.exit_code)
        self._result = self._combine(replace(last, error=failure, exit_code=code))
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
