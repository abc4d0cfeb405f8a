"""The lease of an attempt: renewed while it runs, with the events since, and given up in time."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import anyio
import msgspec

from clinvk.cluster.ledger.ledger import Beat, Ledger, Owner
from clinvk.cluster.worker.settings import RUN, STOP_NOW, Orders
from clinvk.cluster.worker.supervisor import boot_clock
from clinvk.process.threads import in_thread

if TYPE_CHECKING:
    from clinvk.cluster.worker.supervisor import Guard

BEATS = 8  # in a lease, at least
LONGEST_INTERVAL = 0.5  # seconds between renewals: a cancellation is seen that late
EVENT_PAUSE = 0.2  # seconds for which events are collected, at least
PAUSE_FACTOR = 10  # they are collected for that many times what it takes to report them
OWN_SHARE = 0.6  # of a lease without a renewal, after which the program is stopped
GUARD_SHARE = 0.85  # after which the supervisor kills it, or a little earlier:
TOLD_SHARE = 0.1  # of a lease between renewals that the supervisor is told of
MAX_BATCH = 500  # events in one renewal
MAX_PENDING = 5_000  # events that wait for the server; the program waits then
MAX_BATCH_BYTES = 8 * 1024 * 1024

Stop = Callable[[str, bool], None]  # the reason, and whether to kill at once


class Lease:
    """The lease of a running attempt. `stop` is called at most twice: if the attempt is cancelled,
    or if the lease is lost."""

    def __init__(
        self,
        ledger: Ledger,
        owner: Owner,
        orders: Orders,
        stop: Stop,
        guard: Guard,
        marker: str,
        claimed_at: float,
        say: Callable[[str], None],
    ) -> None:
        self.ledger = ledger
        self.owner = owner
        self.lost: str | None = None  # why it was given up
        self.asked: str | None = None  # why the attempt was stopped on request
        self.order = RUN  # of the worker
        self._orders = orders
        self._stop = stop
        self._guard = guard
        self._marker = marker
        self._renewed_at = claimed_at  # on `boot_clock`
        self._say = say
        self._pending: list[tuple[str, bytes]] = []
        self._reported = 0
        self._wake = anyio.Event()
        self._drained = anyio.Event()
        self._kills = False
        self._beating = anyio.Lock()
        self._has_ended = False
        self._told_at = float("-inf")  # the renewal that the supervisor knows of
        self._report_time = 0.0  # seconds that the last report took
        self._watch()

    async def add(self, kind: str, data: bytes) -> None:
        """Report something; waits if the server has been slow for long."""
        self.add_nowait(kind, data)
        while len(self._pending) > MAX_PENDING and self.lost is None:
            await self._drained.wait()

    def add_nowait(self, kind: str, data: bytes) -> None:
        self._pending.append((kind, data))
        self._wake.set()

    async def keep(self) -> None:
        """Renew it until this is cancelled, or it is lost."""
        interval = min(LONGEST_INTERVAL, self.ledger.lease / BEATS)
        while self.lost is None:
            with anyio.move_on_after(interval):
                await self._wake.wait()
                await anyio.sleep(max(EVENT_PAUSE, PAUSE_FACTOR * self._report_time))
            self._wake = anyio.Event()
            await self._beat(interval)
            self._follow_orders()

    async def watch(self) -> None:
        """Stop the program in time if the lease cannot be renewed."""
        most = self.ledger.lease * OWN_SHARE
        while self.lost is None:
            left = self._renewed_at + most - boot_clock()
            if left <= 0:
                self._lose(f"Redis did not answer for {most:g} s")
                return
            # Not for long at a time: the clock of the event loop stands still while a laptop sleeps.
            await anyio.sleep(min(left, 1.0))

    async def finish(self, result: bytes, session: str | None) -> None:
        """Report the end, with all that is left. It is renewed until that has succeeded. Raises the
        errors of redis-py, after which this may be called again."""
        interval = min(LONGEST_INTERVAL, self.ledger.lease / BEATS)
        while self._count_next() < len(self._pending) and self.lost is None:
            await self._beat(interval)
        async with self._beating:  # so that no event is reported by both
            batch = self._next_batch()
            await in_thread(
                lambda: self.ledger.finish(self.owner, result, session, self._reported, batch)
            )
            self._pending.clear()

    def end(self) -> None:
        """Nothing runs any more."""
        if not self._has_ended:
            self._has_ended = True
            self._guard.release(self._marker)

    async def _beat(self, pause: float) -> None:
        async with self._beating:
            await self._renew(pause)

    async def _renew(self, pause: float) -> None:
        batch = self._next_batch()
        sent_at = boot_clock()
        try:
            answer = await in_thread(partial(self.ledger.beat, self.owner, self._reported, batch))
        except Exception as error:  # noqa: BLE001 - whatever it is, the lease is not renewed
            self._say(f"the lease could not be renewed: {error}")
            await anyio.sleep(pause)
            return
        if answer.status == "ok":
            self._report_time = boot_clock() - sent_at
            self._renewed_at = sent_at
            self._watch()
            self._reported += len(batch)
            del self._pending[: len(batch)]
            self._drained.set()
            self._drained = anyio.Event()
            self._obey(answer)
        elif answer.status == "ended":
            self._pending.clear()
        elif answer.status == "missing":
            self._lose("Redis has lost its data, and with it the claim of this task")
        else:
            self._lose("its lease had expired, and was given up")

    def _next_batch(self) -> list[tuple[str, bytes]]:
        return self._pending[: self._count_next()]

    def _count_next(self) -> int:
        """The number of events that are reported at a time."""
        size, count = 0, 0
        for _, data in self._pending[:MAX_BATCH]:
            size += len(data)
            if count and size > MAX_BATCH_BYTES:
                break
            count += 1
        return count

    def _watch(self) -> None:
        """Tell the supervisor how long to wait; not of each renewal, since it wakes up for that."""
        if (
            not self._has_ended
            and self._renewed_at >= self._told_at + self.ledger.lease * TOLD_SHARE
        ):
            self._told_at = self._renewed_at
            until = self._renewed_at + self.ledger.lease * GUARD_SHARE
            self._guard.watch(self._marker, until, msgspec.to_builtins(self.owner))

    def _obey(self, answer: Beat) -> None:
        """Stop if the submitter has asked for it."""
        if not answer.asked or (self.asked is not None and (self._kills or answer.asked != "now")):
            return
        self.asked = answer.reason
        self._kills = answer.asked == "now"
        self._stop(answer.reason, self._kills)

    def _follow_orders(self) -> None:
        """Stop if the worker ends."""
        order = self._orders.current
        if order > self.order:
            self.order = order
            self._stop(f"the worker {self.owner.node} was shut down", order == STOP_NOW)

    def _lose(self, why: str) -> None:
        self.lost = why
        self._drained.set()
        self._say(f"stopped: {why}")
        self._stop(why, True)
