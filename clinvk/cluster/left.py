"""What a run has left running on the workers, after the process that drove it was killed."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from clinvk.cluster.address import Address, connect_to, parse
from clinvk.cluster.keys import AttemptId, Keys
from clinvk.cluster.ledger.ledger import Ledger
from clinvk.cluster.server_errors import explain
from clinvk.errors import ConfigError, UsageError

if TYPE_CHECKING:
    from clinvk.model.outcome import Outcome

STOP_TIMEOUT = 15.0  # seconds that workers get to stop what runs
POLL_INTERVAL = 0.1  # seconds


def find_address(
    begun_on: str, given: str | None, known: str | None, *, insecure: bool = False
) -> Address:
    """The cluster of a run that was begun at this address, without its password: `given` by the user,
    or the one that is `known`, if it is the same. Raises `ClinvkError`."""
    if given is None and known is not None:
        with suppress(ConfigError):
            given = known if parse(known, insecure=True).shown == begun_on else None
    if given is None and "…" in begun_on:
        raise UsageError(
            f"the run may have left tasks running on the cluster {begun_on}, and its password is not known here",
            "pass --cluster URL; --cluster none cancels the run and leaves them running",
        )
    return parse(given or begun_on, insecure=insecure)


def stop_left(
    address: Address, run: str, outcomes: Sequence[Outcome], *, now: bool = False
) -> str | None:
    """Stop the last attempts at these tasks, and return a sentence about it once they have ended; None
    if there were none. Blocks. Raises `ClinvkError`."""
    with connect_to(address) as client:
        # 60 ms, and an extra.
        from redis import RedisError

        try:
            return stop_attempts(Ledger(client, Keys.of(address.name)), run, outcomes, now=now)
        except RedisError as error:
            raise explain(error, address.place, is_tls=address.is_tls) from error


def stop_attempts(
    ledger: Ledger, run: str, outcomes: Sequence[Outcome], *, now: bool = False
) -> str | None:
    """The same. Raises the errors of redis-py."""
    attempts = [AttemptId(run, outcome.index, outcome.attempts) for outcome in outcomes]
    states = ledger.cancel_all(attempts, "cancelled", now=now)
    running = [
        attempt for attempt, state in zip(attempts, states, strict=True) if state == "running"
    ]
    withdrawn = states.count("withdrawn")
    left, deadline = running, time.monotonic() + STOP_TIMEOUT
    while left and time.monotonic() < deadline:
        time.sleep(POLL_INTERVAL)
        ledger.expire(run)
        found = ledger.states(left)
        left = [attempt for attempt, state in zip(left, found, strict=True) if state == "running"]
    said = []
    if stopped := len(running) - len(left):
        said.append(f"{_tasks(stopped)} that it left running on workers {_were(stopped)} stopped")
    if withdrawn:
        said.append(f"{_tasks(withdrawn)} that waited for a worker {_were(withdrawn)} withdrawn")
    if left:
        said.append(f"{_tasks(len(left))} may still run until the lease of the worker ends")
    return "; ".join(said) or None


def _tasks(count: int) -> str:
    return f"{count} task{'s' * (count != 1)}"


def _were(count: int) -> str:
    return "were" if count != 1 else "was"
