"""The state of each task of a run: kept, written to the journal, and told to the observer.

Nothing is decided here.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from msgspec.structs import replace

from clinvk.errors import SessionError
from clinvk.model.checks.progress import CheckProgress
from clinvk.model.events import Checked, Checking, Event, Round
from clinvk.model.outcome import Outcome, until_taken, with_node
from clinvk.model.progress import Change
from clinvk.model.request import Request
from clinvk.model.result import Failure, Result
from clinvk.plans.preflight import NO_BACKEND
from clinvk.runs.replay import progress_after

if TYPE_CHECKING:
    from clinvk.runs.journal import Journal


class TaskStates:
    """The `Reports` of attempts. `outcomes` holds the state of each task, `journal` is None for a run
    that is not recorded."""

    def __init__(
        self,
        outcomes: list[Outcome],
        journal: Journal | None,
        observe: Callable[[Change], None],
    ) -> None:
        self.outcomes = outcomes
        self.journal = journal
        self.observe = observe
        self.not_started: list[int] = []  # tasks that ended without being started

    # Attempts.

    async def record_started(
        self, i: int, backend: str, asked: Request | None, *, is_turn: bool, is_sent: bool
    ) -> None:
        """The next attempt at a task begins, with this request if it has one. `is_turn`: it is a turn
        of a session. `is_sent`: it starts once a worker of a cluster has taken it."""
        before = self.outcomes[i]
        started = self.outcomes[i] = replace(
            before, state="running", backend=None if backend == NO_BACKEND else backend,
            attempts=before.attempts + 1, error=None,
            session_id=asked and asked.session, ended_at=None, node=None,
            started_at=None if is_sent else datetime.now(UTC), is_sent=is_sent,
            check_progress=before.check_progress or CheckProgress(),
        )  # fmt: skip
        if self.journal is not None:
            session = (asked.session or asked.chosen_id) if asked and is_turn else None
            facts = {"sent": True} if is_sent else {}
            await self.journal.record_started(
                i, started.attempts, backend=started.backend, session=session, **facts
            )
        if not is_sent:
            self.observe(Change(kind="started", outcome=started))

    async def record_ended(
        self, outcome: Outcome, events: int | None = None, wait: Change | None = None
    ) -> None:
        """An attempt has ended; the task is over, or queued again, for what is told by `wait`.
        `events` is the open event log of the attempt, which is closed."""
        outcome = replace(outcome, check_progress=progress_after(outcome), is_sent=False)
        self.outcomes[outcome.index] = outcome
        if self.journal:
            await self.journal.record_ended(outcome, events, wait.wait_to_json() if wait else None)
        if outcome.state != "queued":
            self.observe(Change(kind="ended", outcome=outcome))
        elif wait is None:  # its worker was lost
            self.observe(Change(kind="node", outcome=replace(outcome, node=None)))

    def end_not_started(self, outcome: Outcome) -> None:
        """A task is over without being started; the journal gets all of these at the end."""
        self.outcomes[outcome.index] = outcome
        self.not_started.append(outcome.index)
        self.observe(Change(kind="ended", outcome=outcome))

    def as_recorded(self, outcome: Outcome) -> Outcome:
        """The outcome as it is kept, so that a table or a report shows no key that the journal hides.
        The answer of a run that is recorded is only in its directory."""
        if self.journal is None:
            return outcome
        return replace(
            outcome, output="", structured=None, error=self._without_secrets(outcome.error)
        )

    def _without_secrets(self, failure: Failure | None) -> Failure | None:
        if failure is None or self.journal is None:
            return failure
        scrub = self.journal.scrub
        return replace(failure, message=scrub(failure.message), hint=scrub(failure.hint))

    # Reports of attempts.

    def on_session(self, i: int, session_id: str) -> None:
        self.outcomes[i] = replace(self.outcomes[i], session_id=session_id)

    async def on_node(self, i: int, node: str) -> None:
        before = self.outcomes[i]
        self.outcomes[i] = outcome = with_node(before, node, datetime.now(UTC))
        if before.is_sent and not outcome.is_sent:
            self.observe(Change(kind="started", outcome=outcome))
        self.observe(Change(kind="node", outcome=until_taken(outcome)))
        if self.journal is not None:
            with suppress(SessionError):  # its end cannot be recorded either, which is reported
                await self.journal.record_node(i, node)

    def on_event(self, i: int, event: Event) -> None:
        self.observe(Change(kind="event", outcome=self.outcomes[i], event=event))

    def on_notice(self, i: int, message: str) -> None:
        self.observe(Change(kind="notice", outcome=self.outcomes[i], message=message))

    async def on_turn(self, i: int, turn: Checking, result: Result, events: int | None) -> None:
        before = self.outcomes[i].check_progress or CheckProgress()
        progress = replace(
            before, round=turn.round, result=result, check=None, in_round=False,
            changed=before.changed or turn.changed,
        )  # fmt: skip
        self.outcomes[i] = replace(
            self.outcomes[i], check_progress=progress,
            session_id=result.session_id or self.outcomes[i].session_id,
        )  # fmt: skip
        if self.journal is not None:
            await self.journal.record_turn(i, turn.round, result, events, changed=turn.changed)

    async def on_check(self, i: int, event: Checked) -> None:
        before, check = self.outcomes[i].check_progress or CheckProgress(), event.check
        failures = (*before.failures, event.failure) if event.failure else before.failures
        progress = replace(before, check=check, failures=failures)
        self.outcomes[i] = replace(self.outcomes[i], check=check, check_progress=progress)
        if self.journal is not None and check is not None and not event.again:
            await self.journal.record_check(i, event.round, check, event.failure)

    async def on_round(self, i: int, event: Round) -> None:
        before = self.outcomes[i].check_progress or CheckProgress()
        self.outcomes[i] = replace(self.outcomes[i], check_progress=replace(before, in_round=True))
        if self.journal is not None:
            await self.journal.record_round(i, event.round)
