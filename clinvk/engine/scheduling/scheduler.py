"""Runs the tasks of a plan: in the order of their needs, a limited number at a time, and as far as
its rules allow.

Here is what starts, and what stops the run. How each task stands is kept in `states`, and whether one
gets another attempt is decided in `retries`. All decisions are made between two waits.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio

from clinvk.engine.executor import Allowance, HasWorkers, KnowsAllowance
from clinvk.engine.scheduling import endings
from clinvk.engine.scheduling.accounts import Accounts, FreeAccounts
from clinvk.engine.scheduling.attempt import Attempt, WaitingRoom, failed_result
from clinvk.engine.scheduling.backend_pool import BackendPool
from clinvk.engine.scheduling.budget import BudgetTracker
from clinvk.engine.scheduling.graph import Step, TaskGraph, graph_states
from clinvk.engine.scheduling.ready import ReadyTasks
from clinvk.engine.scheduling.requests import RequestBuilder
from clinvk.engine.scheduling.retries import Retries
from clinvk.engine.scheduling.states import TaskStates
from clinvk.errors import ClinvkError
from clinvk.model.outcome import Outcome
from clinvk.model.plan import Plan
from clinvk.model.progress import Change
from clinvk.model.request import Request
from clinvk.model.result import Result
from clinvk.plans import halt as halting
from clinvk.plans.loops.rounds import Rounds, not_needed
from clinvk.plans.preflight import NO_BACKEND, Preflight
from clinvk.process import wall_clock
from clinvk.process.groups import raise_first

if TYPE_CHECKING:
    from anyio.abc import TaskGroup

    from clinvk.engine.executor import Executor
    from clinvk.runs.journal import Journal


class Scheduler:
    """One run of a plan, the `Owner` of its attempts. `outcomes` holds the state of each task; queued
    ones are run."""

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
        rng = rng or random.Random()  # noqa: S311 - nobody gains by guessing it
        self.executor = executor
        self.plan = plan
        self.preflights = preflights
        self.outcomes = outcomes
        self.journal = journal
        self.attempts: dict[int, Attempt] = {}  # running
        self.end_reason: str | None = None  # why it stops early
        self.cancelled = False
        self._is_budget_spent = False  # that is why it stops early
        self._decider_of = decider_of
        self._most = min(plan.rules.max_parallel, most or plan.rules.max_parallel)
        self._states = states = TaskStates(outcomes, journal, observe)
        self._backends = BackendPool(plan.rules, rng, clock)
        self._accounts = Accounts(self._backends, free_accounts)
        self._retries = Retries(
            plan, preflights, self._backends, self._accounts, rng, states.on_notice
        )
        self._requests = RequestBuilder(
            plan, preflights, outcomes, output_of, run_id, journal.folder if journal else None
        )
        structured = structured_of or (lambda i: self.outcomes[i].structured)
        self._rounds = Rounds(plan, outcomes, structured)
        self._budget = BudgetTracker(plan.rules.budget, outcomes)
        self._graph = TaskGraph(plan.tasks, graph_states(outcomes))
        self._ready = ReadyTasks(preflights)
        self._room = WaitingRoom(self.attempts.values(), states.on_notice)
        self._failed_count = 0  # in this process: a resumed run does not count earlier failures
        self._ended_count = 0
        self._wake = anyio.Event()

    @property
    def not_started(self) -> Sequence[int]:
        """The tasks that ended without being started."""
        return self._states.not_started

    def begin_with_limits(self, limits: Mapping[str, datetime]) -> dict[str, str]:
        """Treat these backends as being at a rate limit until then; returns what is done about
        each. Call it before `run`."""
        self._backends.record_remembered(limits)
        self._accounts.begin_paused(limits)
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
            await self._accounts.end_pauses()
            self._ready.add_due()
            self._backends.end_expired_pauses()
            while (found := self._next_task()) is not None:
                self._launch(tasks, *found)
            moment = self._next_wake_time()
            if not self.attempts and moment is None:
                return
            with anyio.CancelScope(deadline=float("inf") if moment is None else moment):
                await self._wake.wait()

    def stop(self, why: str = "cancelled", *, now: bool = False) -> None:
        """Start no more tasks and stop those running; with `now`, kill them."""
        self.cancelled = True
        self._halt(why)
        self._cancel_all(why, now=now)

    # Starting tasks.

    def _follow(self, step: Step) -> None:
        """Queue what can start now, and skip what never will."""
        for i, need in step.skipped:
            self._states.end_not_started(endings.skipped(self.outcomes[i], self.outcomes[need]))
        for i in step.ready:
            self._ready.add(i)
            self._wake.set()

    def _next_task(self) -> tuple[int, str] | None:
        """The first task, in the order of the plan, with a free backend, and that backend."""
        if len(self.attempts) >= self._most or self._room.is_occupied:
            return None  # in the latter case, there is no room for those that are running
        if (choice := self._next_choice()) is not None:
            return choice, NO_BACKEND
        if self.end_reason is not None:
            return None
        found = self._ready.find_first(self._backends.find_free)
        if found is None:
            return None
        if self._budget.would_exceed(len(self.attempts) + 1):
            if not self.attempts:
                self._halt_for_budget()
            return None
        wanted, backend = found
        return self._ready.take(wanted), backend

    def _next_choice(self) -> int | None:
        """The first task that only chooses between candidates, which have been paid for: also once
        the budget is spent."""
        is_stopped = self.end_reason is not None and not self._is_budget_spent
        return None if is_stopped or self.cancelled else self._ready.take_choice()

    def _next_wake_time(self) -> float | None:
        """The next time at which a task can start even if no other one ends."""
        if self.end_reason is not None or not self._ready:
            return None
        moments = [] if self._ready.next_moment is None else [self._ready.next_moment]
        if (seconds := self._backends.seconds_until_a_pause_ends()) is not None:
            moments.append(anyio.current_time() + seconds)
        return min(moments, default=None)

    # One task.

    def _launch(self, tasks: TaskGroup, i: int, backend: str) -> None:
        self._backends.acquire(backend)
        self.attempts[i] = attempt = Attempt(i, backend, self.outcomes[i], self, self._states)
        tasks.start_soon(self._run_task, i, attempt)

    async def _run_task(self, i: int, attempt: Attempt) -> None:
        try:
            with attempt.scope:
                await self._run_attempt(i, attempt)
            if attempt.scope.cancelled_caught:
                await self._end(self._cancelled_outcome(i, attempt))
        except (ClinvkError, OSError):  # the run cannot be recorded or shown
            raise
        except Exception as error:
            before = self.outcomes[i]
            if before.state != "running":
                raise
            result = failed_result(before.backend or "", error)  # the other tasks go on
            await self._end(self._states.as_recorded(endings.failed(before, result)))
        finally:
            del self.attempts[i]
            self._backends.release(attempt.backend)
            self._room.release_one()
            self._wake.set()

    async def _run_attempt(self, i: int, attempt: Attempt) -> None:
        task = self.plan.tasks[i]
        request = await self._request(i, attempt.backend)
        asked = request if isinstance(request, Request) else None
        executor = self._executor_of(i)
        is_sent = asked is not None and isinstance(executor, HasWorkers) and not task.dry_run
        await self._states.record_started(
            i, attempt.backend, asked, is_turn=task.decides is None, is_sent=is_sent
        )
        await attempt.run(
            executor, request, self._room, self.journal,
            check=partial(self._requests.check, i),
            check_answer=partial(self._check_answer, i),
            is_dry_run=task.dry_run,
        )  # fmt: skip

    async def _request(self, i: int, backend: str) -> Request | Exception:
        """The request of a task, or why it has none."""
        build = partial(self._requests.build, i, self.outcomes[i].attempts + 1, backend)
        try:
            if not self._requests.may_wait(i):
                return build()
            # Only if it may.
            from clinvk.worktrees.git import stopping_git

            return await stopping_git(build)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is about this task alone
            return error

    def _executor_of(self, i: int) -> Executor:
        if self.plan.tasks[i].decides is None or self._decider_of is None:
            return self.executor
        return self._decider_of(i)

    def _check_answer(self, i: int, result: Result) -> Result:
        return self._rounds.judge(i, self._requests.check_answer(i, result))

    def may_continue(self, result: Result) -> str | None:
        """Why a task may have no further turn: the run is stopping, or its budget is spent."""
        return self._allowance().why_not(result)

    async def on_result(self, i: int, result: Result, events: int | None) -> None:
        before = self.outcomes[i]
        if not self.plan.tasks[i].dry_run and (told := self._budget.add(result)):
            self._states.on_notice(i, told)
        if result.ok:
            self._backends.record_success(before.backend or "")
        after = endings.with_result(before, result, ephemeral=self.plan.rules.ephemeral)
        after = self._states.as_recorded(after)
        next_ = await self._retries.follow(after, is_stopping=self.end_reason is not None)
        if next_.wait is not None:
            self._states.observe(next_.wait)
        await self._end(next_.outcome, events, next_.wait, next_.moment)

    async def _end(
        self,
        ended: Outcome,
        events: int | None = None,
        wait: Change | None = None,
        moment: float | None = None,
    ) -> None:
        """Record how the task stands and what it waits for, and act on it."""
        await self._states.record_ended(ended, events, wait)
        i, state = ended.index, ended.state
        if state == "queued":  # only once that is written: the next attempt is appended
            self._ready.add(i, moment)
            self._apply_rules()  # its usage counts
            return
        if state in ("done", "failed") and ended.candidate_of is None:
            self._ended_count += 1
            self._failed_count += state == "failed"
        self._follow(self._close_rounds(i))
        self._follow(self._graph.finish(i, state))
        self._apply_rules()

    def _close_rounds(self, i: int) -> Step:
        """Skip the steps that a loop does not need any more."""
        ended = self._rounds.not_needed_after(i)
        for j, failure in ended.items():
            self._states.end_not_started(not_needed(self.outcomes[j], failure))
        return self._graph.close(list(ended))

    def _cancelled_outcome(self, i: int, attempt: Attempt) -> Outcome:
        """The outcome as if it had not started, if nothing was sent to its CLI: it waited for
        another turn of its session, or for a login."""
        if attempt.running is None:
            return endings.not_started(attempt.outcome_before, self.end_reason)
        return endings.cancelled(self.outcomes[i], attempt.cancel_reason)

    # The rules.

    def _apply_rules(self) -> None:
        """Stop the run if its rules say so."""
        self._stop_if_needed()
        self._share_allowance()

    def _allowance(self) -> Allowance:
        return Allowance(self.end_reason, self._budget.cost.left, self._budget.tokens.left)

    def _share_allowance(self) -> None:
        """Tell an executor whose tasks run on other machines."""
        if isinstance(self.executor, KnowsAllowance):
            self.executor.share_allowance(self._allowance())

    def _stop_if_needed(self) -> None:
        if self.end_reason is not None:
            return
        halt = self.plan.rules.halt
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
        for left in list(self.outcomes):
            if left.state == "queued":
                self._states.end_not_started(self._leftover_outcome(left))

    def _leftover_outcome(self, left: Outcome) -> Outcome:
        if self.end_reason is not None:
            return endings.not_started(left, self.end_reason)
        backend = self.preflights[left.index].backend
        return endings.waiting(left, backend, self._backends.long_pause(backend))
