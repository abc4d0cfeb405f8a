"""What follows an attempt that did not succeed: whether its task gets another one, and when."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

import anyio
from msgspec import Struct
from msgspec.structs import replace

from clinvk.engine.scheduling import backoff
from clinvk.engine.scheduling.accounts import Accounts
from clinvk.engine.scheduling.backend_pool import BackendPool
from clinvk.model.outcome import Outcome
from clinvk.model.plan import Plan
from clinvk.model.progress import Change
from clinvk.model.result import Failure
from clinvk.plans.preflight import Preflight

MAX_INTERRUPTIONS = 3  # of one task in a run


class Followup(Struct, frozen=True):
    """The state of a task after an attempt; `wait` tells people what it waits for, and `moment` is
    when its next attempt can start, on the event loop's clock, if not at once."""

    outcome: Outcome
    wait: Change | None = None
    moment: float | None = None


class Retries:
    """Counts the attempts at each task. `notify` gets a task and a message about it."""

    def __init__(
        self,
        plan: Plan,
        preflights: Sequence[Preflight],
        backends: BackendPool,
        accounts: Accounts,
        rng: random.Random,
        notify: Callable[[int, str], None],
    ) -> None:
        self._plan = plan
        self._preflights = preflights
        self._backends = backends
        self._accounts = accounts
        self._rng = rng
        self._notify = notify
        self._counts: dict[int, int] = {}  # how often a task failed in a way that may pass
        self._interruptions: dict[int, int] = {}  # how often the worker of a task was lost

    async def follow(self, outcome: Outcome, *, is_stopping: bool) -> Followup:
        """What follows an attempt with this outcome. No other one does if the run is stopping."""
        failure = outcome.error
        if failure is None:
            return Followup(outcome)
        if failure.kind == "cancelled":
            return Followup(replace(outcome, state="cancelled"))
        if failure.kind == "indeterminate":
            return Followup(self._after_interruption(outcome, failure, is_stopping=is_stopping))
        if is_stopping:
            return Followup(outcome)
        if failure.kind == "limit":
            if failure.retry_at is not None and await self._accounts.has_another(outcome):
                return self._on_other_account(outcome, failure)
            return self._after_pause(outcome, failure)
        if backoff.is_transient(failure) and self._may_retry(outcome.index):
            return self._after_delay(outcome)
        return Followup(outcome)

    def _after_interruption(
        self, outcome: Outcome, failure: Failure, *, is_stopping: bool
    ) -> Outcome:
        """The outcome of a task whose worker was lost: it is run again if it may be, but not for
        ever, since it may be what ends the workers."""
        i = outcome.index
        self._interruptions[i] = count = self._interruptions.get(i, 0) + 1
        if self._plan.tasks[i].idempotent and count < MAX_INTERRUPTIONS and not is_stopping:
            self._notify(i, f"{failure.message}; running it again")
            return replace(outcome, state="queued")
        return replace(outcome, state="indeterminate")

    def _may_retry(self, i: int) -> bool:
        return self._counts.get(i, 0) < self._plan.retries_of(i)

    def _after_delay(self, outcome: Outcome) -> Followup:
        i, delay = outcome.index, self._plan.rules.retry_delay
        self._counts[i] = tries = self._counts.get(i, 0) + 1
        seconds = backoff.backoff_seconds(delay, tries, self._rng, outcome.error)
        until = datetime.fromtimestamp(datetime.now(UTC).timestamp() + seconds, UTC)
        again = replace(outcome, state="queued")
        wait = Change(kind="retry", outcome=again, until=until)
        return Followup(again, wait, anyio.current_time() + seconds)

    def _on_other_account(self, outcome: Outcome, failure: Failure) -> Followup:
        said = f"{outcome.backend or ''} is at a rate limit on {outcome.node}"
        self._notify(outcome.index, f"{said}; trying another account")
        again = replace(outcome, state="queued", error=replace(failure, retry_at=None))
        now, message = datetime.now(UTC), failure.message
        return Followup(again, Change(kind="retry", outcome=again, until=now, message=message))

    def _after_pause(self, outcome: Outcome, failure: Failure) -> Followup:
        """Pause its backend; the task waits for it, or has failed."""
        pause = self._backends.record_limit(outcome.backend or "", failure)
        if self._plan.rules.limits.action == "fail":
            stands = outcome
        elif self._backends.is_closed_for_good(self._preflights[outcome.index].backend):
            stands = replace(outcome, state="waiting")
        else:
            stands = replace(
                outcome, state="queued", error=replace(failure, retry_at=pause.ends_at)
            )
        wait = Change(
            kind="limit", outcome=stands, until=pause.ends_at, message=failure.message,
            instead=self._backends.describe_alternative(outcome.backend or ""),
        )  # fmt: skip
        return Followup(stands, wait)
