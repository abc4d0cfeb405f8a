"""Store calls that do not block the event loop.

A call that takes a moment is made on the loop, since a thread would cost more than the call. If it
would block longer, the store raises `WouldWait` before it has changed anything, and the call is
made in a thread. If it has to wait for another process there, it is repeated until it succeeds, so
no thread is occupied for long and the caller can be cancelled in between. A call that has started
is never abandoned at once: a caller that is cancelled waits for it, up to a limit.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from math import inf
from typing import TYPE_CHECKING, Any, Generic, TypeVar
from weakref import WeakKeyDictionary

from clinvk.disk.waiting import Patience, WouldWait, limit_patience
from clinvk.errors import SessionError
from clinvk.store.base import Store

if TYPE_CHECKING:
    import anyio
    from anyio.lowlevel import RunVar

T = TypeVar("T")

CALLS = 32  # calls of one store in threads at a time, unless the store says otherwise
FIRST_PAUSE, LONGEST_PAUSE = 0.001, 0.05  # seconds between attempts
# Seconds between attempts on the loop while a lock is held. Threads that wait for it would slow down
# the one that holds it, so that more calls would have to wait.
HELD_PAUSES = (0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064)
SLOW_AFTER = 0.25  # seconds after which a call is watched, so that its caller can be cancelled
POLL_INTERVAL = 0.05  # seconds between looks at a call that is being watched
ENDED_TIMEOUT = 2.0  # seconds for each call, once the turn has been cancelled
HURRIED_TIMEOUT = 0.5  # the same, once it has been asked to stop at once


class StoreGaveUp(SessionError):  # noqa: N818 - reads as what it says
    """The turn was cancelled, and the store did not answer soon enough after that."""


class StoreCalls:
    """The store calls of one turn."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._limit = inf  # seconds for each call
        self._limited_at = -inf  # on the monotonic clock
        self._gave_up = False
        self._queued: anyio.CancelScope | None = None  # a call that is waiting for its thread
        self._limiters: tuple[anyio.CapacityLimiter, anyio.CapacityLimiter] | None = None

    async def __call__(
        self, function: Callable[[], T], undo: Callable[[T], object] = lambda _: None
    ) -> T:
        """The value of `function`, which calls the store. It may be called several times and in a
        thread; only its last store call may change anything. `undo` is called with the value if it
        is there only after the caller was cancelled. Raises what `function` raises, and
        `StoreGaveUp`."""
        for pause in (*HELD_PAUSES, None):
            try:
                with limit_patience(Patience.NONE):
                    return function()
            except WouldWait as wait:
                if pause is None or not wait.is_held:
                    break
            import anyio  # 45 ms: needed only once something runs

            with anyio.CancelScope(shield=True):
                await anyio.sleep(pause)
        return await self._call_off_loop(function, undo)

    def limit_wait(self, seconds: float) -> None:
        """Wait at most this many seconds for each call from now on, and for the one in progress."""
        if seconds < self._limit:
            self._limit, self._limited_at = seconds, time.monotonic()
            if self._queued is not None:
                import anyio  # 45 ms: needed only once something runs

                self._queued.deadline = anyio.current_time() + seconds

    async def _call_off_loop(self, function: Callable[[], T], undo: Callable[[T], object]) -> T:
        import anyio  # 45 ms: needed only once something runs

        if self._gave_up:
            raise StoreGaveUp("the store did not answer before either")
        began_at, pause = time.monotonic(), FIRST_PAUSE
        if self._limiters is None:  # of this event loop, where all of its calls are made
            self._limiters = _limiter_of(self.store), _limiter_of(None)
        limiter, _ = self._limiters
        while True:
            call = _Call(function, undo)
            try:
                await self._acquire(limiter, call, began_at)
                try:
                    return await self._call_in_thread(call, began_at)
                finally:
                    limiter.release_on_behalf_of(call)
            except WouldWait as wait:
                if self._is_over(began_at):
                    raise self._give_up(wait.error.message, wait.error.hint) from None
                if time.monotonic() - began_at >= wait.timeout:
                    raise wait.error from None
            await anyio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)

    async def _acquire(
        self, limiter: anyio.CapacityLimiter, call: _Call[T], began_at: float
    ) -> None:
        """Wait until fewer calls of the store are in threads. Raises `StoreGaveUp`."""
        import anyio  # 45 ms: needed only once something runs

        try:
            limiter.acquire_on_behalf_of_nowait(call)
        except anyio.WouldBlock:
            with anyio.move_on_after(self._seconds_left(began_at)) as self._queued:
                await limiter.acquire_on_behalf_of(call)
                return
            raise self._give_up("the store does not answer", None) from None

    async def _call_in_thread(self, call: _Call[T], began_at: float) -> T:
        import anyio.lowlevel  # 45 ms: needed only once something runs

        try:
            await self._start(call, min(SLOW_AFTER, self._limit))
            while not call.has_ended:
                if anyio.current_effective_deadline() == -inf:  # we are cancelled
                    self.limit_wait(ENDED_TIMEOUT)
                if self._is_over(began_at):
                    await anyio.lowlevel.checkpoint_if_cancelled()
                    raise self._give_up("the store does not answer", None)  # noqa: TRY301
                if call.has_begun:
                    with anyio.CancelScope(shield=True):
                        await anyio.sleep(POLL_INTERVAL)
                else:  # the time was up before a thread started it, on a busy machine
                    await self._start(call, SLOW_AFTER)
        except BaseException:
            call.abandon()
            raise
        if call.has_failed:
            await anyio.lowlevel.checkpoint_if_cancelled()  # the failure no longer matters
        return call.result()

    async def _start(self, call: _Call[T], seconds: float) -> None:
        """Make the call in a thread, and wait for it no longer than this."""
        import anyio.to_thread  # 45 ms: needed only once something runs

        _, unlimited = self._limiters or (None, _limiter_of(None))
        with anyio.move_on_after(seconds, shield=True):
            try:
                await anyio.to_thread.run_sync(call.make, abandon_on_cancel=True, limiter=unlimited)
            except RuntimeError:  # no thread can be started
                call.make()

    def _seconds_left(self, began_at: float) -> float:
        return max(began_at, self._limited_at) + self._limit - time.monotonic()

    def _is_over(self, began_at: float) -> bool:
        return self._seconds_left(began_at) <= 0

    def _give_up(self, message: str, hint: str | None) -> StoreGaveUp:
        self._gave_up = True
        return StoreGaveUp(message, hint)


