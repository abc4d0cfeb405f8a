"""A turn that asks again if the answer does not match its schema."""

from __future__ import annotations

import anyio
from msgspec.structs import replace

from clinvk.dispatch.series.turn_series import TurnSeries
from clinvk.errors import ClinvkError
from clinvk.model.events import Event, Failed, Notice
from clinvk.model.request import Request
from clinvk.model.result import Failure, Result
from clinvk.model.session_ref import SessionById

DEFAULT_RETRIES = 1  # further turns for an answer that matches


class RepairedTurn(TurnSeries):
    """Looks like a `Turn`. An answer that does not match is followed by a turn of the same session
    that says what is wrong with it, as often as `schema_retries` allows."""

    _next: Request | None = None

    @property
    def is_between_turns(self) -> bool:
        return self._next is not None

    async def __anext__(self) -> Event:
        if self._result is not None:
            raise StopAsyncIteration
        if self._next is not None and (event := await self._ask_again(self._next)):
            return event
        event = await self._current.__anext__()
        if not (isinstance(event, Failed) and event.kind == "schema") or self._cancelled:
            return event
        result = self._current.result
        following = self._repair_request(result)
        if following is None:
            return event
        self._ended.append(result)
        self._next = following
        return Notice(message=f"{result.backend}: {event.message}; asking again")

    def _repair_request(self, result: Result) -> Request | None:
        """The request that repairs the answer; None if it may not or cannot be repaired."""
        plan = self._current.plan
        setting = plan.settings.get("schema_retries")
        retries = DEFAULT_RETRIES if setting is None else setting.value
        is_kept = result.session_id is not None and plan.manifest.resumes
        if len(self._ended) >= retries or not is_kept or plan.schema is None:
            return None
        return self._request.replace(
            prompt=plan.schema.repair_prompt(result.error.message if result.error else ""),
            session=SessionById(result.session_id or ""),
            backend=None, to=None, replay=False, title=None, tags=(),
        )  # fmt: skip

    async def _ask_again(self, request: Request) -> Event | None:
        """Open the next turn; the last event instead if that was cancelled or is impossible."""
        # The first turn is closed in a scope of its own, so that it can be cancelled meanwhile.
        with anyio.CancelScope() as self._scope:
            await self._close(None, None, None)
            self._request = request
            try:
                await self._open()
            except ClinvkError as error:
                self._next = None
                return self._give_up(_not_repaired(self._ended[-1], error), "schema")
        cancelled = self._scope.cancelled_caught
        self._scope = self._next = None
        if cancelled:
            return self._give_up(Failure("cancelled", self._cancelled or "cancelled"), "cancelled")
        self._pass_on_cancel()
        return None

    def _combine(self, result: Result) -> Result:
        combined = super()._combine(result)
        if result.structured_attempts is None:
            return combined
        return replace(combined, structured_attempts=len(self._ended) + 1)


def _not_repaired(result: Result, problem: ClinvkError) -> Failure | None:
    """The failure of the answer, with why it could not be repaired."""
    if result.error is None:
        return None
    return replace(result.error, hint=f"asking again failed: {problem.message}")
