"""The ledger of a cluster, with types. Everything blocks: call it in a thread, or in a worker."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any, Literal, cast

from msgspec import Struct

from clinvk.cluster.keys import AttemptId, Keys
from clinvk.cluster.ledger import scripts

if TYPE_CHECKING:
    import redis

KEEP = 7 * 24 * 3600.0  # seconds for which what is in Redis about a run is kept
# Seconds after the end of a lease until its attempt is given up: a server that was restarted may have
# lost the renewals of its last second or two.
GRACE = 2.0
LEASE = 20.0  # seconds
BATCH = 1000  # attempts that are asked about in one request

State = Literal["queued", "running", "ended", "lost", "withdrawn"]


class Claim(Struct, frozen=True):
    """The answer to a claim: `status` is "run", or why it was refused: a state, "missing", or
    "version", with the other version as `detail`. `has_limits`: whether the cluster knows of rate
    limits."""

    status: str
    payload: bytes = b""
    has_limits: bool = False
    detail: str = ""


class Beat(Struct, frozen=True):
    """The answer to a renewal: "ok", "ended" (its end has been recorded), "fenced" (this worker no
    longer owns it) or "missing" (the server has lost it); and what was asked of it: "", "cancel" or
    "now"."""

    status: str
    asked: str = ""
    reason: str = ""


class News(Struct, frozen=True):
    """Something that happened to an attempt: claimed, started, event, notice, refused, ended, lost (its
    lease has expired), killed (its process was)."""

    id: str  # its place in the stream
    member: str  # the attempt
    kind: str
    data: bytes


class Owner(Struct, frozen=True):
    """Who runs an attempt: `token` is a unique text."""

    attempt: AttemptId
    token: str
    node: str
    backend: str = ""  # of the slot that it takes


class Ledger:
    """Raises the errors of redis-py."""

    def __init__(
        self, client: redis.Redis, keys: Keys, *, lease: float = LEASE, grace: float = GRACE
    ) -> None:
        self.client = client
        self.keys = keys
        self.lease = lease
        self.grace = grace
        self._scripts: dict[str, Any] = {}
        self._kept = ""  # the run about which it was said last how long the server keeps it

    # Of the submitter.

    def submit(
        self,
        attempt: AttemptId,
        payload: bytes,
        protocol: int,
        version: str,
        *,
        is_first: bool = True,
    ) -> str:
        """Put an attempt into the ledger; returns "new", the state that it has already, "busy"
        while an earlier attempt at its task may be running, or "stale" if there was a later one.
        `is_first`: whether the server may not know the run yet."""
        keys = self.keys
        return self._text(
            scripts.SUBMIT,
            [keys.run(attempt.run), keys.task(attempt), keys.attempt(attempt),
             keys.leases(attempt.run), keys.news(attempt.run)],
            [attempt.number, attempt.member, payload, protocol, version, _ms(self.grace), _ms(KEEP),
             keys.attempts(attempt.run), attempt.task, "first" if is_first else ""],
        )  # fmt: skip

    def cancel(self, attempt: AttemptId, reason: str, *, now: bool) -> str:
        """Cancel an attempt; returns its state: "withdrawn" if it will never be started."""
        mode = "now" if now else "cancel"
        return self._text(scripts.CANCEL, [self.keys.attempt(attempt)], [mode, reason])

    def cancel_all(self, attempts: Sequence[AttemptId], reason: str, *, now: bool) -> list[str]:
        """The same for many attempts, with few requests."""
        mode = "now" if now else "cancel"
        script = self._script(scripts.CANCEL)
        found: list[str] = []
        for some in _batches(attempts):
            with self.client.pipeline(transaction=False) as pipe:
                for attempt in some:
                    script(keys=[self.keys.attempt(attempt)], args=[mode, reason], client=pipe)
                found += [state.decode() for state in pipe.execute()]
        return found

    def withdraw(self, attempt: AttemptId) -> str:
        """Cancel an attempt unless a worker has it; returns its state."""
        return self._text(scripts.CANCEL, [self.keys.attempt(attempt)], ["unless taken", ""])

    def expire(self, run: str) -> int:
        """Give up the attempts of a run whose lease has expired; returns how many."""
        keys = self.keys
        values = [_ms(self.grace), keys.attempts(run), _ms(KEEP)]
        names = [keys.leases(run), keys.news(run), keys.run(run)]
        return int(self._run(scripts.EXPIRE, names, values))

    def state(self, attempt: AttemptId) -> State | None:
        """None if the server does not know it."""
        return self.states([attempt])[0]

    def states(self, attempts: Sequence[AttemptId]) -> list[State | None]:
        """The same of many attempts, with few requests."""
        found: list[bytes | None] = []
        for some in _batches(attempts):
            with self.client.pipeline(transaction=False) as pipe:
                for attempt in some:
                    pipe.hget(self.keys.attempt(attempt), "state")
                found += pipe.execute()
        return [cast("State", state.decode()) if state else None for state in found]

    def knows(self, run: str) -> bool:
        """Whether an attempt of the run was ever submitted, and the server has not lost that."""
        return bool(self.client.exists(self.keys.run(run)))

    def first_news(self, attempt: AttemptId) -> str | None:
        """The place of the first news about an attempt; None if it was never taken."""
        found = cast("bytes | None", self.client.hget(self.keys.attempt(attempt), "first"))
        return found.decode() if found else None

    def result(self, attempt: AttemptId) -> bytes | None:
        return cast("bytes | None", self.client.hget(self.keys.attempt(attempt), "result"))

    def read_news(self, run: str, after: str, *, wait: float, count: int = 1000) -> list[News]:
        """The next news about a run; empty if there are none for so many seconds."""
        answer = cast(
            "list[tuple[bytes, list[tuple[bytes, dict[bytes, bytes]]]]] | None",
            self.client.xread({self.keys.news(run): after}, count=count, block=max(1, _ms(wait))),
        )
        return [_news(i, fields) for _, found in answer or [] for i, fields in found]

    def news_between(self, run: str, first: str, last: str, member: str) -> list[News]:
        """The news about one attempt from `first` up to `last`, both included."""
        found: list[News] = []
        while True:
            some = cast(
                "list[tuple[bytes, dict[bytes, bytes]]]",
                self.client.xrange(self.keys.news(run), first, last, count=BATCH),
            )
            found += [news for i, fields in some if (news := _news(i, fields)).member == member]
            if len(some) < BATCH:
                return found
            first = f"({some[-1][0].decode()}"  # those after it

    def forget(self, run: str, news: Sequence[str], attempts: Iterable[AttemptId]) -> None:
        """Delete news about a run, by their places, and the results of attempts that have ended."""
        with self.client.pipeline(transaction=False) as pipe:
            pipe.xdel(self.keys.news(run), *news)
            for attempt in attempts:
                pipe.hdel(self.keys.attempt(attempt), "result")
            pipe.execute()

    def set_allowance(self, run: str, allowance: bytes) -> None:
        """Say what is left for further turns of the tasks of a run."""
        self.client.set(self.keys.allowance(run), allowance, px=_ms(KEEP))

    def allowance(self, run: str) -> bytes | None:
        """None if its driver has not said it, or the server has lost it."""
        return cast("bytes | None", self.client.get(self.keys.allowance(run)))

    def home_of(self, session: str) -> str | None:
        """The node that has the native session of a session."""
        found = cast("bytes | None", self.client.get(self.keys.home(session)))
        return found.decode() if found else None

    def waiting(self, queue: str) -> int:
        """The number of messages that no worker has taken from a Celery queue."""
        return self.client.llen(self.keys.waiting(queue))

    def live_nodes(self, backend: str) -> list[str]:
        """The nodes that run this backend."""
        key = self.keys.live(backend)
        found = cast("list[bytes]", self.client.zrangebyscore(key, self._now(), "+inf"))
        return [name.decode() for name in found]

    # Of a worker.

    def say_alive(self, node: str, backends: Iterable[str], seconds: float) -> None:
        """Count as alive for so long."""
        now = self._now()
        for backend in backends:
            self.client.zadd(self.keys.live(backend), {node: now + _ms(seconds)})
            self.client.zremrangebyscore(self.keys.live(backend), "-inf", now - _ms(KEEP))

    def say_gone(self, node: str, backends: Iterable[str]) -> None:
        for backend in backends:
            self.client.zrem(self.keys.live(backend), node)

    def claim(self, owner: Owner, protocol: int) -> Claim:
        """Take an attempt."""
        attempt, keys = owner.attempt, self.keys
        keep = "" if attempt.run == self._kept else _ms(KEEP)
        status, detail, *rest = self._run(
            scripts.CLAIM,
            [keys.attempt(attempt), keys.leases(attempt.run), keys.news(attempt.run),
             keys.busy(owner.node), keys.limits],
            [attempt.member, owner.token, owner.node, protocol, _ms(self.lease), keep,
             str(attempt), json.dumps(owner.backend)],
        )  # fmt: skip
        if status == b"run":
            self._kept = attempt.run
            return Claim("run", payload=detail, has_limits=bool(rest[0]))
        return Claim(status.decode(), detail=detail.decode())

    def beat(self, owner: Owner, reported: int, events: Sequence[tuple[str, bytes]]) -> Beat:
        """Renew the lease, and report events; `reported` is how many were reported before."""
        attempt, keys = owner.attempt, self.keys
        answer = self._run(
            scripts.BEAT,
            [keys.attempt(attempt), keys.leases(attempt.run), keys.news(attempt.run)],
            [attempt.member, owner.token, _ms(self.lease), reported, _ms(KEEP), *chain(*events)],
        )
        return Beat(*(part.decode() for part in answer))

    def finish(
        self,
        owner: Owner,
        result: bytes,
        session: str | None,
        reported: int = 0,
        events: Sequence[tuple[str, bytes]] = (),
    ) -> str:
        """Record the end of an attempt, after its last events: "ok", or "fenced" or "missing" if that
        changed nothing. This node has the native session of `session`."""
        attempt, keys = owner.attempt, self.keys
        return self._text(
            scripts.FINISH,
            [keys.attempt(attempt), keys.leases(attempt.run), keys.news(attempt.run), keys.home(session or ""),
             keys.busy(owner.node)],
            [attempt.member, owner.token, result, owner.node if session else "", _ms(KEEP), str(attempt),
             reported, *chain(*events)],
        )  # fmt: skip

    def give_up(self, owner: Owner) -> str:
        """Record that the Celery worker was killed, and that nothing is left of what the attempt has
        started: "ok", or "fenced" or "missing" if that changed nothing."""
        attempt, keys = owner.attempt, self.keys
        return self._text(
            scripts.GIVE_UP,
            [keys.attempt(attempt), keys.leases(attempt.run), keys.news(attempt.run), keys.busy(owner.node)],
            [attempt.member, owner.token, str(attempt)],
        )  # fmt: skip

    def refuse(self, owner: Owner, why: bytes) -> str:
        """Return an attempt that nothing was started for."""
        attempt, keys = owner.attempt, self.keys
        return self._text(
            scripts.REFUSE,
            [keys.attempt(attempt), keys.leases(attempt.run), keys.news(attempt.run), keys.busy(owner.node)],
            [attempt.member, owner.token, why, str(attempt)],
        )  # fmt: skip

    def decline(self, attempt: AttemptId, why: bytes) -> None:
        """Report why this node cannot take an attempt."""
        keys = [self.keys.attempt(attempt), self.keys.news(attempt.run)]
        self._run(scripts.DECLINE, keys, [attempt.member, why])

    def _now(self) -> int:
        seconds, micro = self.client.time()
        return seconds * 1000 + micro // 1000

    def _text(self, script: str, keys: Sequence[str], values: Sequence[Any]) -> str:
        answer: bytes = self._run(script, keys, values)
        return answer.decode()

    def _run(self, script: str, keys: Sequence[str], values: Sequence[Any]) -> Any:
        return self._script(script)(keys=keys, args=values)

    def _script(self, script: str) -> Any:
        known = self._scripts.get(script)
        if known is None:
            known = self._scripts[script] = self.client.register_script(script)
        return known


def _news(place: bytes, fields: dict[bytes, bytes]) -> News:
    return News(place.decode(), fields[b"a"].decode(), fields[b"k"].decode(), fields[b"d"])


def _batches(attempts: Sequence[AttemptId]) -> Iterable[Sequence[AttemptId]]:
    return (attempts[at : at + BATCH] for at in range(0, len(attempts), BATCH))


def _ms(seconds: float) -> int:
    return int(seconds * 1000)
