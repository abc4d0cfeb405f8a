"""The workers of a cluster, as they describe themselves in Redis, and what they are running."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, cast

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from clinvk.cluster.address import Address, connect_to, open_client
from clinvk.cluster.keys import AttemptId, Keys
from clinvk.cluster.limits.of_nodes import limits_of, rejected_of
from clinvk.cluster.limits.shared import SharedLimits
from clinvk.cluster.server_errors import explain
from clinvk.model.usage import rfc3339
from clinvk.plans.labels import name_labels

if TYPE_CHECKING:
    import redis

INTERVAL = 2.0  # seconds between heartbeats
SILENT_AFTER = 10.0  # seconds without one, after which a node counts as gone
KEEP = timedelta(days=1)  # for which a node that is gone is remembered

# The clock of the server counts, so that those of the nodes do not matter.
_WRITE = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[3])
redis.call('ZADD', KEYS[2], now, ARGV[2])
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now - ARGV[3])
redis.call('PEXPIRE', KEYS[3], ARGV[3])
return now
"""


class Cli(Struct, frozen=True):
    """A backend of a node, as `clinvk doctor` sees it there."""

    version: str | None = None
    login: str = "unknown"


class Node(Struct, frozen=True, kw_only=True):
    """What a node says about itself."""

    name: str
    slots: Mapping[str, int]  # by backend
    host: str = ""
    pid: int = 0
    version: str = ""  # of clinvk
    labels: tuple[str, ...] = ()
    clis: dict[str, Cli] = {}
    accounts: dict[str, str] = {}  # by backend: a hash of its login or key
    started_at: str = ""
    draining: bool = False  # it takes no more tasks


class Running(Struct, frozen=True, kw_only=True):
    """An attempt that a node is running."""

    run: str
    task: int  # its position
    attempt: int
    backend: str
    seconds: float


class NodeState(Struct, frozen=True, kw_only=True):
    """A node, and what it was doing when Redis was asked."""

    node: Node
    silent: float  # seconds since its last heartbeat
    running: tuple[Running, ...] = ()
    limits: Mapping[str, datetime] = {}  # by backend: until when its account is at a rate limit
    rejected: tuple[str, ...] = ()  # backends whose login the provider has rejected

    @property
    def name(self) -> str:
        return self.node.name

    @property
    def state(self) -> str:
        """`live`, `draining` or `gone`."""
        if self.silent > SILENT_AFTER:
            return "gone"
        return "draining" if self.node.draining else "live"

    @property
    def takes_tasks(self) -> bool:
        return self.state == "live"

    def used(self, backend: str) -> int:
        """The slots of a backend that are taken."""
        return sum(one.backend == backend for one in self.running)

    def to_json(self) -> dict[str, Any]:
        node = self.node
        return {
            "name": node.name,
            "state": self.state,
            "host": node.host,
            "pid": node.pid,
            "version": node.version,
            "labels": list(node.labels),
            "backends": {
                name: {
                    "slots": count,
                    "used": self.used(name),
                    "version": node.clis.get(name, Cli()).version,
                    "login": "rejected"
                    if name in self.rejected
                    else node.clis.get(name, Cli()).login,
                    "limit_until": rfc3339(self.limits[name]) if name in self.limits else None,
                }
                for name, count in node.slots.items()
            },
            "running": [msgspec.to_builtins(one) for one in self.running],
            "started_at": node.started_at or None,
            "heartbeat_seconds": round(self.silent, 1),
        }


