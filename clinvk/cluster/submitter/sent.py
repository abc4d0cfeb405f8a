"""Attempts that are waiting for a worker."""

from __future__ import annotations

import time

from clinvk.cluster.keys import AttemptId
from clinvk.cluster.nodes import Need

RESEND_ANYWAY = 300.0  # seconds in which no worker has taken it; twice as long each time


class Sent:
    """An attempt that is waiting for a worker."""

    def __init__(
        self,
        attempt: AttemptId,
        backend: str,
        queue: str,
        node: str | None = None,
        labels: tuple[str, ...] = (),
        remote: str = "",
    ) -> None:
        """`node` is the one whose CLI has the session, `remote` the git remote that its changes go to."""
        self.attempt = attempt
        self.backend = backend
        self.labels = labels
        self.remote = remote
        self.queue = queue
        self.node = node
        self.target = node  # the node from whose own queue it is taken
        self.at = self.since = time.monotonic()
        self.is_sent = True  # Celery's server has taken its message
        self.patience = RESEND_ANYWAY
        self.told = ""  # why no worker that is there will ever take it
        self.refusals: dict[str, str] = {}  # by node
        self.limited: dict[str, int | None] = {}  # by node: when its rate limit ends, if known

    @property
    def need(self) -> Need:
        return Need(backend=self.backend, labels=self.labels, node=self.node, refused=self.refusals)
