"""A turn that continues on another backend, or after a wait, when a rate limit ends it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Self

import anyio
from msgspec import Struct
from msgspec.structs import replace

from clinvk.backend.options import BACKEND_SPECIFIC
from clinvk.dispatch.limit_check import format_time
from clinvk.errors import ConfigError, LimitError, NotInstalledError, UsageError
from clinvk.model.events import Event, Failed, Notice
from clinvk.model.request import Request
from clinvk.model.result import EXIT_CODES, Denial, Failure, Result
from clinvk.model.session_ref import SessionById
from clinvk.process import wall_clock
from clinvk.text.duration import format_duration

if TYPE_CHECKING:
    from clinvk.backend.catalog import Catalog
    from clinvk.config.schema import UnifiedFlags
    from clinvk.dispatch.turn import Turn
    from clinvk.dispatch.turn_plan import TurnPlan

FIRST_WAIT = timedelta(seconds=30)  # if the CLI does not say when its limit ends
LONGEST_WAIT = timedelta(minutes=15)  # between two attempts then
LONGEST_NAMED = timedelta(days=7)  # a provider that names a later end is wrong
MARGIN = timedelta(seconds=1)  # after the time that a provider names, since its clock may differ

Open = Callable[[Request, Callable[[str], None]], AbstractAsyncContextManager["Turn"]]


class LimitPolicy(Struct, frozen=True, kw_only=True):
    """What to do at a rate limit: use the first of `to` that is at none, then wait or fail."""

    to: tuple[str, ...] = ()
    waits: bool = False
    max_wait: float | None = None  # seconds


def policy_of(request: Request, flags: UnifiedFlags, catalog: Catalog) -> LimitPolicy:
    """The policy of a request, otherwise the configured one; what the request says about either
    part counts alone. Raises `UsageError`, and `NotInstalledError` for an unknown backend."""
    configured: Any = flags
    action = request.on_limit or (configured.on_limit if request.fallback is None else None)
    to: Any = request.fallback
    if to is None:
        to = () if request.on_limit else configured.fallback
    max_wait = configured.max_wait_secs if request.max_wait is None else request.max_wait
    policy = LimitPolicy(to=split_names(to), max_wait=max_wait)
    if action not in (None, "fail"):
        # Not needed for most prompts.
        from clinvk.plans.halt import parse_on_limit

        try:
            limits = parse_on_limit(action)
        except ValueError as error:
            raise UsageError(f"on_limit: {error}") from error
        both = tuple(dict.fromkeys((*limits.to, *policy.to)))
        policy = replace(policy, waits=limits.action == "wait", to=both)
    for name in policy.to:
        if catalog.find(name) is None:
            known = ", ".join(catalog.names())
            raise NotInstalledError(f"fallback: unknown backend {name!r}", f"known: {known}")
    return policy


def split_names(names: Any) -> tuple[str, ...]:
    """The backends of `--fallback codex,gemini`, however often it is given."""
    words = [names] if isinstance(names, str) else names
    return tuple(
        dict.fromkeys(name.strip() for word in words for name in word.split(",") if name.strip())
    )


class LimitedTurn:
    """Looks like a `Turn`. Its events and its usage are those of all attempts."""

    def __init__(
        self,
        open_turn: Open,
        request: Request,
        policy: LimitPolicy,
        notify: Callable[[str], None],
        clock: wall_clock.Clock = wall_clock.SYSTEM,
    ) -> None:
        self._open_turn = open_turn
        self._first = self._request = request
        self._policy = policy
        self._notify = notify
        self._clock = clock
        self._left = list(policy.to)  # backends that were not tried since the last wait
        self._limits: dict[str, datetime | None] = {}  # those at a limit, and when it ends
        self._requests: dict[str, Request] = {}  # the request of each
        self._waits = 0
        self._context: AbstractAsyncContextManager[Turn] | None = None
        self._turn: Turn | None = None
        self._ended: list[Result] = []  # attempts that a limit ended
        self._next: _Next | None = None
        self._scope: anyio.CancelScope | None = None
        self._cancelled: str | None = None
        self._result: Result | None = None

    async def __aenter__(self) -> Self:
        await self._start()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._close(*error)

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
        return [*(d for result in self._ended for d in result.denied), *self._current.denied]

    @property
    def deadline(self) -> float:
        return float("inf") if self._next else self._current.deadline

    @property
    def pending(self) -> bool:
        return self._next is None and self._current.pending

    def has_unread_output(self) -> bool:
        return self._next is None and self._current.has_unread_output()

    def cancel(self, reason: str = "cancelled", *, now: bool = False) -> None:
        self._cancelled = self._cancelled or reason
        if self._scope is not None:
            self._scope.cancel()
        else:
            self._current.cancel(reason, now=now)

    def __aiter__(self) -> LimitedTurn:
        return self

    async def __anext__(self) -> Event:
        if self._result is not None:
            raise StopAsyncIteration
        if self._next is not None and (event := await self._continue(self._next)):
            return event
        event = await self._current.__anext__()
        if not (isinstance(event, Failed) and event.kind == "limit") or self._cancelled:
            return event
        result = self._current.result
        self._note_limit(result.backend, event.retry_at, self._request)
        following = self._choose(result)
        if following is None:
            return event
        self._ended.append(result)
        self._next = following
        return Notice(message=f"{result.backend}: {event.message}; {following.notice}")

    # How it continues.

    async def _start(self) -> None:
        """Open the first turn whose backend is at no remembered limit. Raises `LimitError`."""
        while True:
            try:
                await self._open()
            except LimitError as error:
                self._note_limit(error.backend, error.retry_at, self._request)
                following = self._choose(None)
                if following is None:
                    raise self._all_limited(error) from error
                self._notify(f"{error.message}; {following.notice}")
                await self._prepare(following)
            except (NotInstalledError, ConfigError, UsageError) as error:
                if self._request is self._first:
                    raise
                self._notify(f"not using {self._request.to}: {error.message}")
                following = self._choose(self._ended[-1] if self._ended else None)
                if following is None:
                    raise
                await self._prepare(following)
            else:
                return

    async def _continue(self, following: _Next) -> Event | None:
        """Open the next turn; the last event instead if it was cancelled or could not be."""
        last = self._ended[-1]
        with anyio.CancelScope() as self._scope:
            await self._close(None, None, None)
            try:
                await self._prepare(following)
                await self._start()
            except LimitError as error:
                return self._give_up(Failure("limit", error.message, error.hint, error.retry_at))
            except (NotInstalledError, ConfigError, UsageError):
                return self._give_up(last.error)
        cancelled = self._scope.cancelled_caught
        self._scope = self._next = None
        if cancelled:
            return self._give_up(Failure("cancelled", self._cancelled or "cancelled"))
        return None

    def _give_up(self, failure: Failure | None) -> Event:
        """End with the last attempt, and this failure."""
        last = self._ended.pop()
        self._next = self._scope = None
        failure = failure or Failure("limit", "rate limit")
        code = EXIT_CODES.get(failure.kind, last.exit_code)
        self._result = self._combine(replace(last, error=failure, exit_code=code))
        return Failed(
            kind=failure.kind, message=failure.message, hint=failure.hint,
            retry_at=failure.retry_at, usage=self._result.usage, cost=self._result.cost,
        )  # fmt: skip

    def _choose(self, ended: Result | None) -> _Next | None:
        """The next backend of the policy, or a wait; None if there is neither."""
        while self._left:
            name = self._left.pop(0)
            if name not in self._limits:
                request = _switched(self._first, name)
                return _Next(_again(request, ended), f"using {name} instead")
        if not self._policy.waits:
            return None
        name, until = self._earliest()
        seconds = until.timestamp() - self._clock.now()
        most = self._policy.max_wait
        if most is not None and seconds > most:
            return None
        self._waits += 1
        request = _again(self._requests[name], ended)
        return _Next(request, f"waiting until {format_time(until)} (Ctrl-C to cancel)", until)

    def _earliest(self) -> tuple[str, datetime]:
        """The backend whose limit ends first, and when. An unknown end is some time ahead, and so is
        one in the past that was named repeatedly: a clock is wrong."""
        now = datetime.fromtimestamp(self._clock.now(), UTC)
        unknown = now + min(LONGEST_WAIT, FIRST_WAIT * 2 ** min(self._waits, 10))
        ends = {
            name: unknown
            if end is None or (end <= now and self._waits)
            else min(max(now, end), now + LONGEST_NAMED) + MARGIN
            for name, end in self._limits.items()
        }
        return min(ends.items(), key=lambda item: item[1])

    async def _prepare(self, following: _Next) -> None:
        if following.until is not None:
            await wall_clock.sleep_until(following.until, self._clock)
            self._left, self._limits = list(self._policy.to), {}
        self._request = following.request

    def _note_limit(self, backend: str, until: datetime | None, request: Request) -> None:
        self._limits[backend] = until
        self._requests[backend] = request

    def _all_limited(self, last: LimitError) -> LimitError:
        """The error of the limit that ends first."""
        ends = {name: end for name, end in self._limits.items() if end is not None}
        if len(self._limits) < 2 or not ends:
            return self._too_long(last)
        name, until = min(ends.items(), key=lambda item: item[1])
        names = ", ".join(self._limits)
        return LimitError(
            f"{names} are at a rate limit; that of {name} ends first, at {format_time(until)}",
            last.hint, backend=name, retry_at=until,
        )  # fmt: skip

    def _too_long(self, error: LimitError) -> LimitError:
        most = self._policy.max_wait
        if not self._policy.waits or most is None:
            return error
        text = f"{error.message}, which is more than {format_duration(most)} ahead (max_wait)"
        return LimitError(text, error.hint, backend=error.backend, retry_at=error.retry_at)

    async def _open(self) -> None:
        context = self._open_turn(self._request, self._notify)
        self._turn = await context.__aenter__()
        self._context = context

    async def _close(self, *error: Any) -> None:
        context, self._context = self._context, None
        if context is not None:
            await context.__aexit__(*error)

    @property
    def _current(self) -> Turn:
        if self._turn is None:
            raise RuntimeError("the turn has not started")
        return self._turn

    def _combine(self, result: Result) -> Result:
        """The result with the usage, the cost and the time of the attempts before it."""
        if not self._ended:
            return result
        every = [*self._ended, result]
        usages = [r.usage for r in every if r.usage is not None]
        costs = [r.cost for r in every if r.cost is not None]
        return replace(
            result,
            usage=sum(usages[1:], usages[0]) if usages else None,
            cost=sum(costs) if costs else None,
            seconds=sum(r.seconds for r in every),
            denied=tuple(d for r in every for d in r.denied),
        )


class _Next(Struct, frozen=True):
    """How it continues: with this request, at this time."""

    request: Request
    notice: str
    until: datetime | None = None


def _switched(request: Request, backend: str) -> Request:
    """The request for another backend, which gets the conversation so far."""
    options: Mapping[str, Any] = {
        name: value for name, value in request.options.items() if name not in BACKEND_SPECIFIC
    }
    return request.replace(to=backend, backend=None, options=options, args=(), lenient=True)


def _again(request: Request, ended: Result | None) -> Request:
    """The request again, in the session in which an attempt was ended."""
    if ended is None or ended.session_id is None:
        return request
    return request.replace(session=SessionById(ended.session_id), resends=True)
