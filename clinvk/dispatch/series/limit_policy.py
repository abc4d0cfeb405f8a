"""A turn that continues on another backend, or after a wait, when a rate limit ends it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from msgspec import Struct
from msgspec.structs import replace

from clinvk.backend.options import BACKEND_SPECIFIC
from clinvk.dispatch.limit_check import format_time
from clinvk.dispatch.series.turn_series import NextTurn, Open, TurnSeries
from clinvk.errors import ClinvkError, ConfigError, LimitError, NotInstalledError, UsageError
from clinvk.model.events import Failed
from clinvk.model.request import Request
from clinvk.model.result import Failure, Result
from clinvk.model.session_ref import SessionById
from clinvk.process import wall_clock
from clinvk.text.duration import format_duration

if TYPE_CHECKING:
    from clinvk.backend.catalog import Catalog
    from clinvk.config.schema import UnifiedFlags

FIRST_WAIT = timedelta(seconds=30)  # if the CLI does not say when its limit ends
LONGEST_WAIT = timedelta(minutes=15)  # between two attempts then
LONGEST_NAMED = timedelta(days=7)  # a provider that names a later end is wrong
MARGIN = timedelta(seconds=1)  # after the time that a provider names, since its clock may differ


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


class LimitedTurn(TurnSeries):
    """Looks like a `Turn`. Its events and its usage are those of all attempts."""

    kind = "limit"

    def __init__(
        self,
        open_turn: Open,
        request: Request,
        policy: LimitPolicy,
        notify: Callable[[str], None],
        clock: wall_clock.Clock = wall_clock.SYSTEM,
    ) -> None:
        super().__init__(open_turn, request, notify)
        self._first = request
        self._policy = policy
        self._clock = clock
        self._left = list(policy.to)  # backends that were not tried since the last wait
        self._limits: dict[str, datetime | None] = {}  # those at a limit, and when it ends
        self._requests: dict[str, Request] = {}  # the request of each
        self._waits = 0

    def _choose_next(self, event: Failed, result: Result) -> NextTurn | None:
        self._note_limit(result.backend, event.retry_at, self._request)
        return self._choose(result)

    async def _open_next(self, following: NextTurn) -> None:
        await self._prepare(following)
        await self._start()

    def _explain(self, error: ClinvkError, last: Result) -> Failure | None:
        if isinstance(error, LimitError):
            return Failure("limit", error.message, error.hint, error.retry_at)
        return last.error

    # How it continues.

    async def _start(self) -> None:
        """Open the first turn whose backend is at no remembered limit. Raises `LimitError`."""
        limited: LimitError | None = None
        while True:
            try:
                await self._open()
            except LimitError as error:
                limited = error
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
                if following is None and limited is not None:
                    raise self._all_limited(limited) from error
                if following is None:
                    raise
                await self._prepare(following)
            else:
                return

    def _choose(self, ended: Result | None) -> NextTurn | None:
        """The next backend of the policy, or a wait; None if there is neither."""
        while self._left:
            name = self._left.pop(0)
            if name not in self._limits:
                request = _switched(self._first, name)
                return NextTurn(
                    _again(request, ended), f"using {name} instead{_left_out(self._first)}"
                )
        if not self._policy.waits:
            return None
        name, until = self._earliest()
        seconds = until.timestamp() - self._clock.now()
        most = self._policy.max_wait
        if most is not None and seconds > most:
            return None
        self._waits += 1
        request = _again(self._requests[name], ended)
        return NextTurn(request, f"waiting until {format_time(until)} (Ctrl-C to cancel)", until)

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

    async def _prepare(self, following: NextTurn) -> None:
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
        hint = "allow more with --max-wait, or use another backend with --fallback BACKEND"
        return LimitError(text, hint, backend=error.backend, retry_at=error.retry_at)


def _switched(request: Request, backend: str) -> Request:
    """The request for another backend, which gets the conversation so far."""
    options: Mapping[str, Any] = {
        name: value for name, value in request.options.items() if name not in BACKEND_SPECIFIC
    }
    return request.replace(to=backend, backend=None, options=options, args=(), lenient=True)


def _left_out(request: Request) -> str:
    """What another backend does not get of the request, since it is only for the first one."""
    names = [
        request.spelled.get(name, name) for name in request.options if name in BACKEND_SPECIFIC
    ]
    names += ["the words after --"] if request.args else []
    return f", without {' and '.join(names)}" if names else ""


def _again(request: Request, ended: Result | None) -> Request:
    """The request again, in the session in which an attempt was ended."""
    if ended is None or ended.session_id is None:
        return request
    return request.replace(session=SessionById(ended.session_id), resends=True)