class _Call(Generic[T]):
    """One call, which is made once."""

    def __init__(self, function: Callable[[], T], undo: Callable[[T], object]) -> None:
        self._function = function
        self._undo = undo
        self._lock = threading.Lock()
        self._values: list[T] = []
        self._error: BaseException | None = None
        self._is_abandoned = False
        self.has_begun = False
        self.has_ended = False

    def make(self) -> None:
        """Make the call, unless it has been made or abandoned."""
        with self._lock:
            if self.has_begun or self._is_abandoned:
                return
            self.has_begun = True
        try:
            with limit_patience(Patience.BRIEF):
                self._values.append(self._function())
        except BaseException as error:  # noqa: BLE001 - raised again where it is awaited
            self._error = error
        with self._lock:
            self.has_ended = True
            self._undo_if_abandoned()

    def abandon(self) -> None:
        """The caller no longer waits for it."""
        with self._lock:
            self._is_abandoned = True
            self._undo_if_abandoned()

    @property
    def has_failed(self) -> bool:
        return self._error is not None

    def result(self) -> T:
        if self._error is not None:
            raise self._error
        return self._values[0]

    def _undo_if_abandoned(self) -> None:
        while self._is_abandoned and self.has_ended and self._values:
            self._undo(self._values.pop())


_limiters: RunVar[WeakKeyDictionary[Any, anyio.CapacityLimiter]] | None = None


def _limiter_of(store: Store | None) -> anyio.CapacityLimiter:
    """Limits the calls of this store that are in threads, for this event loop. None: no limit."""
    import anyio.lowlevel  # 45 ms: needed only once something runs

    global _limiters  # noqa: PLW0603 - created once anyio is there; its values belong to one loop
    if _limiters is None:
        _limiters = anyio.lowlevel.RunVar("clinvk stores")
    known = _limiters.get(None)
    if known is None:
        known = WeakKeyDictionary()
        _limiters.set(known)
    key = store or _UNLIMITED
    if key not in known:
        calls = inf if store is None else getattr(store, "concurrent_calls", CALLS)
        known[key] = anyio.CapacityLimiter(calls)
    return known[key]


class _Unlimited:
    """Stands for all stores."""


_UNLIMITED = _Unlimited()