class Nodes:
    """Raises the errors of redis-py. Everything blocks."""

    def __init__(self, client: redis.Redis, keys: Keys) -> None:
        self.client = client
        self.keys = keys
        self._script: Any = None

    # Of a worker.

    def write(self, node: Node) -> None:
        """A heartbeat."""
        if self._script is None:
            self._script = self.client.register_script(_WRITE)
        keys = [self.keys.node(node.name), self.keys.nodes, self.keys.busy(node.name)]
        self._script(
            keys, [msgspec.json.encode(node), node.name, KEEP // timedelta(milliseconds=1)]
        )

    def remove(self, name: str) -> None:
        """The node has ended, and runs nothing."""
        self.client.delete(self.keys.node(name), self.keys.busy(name))
        self.client.zrem(self.keys.nodes, name)

    def forget(self, name: str, attempt: AttemptId) -> None:
        """The node does not run an attempt any more whose end it could not report."""
        self.client.hdel(self.keys.busy(name), str(attempt))

    # Of everyone.

    def read(self) -> list[NodeState]:
        """All nodes of the last day, by name."""
        found = self.read_facts()
        if not found:
            return []
        now = self._now()
        with self.client.pipeline(transaction=False) as pipeline:
            for state in found:
                pipeline.hgetall(self.keys.busy(state.name))
            answers = pipeline.execute()
        return [
            replace(state, running=self._running(busy, now)) if busy else state
            for state, busy in zip(found, answers, strict=True)
        ]

    def read_facts(self) -> list[NodeState]:
        """The same, but for what they are running, which takes longer."""
        now = self._now()
        seen = cast(
            "list[tuple[bytes, float]]", self.client.zrange(self.keys.nodes, 0, -1, withscores=True)
        )
        if not seen:
            return []
        with self.client.pipeline(transaction=False) as pipeline:
            for name, _ in seen:
                pipeline.get(self.keys.node(name.decode()))
            answers = pipeline.execute()
        limits = SharedLimits(self.client, self.keys).read()
        found = []
        for (_, at), data in zip(seen, answers, strict=True):
            with suppress(msgspec.MsgspecError):  # of another version, or forged
                node = msgspec.json.decode(data or b"", type=Node)
                silent = max(0.0, (now - at) / 1000)
                found.append(
                    NodeState(
                        node=node, silent=silent, limits=limits_of(node.accounts, limits),
                        rejected=rejected_of(node.accounts, limits),
                    )
                )  # fmt: skip
        return sorted(found, key=lambda state: state.name)

    def _running(self, busy: Mapping[bytes, bytes], now: int) -> tuple[Running, ...]:
        """Those that the ledger knows as running: a worker that was killed has left others."""
        attempts = [_attempt(text.decode("utf-8", "replace")) for text in busy]
        with self.client.pipeline(transaction=False) as pipeline:
            for attempt in attempts:
                pipeline.hget(self.keys.attempt(attempt or AttemptId("-", 0, 0)), "state")
            states = cast("list[bytes | None]", pipeline.execute())
        found = []
        for attempt, state, data in zip(attempts, states, busy.values(), strict=True):
            if attempt is None or state != b"running":
                continue
            with suppress(msgspec.MsgspecError):
                facts = msgspec.json.decode(data, type=_Facts)
                found.append(Running(
                    run=attempt.run, task=attempt.task, attempt=attempt.number,
                    backend=facts.backend, seconds=max(0.0, (now - facts.since) / 1000),
                ))  # fmt: skip
        return tuple(sorted(found, key=lambda one: -one.seconds))

    def _now(self) -> int:
        """Milliseconds on the server's clock."""
        seconds, micro = self.client.time()
        return seconds * 1000 + micro // 1000


def read_nodes(address: Address, *, patient: bool = True) -> list[NodeState]:
    """All nodes of the cluster. Raises `ClinvkError`; at once, unless it is `patient`, if the server
    does not answer."""
    with connect_to(address) if patient else open_client(address, None) as client:
        # 60 ms, and an extra.
        from redis import RedisError

        try:
            return Nodes(client, Keys.of(address.name)).read()
        except RedisError as error:
            raise explain(error, address.place, is_tls=address.is_tls) from error


class _Facts(Struct, frozen=True):
    backend: str
    since: int


def _attempt(text: str) -> AttemptId | None:
    with suppress(ValueError):
        run, task, number = text.rsplit(".", 2)
        return AttemptId(run, int(task), int(number))
    return None


class Need(Struct, frozen=True, kw_only=True):
    """What a waiting task needs of a node."""

    backend: str
    labels: tuple[str, ...] = ()
    node: str | None = None  # the one whose CLI has the session: it is asked first
    refused: Mapping[str, str] = {}  # nodes that could not run it, and why


class Waiting(Struct, frozen=True):
    """Why a task waits. `for_good`: no node that is there now will ever run it."""

    reason: str
    for_good: bool = False


def why_waiting(
    need: Need, nodes: Sequence[NodeState], paused: Mapping[str, datetime] | None = None
) -> Waiting | None:
    """Why a task that is ready is not running; None if it is about to be. `paused` are the backends
    at a rate limit, and when that ends."""
    there = [state for state in nodes if state.state != "gone"]
    if not there:
        return Waiting("no worker is connected", for_good=True)
    backend = need.backend
    able = [state for state in there if backend in state.node.slots]
    if not able:
        return Waiting(f"no worker runs {backend}", for_good=True)
    # If that node is not there, others start the session over.
    able = [state for state in able if state.name == need.node] or able
    fitting = [state for state in able if set(need.labels) <= set(state.node.labels)]
    if not fitting:
        wanted = name_labels(need.labels)
        return Waiting(f"no worker with {backend} has {wanted}", for_good=True)
    willing = [state for state in fitting if state.name not in need.refused]
    if not willing:
        reasons = "; ".join(f"{s.name}: {need.refused[s.name]}" for s in fitting)
        return Waiting(f"no worker can run it: {reasons}", for_good=True)
    ends = [until for state in willing if (until := state.limits.get(backend)) is not None]
    if paused and backend in paused:
        ends = [paused[backend]]
    elif len(ends) < len(willing):  # others take it
        willing, ends = [state for state in willing if backend not in state.limits], []
    if ends and min(ends) > datetime.now(UTC):
        return Waiting(f"{backend} is at its rate limit until {_format_end(min(ends))}")
    return _wait_for_slot(need, willing)


def _format_end(until: datetime) -> str:
    here = until.astimezone()
    is_today = here.date() == datetime.now(UTC).astimezone().date()
    return f"{here:%H:%M}" if is_today else f"{here:%Y-%m-%d %H:%M}"


def _wait_for_slot(need: Need, nodes: Iterable[NodeState]) -> Waiting | None:
    backend = need.backend
    open_ones = [state for state in nodes if state.takes_tasks]
    where = f" and {name_labels(need.labels)}" if need.labels else ""
    if not open_ones:
        return Waiting(f"all workers with {backend}{where} are being shut down", for_good=True)
    slots = sum(state.node.slots[backend] for state in open_ones)
    used = sum(min(state.used(backend), state.node.slots[backend]) for state in open_ones)
    if used < slots:
        return None
    what = "the only slot" if slots == 1 else f"all {slots} slots"
    where = f" on workers with {name_labels(need.labels)}" if need.labels else ""
    return Waiting(f"{what} for {backend}{where} {'is' if slots == 1 else 'are'} taken")
