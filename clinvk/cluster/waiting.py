"""Why the tasks of a run wait that no worker has taken yet."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, cast

from clinvk.cluster.address import Address, connect_to
from clinvk.cluster.keys import Keys, native_session
from clinvk.cluster.nodes import Need, Nodes, NodeState, why_waiting
from clinvk.cluster.server_errors import explain

if TYPE_CHECKING:
    import redis

    from clinvk.model.outcome import Outcome
    from clinvk.model.plan import Plan

MAX_NEEDS_NAMED = 3  # tasks that another one waits for


def read_reasons(
    address: Address, plan: Plan, outcomes: Sequence[Outcome], default_backend: str = ""
) -> dict[int, str]:
    """Why tasks of a run that goes on wait, by their position. Tasks that name no backend, and have not
    begun, are for the default one. Raises `ClinvkError`."""
    if not any(map(_may_wait, outcomes)):
        return {}
    with connect_to(address) as client:
        # 60 ms, and an extra.
        from redis import RedisError

        try:
            return reasons_of(client, Keys.of(address.name), plan, outcomes, default_backend)
        except RedisError as error:
            raise explain(error, address.place, is_tls=address.is_tls) from error


def reasons_of(
    client: redis.Redis,
    keys: Keys,
    plan: Plan,
    outcomes: Sequence[Outcome],
    default_backend: str = "",
) -> dict[int, str]:
    """The same. Raises the errors of redis-py."""
    if not any(map(_may_wait, outcomes)):
        return {}
    nodes = Nodes(client, keys).read()
    return reasons(plan, outcomes, nodes, _homes(client, keys, outcomes), default_backend)


def reasons(
    plan: Plan,
    outcomes: Sequence[Outcome],
    nodes: Sequence[NodeState],
    homes: Mapping[str, str] | None = None,
    default_backend: str = "",
) -> dict[int, str]:
    """The same, without a server. `homes` are the nodes that have the sessions of tasks."""
    paused = _paused(outcomes)
    is_full = sum(o.state == "running" or o.is_sent for o in outcomes) >= plan.rules.max_parallel
    found: dict[int, str] = {}
    for outcome in filter(_may_wait, outcomes):
        task = plan.tasks[outcome.index]
        if task.decides is not None:  # it runs where the run is driven
            continue
        why = None
        if outcome.is_sent or outcome.state == "running":
            home = (homes or {}).get(outcome.session_id or "")
            need = Need(backend=outcome.backend or "", labels=task.labels, node=home)
            waiting = why_waiting(need, nodes)
            why = waiting and waiting.reason
        elif needed := [outcomes[n] for n in task.needs if outcomes[n].state in _OPEN]:
            why = f"needs {_names(needed)}"
        elif outcome.error is None:  # otherwise, that says it
            backend = outcome.backend or default_backend
            if backend in paused or _are_limited(nodes, backend):
                need = Need(backend=backend, labels=task.labels)
                waiting = why_waiting(need, nodes, paused)
                why = waiting and waiting.reason
            elif is_full:
                why = f"the run has {plan.rules.max_parallel} tasks at a time"
        if why:
            found[outcome.index] = why
    return found


_OPEN = ("queued", "running")


def _are_limited(nodes: Iterable[NodeState], backend: str) -> bool:
    """Whether the accounts of all nodes that run the backend are at a rate limit."""
    able = [state for state in nodes if state.takes_tasks and backend in state.node.slots]
    return bool(able) and all(backend in state.limits for state in able)


def _may_wait(outcome: Outcome) -> bool:
    # If an older clinvk drives the run, a task that was only sent is running.
    taken = outcome.node is not None or outcome.backend is None
    return outcome.state == "queued" or (outcome.state == "running" and not taken)


def _names(needed: Sequence[Outcome]) -> str:
    named = ", ".join(o.name for o in needed[:MAX_NEEDS_NAMED])
    more = len(needed) - MAX_NEEDS_NAMED
    return f"{named} and {more} more" if more > 0 else named


def _paused(outcomes: Iterable[Outcome]) -> dict[str, datetime]:
    """The backends at a rate limit, and when that ends: tasks that met it wait for that."""
    now = datetime.now(UTC)
    return {
        o.backend: o.error.retry_at
        for o in outcomes
        if o.state == "queued" and o.backend and o.error is not None
        and o.error.retry_at is not None and o.error.retry_at > now
    }  # fmt: skip


def _homes(client: redis.Redis, keys: Keys, outcomes: Iterable[Outcome]) -> dict[str, str]:
    """The nodes that have the sessions of tasks that a worker could take."""
    waiting = [
        o
        for o in outcomes
        if (o.is_sent or o.state == "running") and not o.node and o.session_id and o.backend
    ]
    sessions = [str(o.session_id) for o in waiting]
    with client.pipeline(transaction=False) as pipeline:
        for o in waiting:
            pipeline.get(keys.home(native_session(str(o.session_id), str(o.backend))))
        answers = cast("list[bytes | None]", pipeline.execute() if sessions else [])
    pairs = zip(sessions, answers, strict=True)
    return {session: node.decode() for session, node in pairs if node is not None}
