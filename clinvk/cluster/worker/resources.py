"""What the attempts of a backend share: one process runs them all."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clinvk.cluster.address import open_client
from clinvk.cluster.files.on_worker import WorkerFiles
from clinvk.cluster.keys import Keys
from clinvk.cluster.ledger.ledger import Ledger
from clinvk.cluster.limits.on_worker import AttemptLimits
from clinvk.cluster.limits.shared import SharedLimits
from clinvk.cluster.shared import SharedDirectories
from clinvk.cluster.worker.allowed import Allowed
from clinvk.cluster.worker.lines import Lines
from clinvk.cluster.worker.settings import Orders, WorkerSettings
from clinvk.cluster.worker.supervisor import Guard
from clinvk.dispatch.dispatcher import Dispatcher
from clinvk.model.request import Request
from clinvk.store import open_store

if TYPE_CHECKING:
    from clinvk.store.base import Store


# Seconds between reads of a program's output. Its events are collected for longer before they
# are sent, so nobody sees them later; its exit is noticed at once.
READ_INTERVAL = 0.05


class WorkerProcess:
    """Opened once in the process of each backend, and kept until that ends. Its threads use it at the
    same time."""

    def __init__(self, settings: WorkerSettings, orders: Orders, guard: Guard) -> None:
        self.settings = settings
        self.orders = orders
        self.guard = guard
        allow = settings.config.config.worker.allow
        shared = SharedDirectories(settings.config.config.cluster.shared, allow.directories)
        self.allowed = Allowed(allow, shared)
        self.files = WorkerFiles(
            settings.config.home,
            settings.env,
            shared=shared,
            limit=settings.config.config.cluster.cache_gb * 1000**3,
            node=settings.name,
        )
        self.lines = Lines()
        self._ledger: Ledger | None = None
        self._store: Store | None = None
        self._dispatcher: Dispatcher | None = None

    def open(self) -> None:
        """Open what several threads use; nothing is connected yet."""
        self.dispatcher("")
        _ = self.ledger
        self.lines.start()

    @property
    def store(self) -> Store:
        """The sessions of the cluster."""
        if self._store is None:
            self._store = open_store(
                self.settings.address.url, self.settings.config.home, patient=True
            )
        return self._store

    @property
    def ledger(self) -> Ledger:
        """With a connection that gives up before a lease has ended."""
        if self._ledger is None:
            settings = self.settings
            client = open_client(settings.address, settings.ca)
            # Its answer is of no use once the lease is over.
            kwargs = client.connection_pool.connection_kwargs
            kwargs["socket_timeout"] = kwargs["socket_connect_timeout"] = settings.lease / 4
            self._ledger = Ledger(
                client, Keys.of(settings.address.name), lease=settings.lease, grace=settings.grace
            )
        return self._ledger

    def dispatcher(self, marker: str) -> Dispatcher:
        """Starts programs that carry this marker, if it is not empty."""
        if self._dispatcher is None:
            self._dispatcher = Dispatcher(
                self.settings.config, store=self.store, env=self.settings.env,
                read_interval=READ_INTERVAL,
            )  # fmt: skip
        return self._dispatcher.with_marker(marker) if marker else self._dispatcher

    def limits_of(self, request: Request) -> AttemptLimits:
        """The rate limits that concern a request, whose `env` has the values of this node."""
        ledger = self.ledger
        shared = SharedLimits(ledger.client, ledger.keys)
        return AttemptLimits(shared, self.dispatcher(""), self.settings.name, request)
