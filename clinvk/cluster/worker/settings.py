"""What the processes of a worker share."""

from __future__ import annotations

import mmap
from collections.abc import Mapping, Sequence
from pathlib import Path

from msgspec import Struct

from clinvk.cluster.address import Address
from clinvk.cluster.keys import DRIVE
from clinvk.cluster.ledger.ledger import GRACE, LEASE
from clinvk.cluster.log.lease import LEASE as DRIVER_LEASE
from clinvk.config.schema import Loaded

RUN, STOP, STOP_NOW = range(3)  # what the processes of a worker are to do


class Orders:
    """A byte that all processes of a worker see: what they are to do with running attempts."""

    def __init__(self) -> None:
        self._shared = mmap.mmap(-1, 1)

    @property
    def current(self) -> int:
        return self._shared[0]

    def give(self, order: int) -> None:
        self._shared[0] = max(order, self._shared[0])


class WorkerSettings(Struct, frozen=True, kw_only=True):
    """How a worker was started."""

    address: Address
    ca: Path | None = None
    name: str
    slots: Mapping[str, int]  # by backend
    labels: Sequence[str] = ()
    config: Loaded
    env: Mapping[str, str]
    drain_timeout: float | None = None  # seconds; None: as long as it takes
    lease: float = LEASE
    grace: float = GRACE
    drivers: int = 0  # detached runs that it drives at a time
    driver_lease: float = DRIVER_LEASE

    @property
    def pools(self) -> list[str]:
        """What its Celery workers are for: each backend, and driving detached runs."""
        return [*self.slots, *([DRIVE] if self.drivers else [])]
