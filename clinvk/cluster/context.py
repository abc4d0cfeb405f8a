"""What a run needs so that its tasks run on the workers of a cluster."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from msgspec.structs import replace

from clinvk.backend.selection import BackendSelector, SelectedBackend
from clinvk.cluster.address import Address, connect_to, open_client
from clinvk.cluster.files.exchange import Exchange
from clinvk.cluster.keys import AttemptId, Keys
from clinvk.cluster.ledger.ledger import Ledger
from clinvk.cluster.left import stop_left
from clinvk.cluster.limits.of_nodes import limit_of_all, names_account
from clinvk.cluster.limits.shared import SharedLimits
from clinvk.cluster.log.run import RedisRun
from clinvk.cluster.nodes import Nodes
from clinvk.cluster.server import check_server, identify
from clinvk.cluster.server_errors import Outage
from clinvk.cluster.submitter.executor import ClusterExecutor
from clinvk.cluster.waiting import reasons_of
from clinvk.disk.closing import Closing
from clinvk.dispatch.dispatcher import Dispatcher
from clinvk.engine.run_context import RunContext, local_context
from clinvk.errors import LimitError, NotInstalledError

if TYPE_CHECKING:
    from celery import Celery

    from clinvk.model.outcome import Outcome
    from clinvk.model.plan import Plan
    from clinvk.runs.log import RunLog

ANSWER_TIMEOUT = 5.0  # seconds for the server to answer while a run waits for news


class RemoteSelector(BackendSelector):
    """Chooses backends that are installed elsewhere."""

    is_remote = True

    def _select(self, name: str | None) -> SelectedBackend:
        chosen = name or self.config.config.default_backend
        try:
            return super()._select(chosen)
        except NotInstalledError:
            if self.catalog.find(chosen) is None:
                raise
            return SelectedBackend(self.catalog.load(chosen), "")


class Cluster(Closing):
    """The cluster of a run, with its connections. Close it after the run."""

    def __init__(self, dispatcher: Dispatcher, address: Address) -> None:
        """Raises `ClinvkError` if the server cannot be used."""
        self.dispatcher = dispatcher
        self.address = address.shown
        self._client = connect_to(address)
        # This one does not retry: the feed does, and can be cancelled between two tries.
        self._news_client = open_client(address, None)
        self._news_client.connection_pool.connection_kwargs["socket_timeout"] = ANSWER_TIMEOUT
        self._keys = Keys.of(address.name)
        self._app: Celery | None = None
        self._target = address

    def close(self) -> None:
        self._client.close()
        self._news_client.close()
        if self._app is not None:
            self._app.close()

    def check(self, *, insecure: bool = False) -> list[str]:
        """Warnings about the server. Raises `ClinvkError` if it is not fit for prompts."""
        return check_server(self._client, self._target, insecure=insecure)

    def place(self, plan: Plan, notify: Callable[[str], None]) -> Plan:
        # Git, which a run without files does not need.
        from clinvk.cluster.files.sources import Settings, place_tasks

        config = self.dispatcher.config.config.cluster
        settings = Settings(git=config.git, shared=tuple(config.shared))
        return place_tasks(plan, settings, self.dispatcher.env, notify)

    def create_executor(self, log: RunLog | None) -> ClusterExecutor:
        # Celery, 0.4 s.
        from clinvk.cluster.app import create_app

        if self._app is None:
            self._app = create_app(self._target)
        news = Ledger(self._news_client, self._keys)
        dispatcher, run = self.dispatcher, log.id if log else None
        exchange = Exchange(
            dispatcher.config.home,
            dispatcher.env,
            cluster=identify(self._client, self._target),
            is_detached=isinstance(log, RedisRun),
        )
        outage = Outage(self._target.place, is_tls=self._target.is_tls)
        return ClusterExecutor(self._ledger, news, self._app, dispatcher, run, exchange, outage)

    def joinable(self, run: str, attempts: Sequence[tuple[int, int]]) -> set[int]:
        if not self._ledger.knows(run):
            return set()  # the server has lost its data, or has forgotten the run
        states = self._ledger.states([AttemptId(run, i, number) for i, number in attempts])
        pairs = zip(attempts, states, strict=True)
        return {i for (i, _), state in pairs if state in (None, "queued", "running", "ended")}

    def stop_left(self, run: str, outcomes: Sequence[Outcome]) -> str | None:
        return stop_left(self._target, run, outcomes)

    def why_waiting(self, plan: Plan, outcomes: Sequence[Outcome]) -> dict[int, str]:
        # An extra.
        from redis import RedisError

        try:
            return reasons_of(self._news_client, self._keys, plan, list(outcomes))
        except (RedisError, OSError):
            return {}

    def find_limit(
        self, backend: str, env: Mapping[str, str], model: str | None
    ) -> LimitError | None:
        """The rate limit that all workers with this backend are at. Blocks."""
        # An extra.
        from redis import RedisError

        manifest = self.dispatcher.catalog.load(backend)
        if names_account(manifest, env):  # only workers know its values
            return None
        try:
            snapshot = self._limits.read()
            if not any(entry.backend == backend for entry in snapshot.entries):
                return None
            states = Nodes(self._client, self._keys).read_facts()
        except (RedisError, OSError):
            return None
        accounts = [
            state.node.accounts.get(backend)
            for state in states
            if state.takes_tasks and backend in state.node.slots
        ]
        return limit_of_all(backend, accounts, snapshot, model)

    def free_accounts(self, backend: str) -> frozenset[str]:
        # An extra.
        from redis import RedisError

        try:
            states = Nodes(self._client, self._keys).read_facts()
        except (RedisError, OSError):
            return frozenset()
        able = [s for s in states if s.takes_tasks and backend in s.node.slots]
        free = [s.node for s in able if backend not in s.limits]
        return frozenset(node.accounts.get(backend, node.name) for node in free)

    @property
    def _limits(self) -> SharedLimits:
        return SharedLimits(self._client, self._keys)

    @property
    def _ledger(self) -> Ledger:
        return Ledger(self._client, self._keys)


def with_cluster_store(dispatcher: Dispatcher, address: Address) -> Dispatcher:
    """The same, with the sessions of the cluster: those of its tasks are there."""
    config = dispatcher.config
    session = replace(config.config.session, storage=address.url)
    loaded = replace(config, config=replace(config.config, session=session))
    return Dispatcher(loaded, catalog=dispatcher.catalog, env=dispatcher.env, patient=True)


def cluster_context(dispatcher: Dispatcher, cluster: Cluster) -> RunContext:
    """The context of a run whose tasks run on the workers."""
    local = local_context(dispatcher)
    selector = RemoteSelector(dispatcher.catalog, dispatcher.config, dispatcher.env)
    return replace(local, selector=selector, cluster=cluster, find_limit=cluster.find_limit)
