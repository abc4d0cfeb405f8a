"""Runs the tasks of a plan: in the order of their needs, a limited number at a time, and as far as
its rules allow.

A task that is retried returns to the queue of its backend. A rate limit pauses only the backend it
applies to. All decisions are made in one place, between two waits.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio
from msgspec.structs import replace

from clinvk.engine import backoff
from clinvk.engine.attempt import Attempt, WaitingRoom, failed_result
from clinvk.engine.backend_pool import BackendPool
from clinvk.engine.budget import BudgetTracker
from clinvk.engine.executor import Allowance, KnowsAllowance
from clinvk.engine.graph import Step, TaskGraph, graph_states
from clinvk.engine.requests import RequestBuilder
from clinvk.errors import ClinvkError, SessionError
from clinvk.model.checks.progress import CheckProgress
from clinvk.model.events import Checked, Checking, Event, Round
from clinvk.model.outcome import Outcome, add_usage
from clinvk.model.plan import Plan
from clinvk.model.progress import Change
from clinvk.model.request import Request
from clinvk.model.result import Failure, Result
from clinvk.plans import halt as halting
from clinvk.plans.loops.rounds import Rounds, not_needed
from clinvk.plans.preflight import NO_BACKEND, Preflight
from clinvk.process import wall_clock
from clinvk.process.groups import raise_first
from clinvk.runs.replay import progress_after

if TYPE_CHECKING:
    from anyio.abc import TaskGroup

    from clinvk.engine.executor import Executor
    from clinvk.runs.journal import Journal


# Why a task that depends on one in this state is skipped.
_UNMET = {
    "failed": "failed",
    "skipped": "was skipped",
    "cancelled": "was cancelled",
    "indeterminate": "was interrupted",
}


FreeAccounts = Callable[[str], Awaitable[frozenset[str]]]  # of a backend
LOOK_INTERVAL = 5.0  # seconds between looks at whether a backend that is waited for has one
MAX_INTERRUPTIONS = 3  # of one task in a run


class Scheduler:
    """One run of a plan. `outcomes` holds the state of each task; queued ones are run."""

    def __init__(
        self,
        executor: Executor,
        plan: Plan,
        preflights: Sequence[Preflight],
        outcomes: list[Outcome],
        *,
        run_id: str | None,
        journal: Journal | None,
        output_of: Callable[[int], str],
        decider_of: Callable[[int], Executor] | None = None,
        structured_of: Callable[[int], Any] | None = None,
        observe: Callable[[Change], None] = lambda _: None,
        rng: random.Random | None = None,
        most: int | None = None,
        clock: wall_clock.Clock = wall_clock.SYSTEM,
        free_accounts: FreeAccounts | None = None,
    ) -> None:
        """`most` is how many tasks this machine can run at a time, if that is known. `decider_of`
        returns what runs a task that chooses between candidates. `free_accounts` returns the
        accounts of a backend that are at no rate limit, if there may be several."""
        self.executor = executor
        self.plan = plan
        self.rules = plan.rules
        self.preflights = preflights
        self.outcomes = outcomes
        self.journal = journal
        self.observe = observe
        self._decider_of = decider_of
        self._free_accounts = free_accounts
        self._free_before: dict[str, frozenset[str]] = {}  # those when the backend was paused
        self._next_look = 0.0
        self._limited_on: dict[int, set[str]] = {}  # nodes on which a task has met a rate limit
        self._most = min(plan.rules.max_parallel, most or plan.rules.max_parallel)
        self.rng = rng or random.Random()  # noqa: S311 - nobody gains by guessing it
        self.end_reason: str | None = None  # why it stops early
        self.cancelled = False
        self._is_budget_spent = False  # that is why it stops early
        self.attempts: dict[int, Attempt] = {}  # running
        self._room = WaitingRoom(self.attempts.values(), self.on_notice)
        self._queues: dict[str, list[int]] = {}  # backend: tasks that are ready to start
        self._delayed: list[tuple[float, int]] = []  # when, and which
        self._retry_times: dict[
            int, float
        ] = {}  # the same, for tasks whose attempt is not recorded yet
        self._backends = BackendPool(plan.rules, self.rng, clock)
        self._requests = RequestBuilder(
            plan, preflights, outcomes, output_of, run_id, journal.folder if journal else None
        )
        structured = structured_of or (lambda i: self.outcomes[i].structured)
        self._rounds = Rounds(plan, outcomes, structured)
        self._budget = BudgetTracker(plan.rules.budget, outcomes)
        self._graph = TaskGraph(plan.tasks, graph_states(outcomes))
        self._retry_counts: dict[int, int] = {}  # how often a task failed in a way that may pass
        self._interruptions: dict[int, int] = {}  # how often the worker of a task was lost
        self._failed_count = 0  # in this process: a resumed run does not count earlier failures
        self._ended_count = 0
        self.not_started: list[int] = []  # tasks that ended without being started
        self._wake = anyio.Event()

    def begin_with_limits(self, limits: Mapping[str, datetime]) -> dict[str, str]:
        """Treat these backends as being at a rate limit until then; returns what is done about
        each. Call it before `run`."""
        self._backends.record_remembered(limits)
        self._free_before |= dict.fromkeys(limits, frozenset())
        return {
            name: self._backends.describe_alternative(name) or "waiting for it to end"
            for name in limits
        }

    async def run(self) -> None:
        """Run until there is nothing left to start. Raises `ClinvkError` if the journal cannot be
        written; everything that was started is stopped then."""
        self._follow(self._graph.begin())
        self._apply_rules()  # the budget may be spent already
        with raise_first(ClinvkError, OSError):
            async with anyio.create_task_group() as tasks:
                await self._start_all(tasks)
        self._close_not_started()

    async def _start_all(self, tasks: TaskGroup) -> None:
        while True:
            self._wake = anyio.Event()
            if self._free_before and self._free_accounts is not None:
                await self._look_for_accounts(self._free_accounts)
            self._enqueue_due()
            while (found := self._next_task()) is not None:
                self._launch(tasks, *found)
            moment = self._next_wake_time()
            if not self.attempts and moment is None:
                return
            with anyio.CancelScope(deadline=float("inf") if moment is None else moment):
                await self._wake.wait()

    async def _look_for_accounts(self, free_accounts: FreeAccounts) -> None:
        """Go on with backends that are waited for if they have an account at no rate limit that was not
        there before: a worker has come, or the limit was cleared."""
        if anyio.current_time() < self._next_look:
            return
        self._next_look = anyio.current_time() + LOOK_INTERVAL
        for backend, before in list(self._free_before.items()):
            if not self._backends.is_waited_for(backend):
                del self._free_before[backend]
            elif await free_accounts(backend) - before:
                self._backends.end_pause(backend)
                del self._free_before[backend]

    def stop(self, why: str = "cancelled", *, now: bool = False) -> None:
        """Start no more tasks and stop those running; with `now`, kill them."""
        self.cancelled = True
        self._halt(why)
        self._cancel_all(why, now=now)

    # Starting tasks.

    def _follow(self, step: Step) -> None:
        """Queue what can start now, and skip what never will."""
        for i, need in step.skipped:
            self._skip(i, need)
        for i in step.ready:
            self._enqueue(i)
            self._wake.set()

    def _enqueue(self, i: int) -> None:
        heapq.heappush(self._queues.setdefault(self.preflights[i].backend, []), i)

    def _enqueue_due(self) -> None:
        now = anyio.current_time()
        while self._delayed and self._delayed[0][0] <= now:
            self._enqueue(heapq.heappop(self._delayed)[1])
        self._backends.end_expired_pauses()

    def _next_task(self) -> tuple[int, str] | None:
        """The first task, in the order of the plan, with a free backend, and that backend."""
        if len(self.attempts) >= self._most or self._room.is_occupied:
            return None  # in the latter case, there is no room for those that are running
        if (choice := self._next_choice()) is not None:
            return choice, NO_BACKEND
        if self.end_reason is not None:
            return None
        best: tuple[int, str, str] | None = None
        for name, queue in self._queues.items():
            if not queue or (best is not None and queue[0] > best[0]):
                continue
            if backend := self._backends.find_free(name):
                best = (queue[0], name, backend)
        if best is None:
            return None
        if self._budget.would_exceed(len(self.attempts) + 1):
            if not self.attempts:
                self._halt_for_budget()
            return None
        heapq.heappop(self._queues[best[1]])
        return best[0], best[2]

    def _next_choice(self) -> int | None:
        """The first task that only chooses between candidates, which have been paid for: also once
        the budget is spent."""
        queue = self._queues.get(NO_BACKEND)
        is_stopped = self.end_reason is not None and not self._is_budget_spent
        if not queue or is_stopped or self.cancelled:
            return None
        return heapq.heappop(queue)

    def _next_wake_time(self) -> float | None:
        """The next time at which a task can start even if no other one ends."""
        if self.end_reason is not None:
            return None
        moments = [self._delayed[0][0]] if self._delayed else []
        if (seconds := self._backends.seconds_until_a_pause_ends()) is not None:
            moments.append(anyio.current_time() + seconds)
        waiting = any(self._queues.values()) or self._delayed
        return min(moments) if moments and waiting else None

    # One task.

    def _launch(self, tasks: TaskGroup, i: int, backend: str) -> None:
        self._backends.acquire(backend)
        self.attempts[i] = attempt = Attempt(i, backend, self.outcomes[i], self)
        tasks.start_soon(self._run_task, i, attempt)

    async def _run_task(self, i: int, attempt: Attempt) -> None:
        try:
            with attempt.scope:
                await self._run_attempt(i, attempt)
            if attempt.scope.cancelled_caught:
                await self._record_ended(i, self._cancelled_outcome(i, attempt))
        except (ClinvkError, OSError):  # the run cannot be recorded or shown
            raise
        except Exception as error:
            if self.outcomes[i].state != "running":
                raise
            await self._record_ended(i, self._mishap_outcome(i, error))
        finally:
            del self.attempts[i]
            self._backends.release(attempt.backend)
            self._room.release_one()
            self._wake.set()

    async def _run_attempt(self, i: int, attempt: Attempt) -> None:
        outcome, backend = self.outcomes[i], attempt.backend
        number = outcome.attempts + 1
        request = self._request(i, number, backend)
        asked = request if isinstance(request, Request) else None
        started = self.outcomes[i] = replace(
            outcome, state="running", backend=None if backend == NO_BACKEND else backend,
            attempts=number, error=None,
            session_id=asked and asked.session, started_at=datetime.now(UTC), ended_at=None, node=None,
            check_progress=outcome.check_progress or CheckProgress(),
        )  # fmt: skip
        if self.journal is not None:
            is_turn = asked is not None and self.plan.tasks[i].decides is None
            session = (asked.session or asked.chosen_id) if asked and is_turn else None
            await self.journal.record_started(i, number, backend=started.backend, session=session)
        self.observe(Change(kind="started", outcome=started))
        await attempt.run(
            self._executor_of(i), request, self._room, self.journal,
            check=partial(self._requests.check, i),
            check_answer=partial(self._check_answer, i),
            is_dry_run=self.plan.tasks[i].dry_run,
        )  # fmt: skip

    def _executor_of(self, i: int) -> Executor:
        if self.plan.tasks[i].decides is None or self._decider_of is None:
            return self.executor
        return self._decider_of(i)

    def _check_answer(self, i: int, result: Result) -> Result:
        return self._rounds.judge(i, self._requests.check_answer(i, result))

    def _request(self, i: int, number: int, backend: str) -> Request | Exception:
        """The request of a task, or why it has none."""
        try:
            return self._requests.build(i, number, backend)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is about this task alone
            return error

    # Reports of attempts.

    def on_session(self, i: int, session_id: str) -> None:
        self.outcomes[i] = replace(self.outcomes[i], session_id=session_id)

    async def on_node(self, i: int, node: str) -> None:
        self.outcomes[i] = outcome = replace(self.outcomes[i], node=node)
        self.observe(Change(kind="node", outcome=outcome))
        if self.journal is not None:
            with suppress(SessionError):  # its end cannot be recorded either, which is reported
                await self.journal.record_node(i, node)

    def on_event(self, i: int, event: Event) -> None:
        self.observe(Change(kind="event", outcome=self.outcomes[i], event=event))

    def on_notice(self, i: int, message: str) -> None:
        self.observe(Change(kind="notice", outcome=self.outcomes[i], message=message))

    def may_continue(self, result: Result) -> str | None:
        """Why a task may have no further turn: the run is stopping, or its budget is spent."""
        return self._allowance().why_not(result)

    def _allowance(self) -> Allowance:
        return Allowance(self.end_reason, self._budget.cost.left, self._budget.tokens.left)

    def _share_allowance(self) -> None:
        """Tell an executor whose tasks run on other machines."""
        if isinstance(self.executor, KnowsAllowance):
            self.executor.share_allowance(self._allowance())

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

    async def on_result(self, i: int, result: Result, events: int | None) -> None:
        before = self.outcomes[i]
        counts = not self.plan.tasks[i].dry_run
        if counts and (told := self._budget.add(result)):
            self.observe(Change(kind="notice", outcome=before, message=told))
        outcome = replace(
            add_usage(before, result.usage, result.cost),
            state="done" if result.ok else "failed",
            model=result.model,
            session_id=None if self.rules.ephemeral else result.session_id or before.session_id,
            output="" if self.journal else result.text,
            structured=None if self.journal else result.structured,
            error=self._scrub_failure(result.error),
            check=result.check,
            seconds=result.seconds,
            exit_code=result.exit_code,
            ended_at=datetime.now(UTC),
            worktree=result.worktree or before.worktree,
        )
        if result.decision is not None:
            outcome = replace(
                outcome, decision=result.decision, backend=result.backend or None,
                session_id=result.session_id, worktree=result.worktree,
            )  # fmt: skip
        kind = result.error.kind if result.error else None
        wait: Change | None = None
        if kind == "cancelled":
            outcome = replace(outcome, state="cancelled")
        elif kind == "indeterminate":
            outcome = self._interrupted_outcome(outcome)
        elif kind == "limit" and outcome.error and self.end_reason is None:
            wait = await self._try_other_account(outcome, outcome.error) or self._handle_limit(
                outcome, outcome.error
            )
        elif backoff.is_transient(result.error) and self.end_reason is None and self._may_retry(i):
            wait = self._schedule_retry(outcome)
        elif result.ok:
            self._backends.record_success(before.backend or "")
        if wait is not None:
            self.observe(wait)
            outcome = wait.outcome or outcome
        await self._record_ended(i, outcome, events, wait)

    async def _record_ended(
        self, i: int, outcome: Outcome, events: int | None = None, wait: Change | None = None
    ) -> None:
        """Record the state of the task and what it waits for, and act on it."""
        outcome = replace(outcome, check_progress=progress_after(outcome))
        self.outcomes[i] = outcome
        if self.journal:
            await self.journal.record_ended(outcome, events, wait.wait_to_json() if wait else None)
        if outcome.state == "queued":  # only once that is written: the next attempt is appended
            self._requeue(i)
            self._apply_rules()  # its usage counts
            return
        self.observe(Change(kind="ended", outcome=outcome))
        if outcome.state in ("done", "failed") and outcome.candidate_of is None:
            self._ended_count += 1
            self._failed_count += outcome.state == "failed"
        self._follow(self._close_rounds(i))
        self._follow(self._graph.finish(i, outcome.state))
        self._apply_rules()

    def _scrub_failure(self, failure: Failure | None) -> Failure | None:
        """The outcome as stored, so that a table or a report shows no key that the journal
        hides."""
        if failure is None or self.journal is None:
            return failure
        scrub = self.journal.scrub
        return replace(failure, message=scrub(failure.message), hint=scrub(failure.hint))

    def _requeue(self, i: int) -> None:
        if i in self._retry_times:
            heapq.heappush(self._delayed, (self._retry_times.pop(i), i))
        else:
            self._enqueue(i)

    def _interrupted_outcome(self, outcome: Outcome) -> Outcome:
        """The outcome of a task whose worker was lost: it is run again if it may be, but not for
        ever, since it may be what ends the workers."""
        i = outcome.index
        self._interruptions[i] = count = self._interruptions.get(i, 0) + 1
        again = self.plan.tasks[i].idempotent and count < MAX_INTERRUPTIONS
        if again and self.end_reason is None:
            self.on_notice(i, f"{outcome.error.message if outcome.error else ''}; running it again")
            return replace(outcome, state="queued")
        return replace(outcome, state="indeterminate")

    def _may_retry(self, i: int) -> bool:
        return self._retry_counts.get(i, 0) < self.plan.retries_of(i)

    def _schedule_retry(self, outcome: Outcome) -> Change:
        """Return the task to the queue after a delay."""
        i = outcome.index
        self._retry_counts[i] = tries = self._retry_counts.get(i, 0) + 1
        seconds = backoff.backoff_seconds(self.rules.retry_delay, tries, self.rng, outcome.error)
        until = datetime.fromtimestamp(datetime.now(UTC).timestamp() + seconds, UTC)
        self._retry_times[i] = anyio.current_time() + seconds
        return Change(kind="retry", outcome=replace(outcome, state="queued"), until=until)

    async def _try_other_account(self, outcome: Outcome, failure: Failure) -> Change | None:
        """Return the task to the queue if a node with another account may run it now: the limit is that
        of an account. At most once for each node, since nodes know little of each other."""
        if self._free_accounts is None or failure.retry_at is None:
            return None
        tried = self._limited_on.setdefault(outcome.index, set())
        backend, node = outcome.backend or "", outcome.node
        free = await self._free_accounts(backend)
        if node is None or node in tried or not free:
            tried.clear()
            self._free_before[backend] = free
            return None
        tried.add(node)
        self.on_notice(
            outcome.index, f"{backend} is at a rate limit on {node}; trying another account"
        )
        again = replace(outcome, state="queued", error=replace(failure, retry_at=None))
        return Change(kind="retry", outcome=again, until=datetime.now(UTC), message=failure.message)

    def _handle_limit(self, outcome: Outcome, failure: Failure) -> Change:
        """Pause its backend; the task waits for it, or has failed."""
        pause = self._backends.record_limit(outcome.backend or "", failure)
        if self.rules.limits.action == "fail":
            stands = outcome
        elif self._backends.is_closed_for_good(self.preflights[outcome.index].backend):
            stands = replace(outcome, state="waiting")
        else:
            stands = replace(
                outcome, state="queued", error=replace(failure, retry_at=pause.ends_at)
            )
        return Change(
            kind="limit", outcome=stands, until=pause.ends_at, message=failure.message,
            instead=self._backends.describe_alternative(outcome.backend or ""),
        )  # fmt: skip

    def _skip(self, i: int, need: int) -> None:
        """A task that it needs has failed, so it is not run."""
        name, state = self.plan.tasks[need].name, self.outcomes[need].state
        why = _UNMET.get(state, "did not succeed")
        failure = Failure("skipped", f"skipped: depends on {name!r}, which {why}")
        self.outcomes[i] = outcome = replace(
            self.outcomes[i], state="skipped", error=failure, ended_at=datetime.now(UTC)
        )
        self.not_started.append(i)
        self.observe(Change(kind="ended", outcome=outcome))

    def _close_rounds(self, i: int) -> Step:
        """Skip the steps that a loop does not need any more."""
        ended = self._rounds.not_needed_after(i)
        for j, failure in ended.items():
            self.outcomes[j] = outcome = not_needed(self.outcomes[j], failure)
            self.not_started.append(j)
            self.observe(Change(kind="ended", outcome=outcome))
        return self._graph.close(list(ended))

    def _mishap_outcome(self, i: int, error: Exception) -> Outcome:
        """The outcome of a task for which an unexpected exception was raised: the others go on."""
        failed = failed_result(self.outcomes[i].backend or "", error)
        return replace(
            self.outcomes[i], state="failed", error=self._scrub_failure(failed.error),
            exit_code=failed.exit_code, ended_at=datetime.now(UTC),
        )  # fmt: skip

    def _cancelled_outcome(self, i: int, attempt: Attempt) -> Outcome:
        """The outcome as if it had not started, if nothing was sent to its CLI: it waited for
        another turn of its session, or for a login."""
        if attempt.running is None:
            return self._not_started_outcome(attempt.outcome_before)
        failure = Failure("cancelled", attempt.cancel_reason)
        return replace(
            self.outcomes[i], state="cancelled", error=failure, exit_code=7,
            ended_at=datetime.now(UTC),
        )  # fmt: skip

    # The rules.

    def _apply_rules(self) -> None:
        """Stop the run if its rules say so."""
        self._stop_if_needed()
        self._share_allowance()

    def _stop_if_needed(self) -> None:
        if self.end_reason is not None:
            return
        halt = self.rules.halt
        if halting.is_reached(halt, self._failed_count, self._ended_count):
            self._halt(
                f"{self._failed_count} of {self._ended_count} tasks failed (halt: {halting.format_halt(halt)})"
            )
            if halt.when == "now":
                self._cancel_all("stopped, because others failed", now=False)
        elif self._budget.is_spent():
            self._halt_for_budget()
            self._cancel_all("stopped, because the budget is spent", now=False, is_free=False)

    def _halt_for_budget(self) -> None:
        self._is_budget_spent = True
        self._halt(self._budget.end_reason())

    def _halt(self, why: str) -> None:
        self.end_reason = self.end_reason or why
        self._share_allowance()
        self._wake.set()

    def _cancel_all(self, why: str, *, now: bool, is_free: bool = True) -> None:
        """Cancel what runs; without `is_free`, not what costs nothing."""
        for attempt in list(self.attempts.values()):
            if is_free or attempt.backend != NO_BACKEND:
                attempt.cancel(why, now=now)

    def _close_not_started(self) -> None:
        """Report why each task that did not start was not started."""
        for i, outcome in enumerate(self.outcomes):
            if outcome.state == "queued":
                self.outcomes[i] = left = self._leftover_outcome(i)
                self.not_started.append(i)
                self.observe(Change(kind="ended", outcome=left))

    def _leftover_outcome(self, i: int) -> Outcome:
        if self.end_reason is not None:
            return self._not_started_outcome(self.outcomes[i])
        backend = self.preflights[i].backend
        pause = self._backends.long_pause(backend)
        what = f"{backend} is waiting" if pause else "a task that it needs is waiting"
        failure = Failure(
            "limit", f"{what} for a rate limit to end", None, pause.ends_at if pause else None
        )
        return replace(self.outcomes[i], state="waiting", error=failure)

    def _not_started_outcome(self, outcome: Outcome) -> Outcome:
        """The outcome of a task that was not run, since the run has stopped."""
        said = f"not started: {self.end_reason}"
        if outcome.error is not None:
            said = f"not retried: {self.end_reason}; it had failed: {outcome.error.message}"
        return replace(outcome, state="cancelled", error=Failure("not_started", said))
