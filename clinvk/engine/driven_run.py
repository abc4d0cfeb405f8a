"""A run of a plan that this process drives: its records, from before the first task to after the last,
and what it asks of the scheduler. Runs that continue another one are in `resumed_run`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from msgspec.structs import replace

from clinvk.disk.atomic import NoSpace
from clinvk.engine import answers, capacity
from clinvk.engine.executor import Executor, KeepsNews
from clinvk.engine.remembered_limits import find_limits
from clinvk.engine.run_context import RunContext
from clinvk.engine.storable import storable_plan
from clinvk.engine.until_ended import run_until_ended
from clinvk.errors import LimitError, SessionError
from clinvk.model.outcome import Outcome, RunResult, run_exit_code
from clinvk.model.plan import Plan
from clinvk.model.result import EXIT_CODES
from clinvk.plans import preflight
from clinvk.plans.labels import check_place
from clinvk.process.marker import MARKER, new_marker
from clinvk.process.threads import in_thread
from clinvk.runs import secrets
from clinvk.runs.control import run_facts
from clinvk.runs.folder import RunFolder, RunStore
from clinvk.runs.journal import Journal
from clinvk.runs.log import RunLock, RunLog
from clinvk.runs.output_dir import OutputDirectory

if TYPE_CHECKING:
    from clinvk.engine.scheduling.scheduler import Scheduler
    from clinvk.model.progress import Change

T = TypeVar("T")
Observe = Callable[["Change"], None]


class DrivenRun:
    """A new run of a plan. `await run()` once; `stop()` from anywhere in the same event loop."""

    _check = staticmethod(preflight.check_plan)
    _has_begun = False  # it is the rest of a run

    def __init__(
        self,
        context: RunContext,
        plan: Plan,
        *,
        observe: Observe = lambda _: None,
        notify: Callable[[str], None] = lambda _: None,
        executor: Executor | None = None,
        on_begun: Callable[[DrivenRun], None] | None = None,
    ) -> None:
        """`executor` runs the tasks; None: the one of the context. `on_begun` is called in a thread once
        the run is recorded, before a task is started. Raises `ClinvkError` if the plan cannot be
        started; nothing has happened then."""
        self.context = context
        self.executor = executor
        self.observe = observe
        self.notify = notify
        if context.cluster is not None:
            is_placed = plan.cluster is not None  # a run that is resumed
            plan = replace(plan, cluster=context.cluster.address)
            plan = plan if is_placed else context.cluster.place(plan, notify)
        elif executor is None:
            is_chosen = context.is_chosen or (self._has_begun and plan.cluster is None)
            check_place(plan, notify, is_chosen=is_chosen)
        self.preflights = self._check(plan, context.selector)
        self.plan = plan = self._with_worktrees(plan)
        self.scrub = secrets.create_scrubber(self.preflights.secrets, redacting=context.redact)
        self.folder: RunLog | None = None
        self.outcomes = _initial_outcomes(plan, self.preflights.tasks)
        self.scheduler: Scheduler | None = None
        self.outputs = (
            OutputDirectory(Path(rules.output_dir)) if (rules := plan.rules).output_dir else None
        )
        self._on_begun = on_begun
        self._on_ready: Callable[[], None] = lambda: None
        self._is_begun = False  # it is in the journal
        self._stopped: tuple[str, bool] | None = None
        self._observer_error: Exception | None = None  # raised by the observer
        self._keeper: KeepsNews | None = None  # the executor, if it is one
        for text in self.preflights.notices:
            notify(text)

    def create_folder(self) -> RunLog | None:
        """Create the records of the run; None for an ephemeral one."""
        if not self.plan.rules.ephemeral:
            self.folder = self.context.runs.create(self.stored_plan())
            self._record_worktrees(self.folder)
        return self.folder

    def stored_plan(self) -> Plan:
        """The plan as it may be stored. A task that contained a secret is `redacted` there."""
        return storable_plan(self.plan, self.scrub)

    @property
    def directory(self) -> RunFolder | None:
        """The directory of the run, if it has one."""
        return self.folder if isinstance(self.folder, RunFolder) else None

    def _with_worktrees(self, plan: Plan) -> Plan:
        """The plan with what its worktrees begin with. Raises `ClinvkError` if they cannot be
        created."""
        if all(task.worktree is None or task.worktree.commit for task in plan.tasks):
            return plan
        # Only with worktrees.
        from clinvk.worktrees.prepare import prepare_plan

        return prepare_plan(plan, self.context.env, self.notify)

    def _record_worktrees(self, folder: RunLog) -> None:
        """Keep in refs what the worktrees of a new run begin with. Raises `ClinvkError`; the run is
        deleted then."""
        if not any(task.worktree for task in self.plan.tasks):
            return
        # Only with worktrees.
        from clinvk.worktrees.prepare import keep_starts

        try:
            keep_starts(self.plan, folder.id, self.context.env)
        except BaseException:
            self.folder = None
            with suppress(SessionError):
                folder.delete_locked()
            raise

    async def run(self, on_ready: Callable[[], None] = lambda: None) -> RunResult:
        """The result. `on_ready` is called as soon as `outcomes` say which tasks are run. Raises
        `ClinvkError` if the run cannot be recorded; what was started is stopped then."""
        self._on_ready = on_ready
        return await self._run()

    async def _run(self) -> RunResult:
        folder = self.folder or await self.create_folder_off_loop()
        if folder is None:
            return await self._drive(None, "")
        with self._lock_new(folder) as lock:
            return await self._run_with_journal(folder, lock, rerun=[])

    async def create_folder_off_loop(self) -> RunLog | None:
        """`create_folder`, in a thread if it may wait for git or a server; cancelling this stops git."""
        if not self.may_wait and not any(task.worktree for task in self.plan.tasks):
            return self.create_folder()
        # 45 ms, and needed only once something runs.
        import anyio

        # Only if it may wait.
        from clinvk.worktrees.git import stopping_git

        try:
            return await stopping_git(self.create_folder)
        except BaseException:
            folder, self.folder = self.folder, None
            if folder is not None:  # it was cancelled when that was recorded
                with anyio.CancelScope(shield=True), suppress(SessionError):
                    await in_thread(folder.delete_locked)
            raise

    @property
    def may_wait(self) -> bool:
        """Whether its records, sessions or tasks are on a server."""
        return self.context.cluster is not None or not isinstance(
            self.folder or self.context.runs, RunFolder | RunStore
        )

    async def off_loop(self, work: Callable[[], T]) -> T:
        """The value of `work`, which is called in a thread if it may wait for a server."""
        return await in_thread(work) if self.may_wait else work()

    @contextmanager
    def _lock_new(self, folder: RunLog) -> Iterator[RunLock]:
        """The lock of a new run, which leaves nothing behind if it cannot start, for example on a
        full disk. A run that another clinvk process has locked already is left alone."""
        try:
            lock = folder.lock()
        except SessionError as error:
            if isinstance(error, NoSpace):
                with suppress(SessionError):
                    folder.delete()
            self.folder = None
            raise
        with lock:
            try:
                yield lock
            except BaseException:
                if not self._is_begun:
                    with suppress(SessionError):
                        folder.delete_locked()
                    self.folder = None
                raise

    def stop(self, why: str = "cancelled", *, now: bool = False) -> None:
        """Start no more tasks and stop those running; with `now`, kill them."""
        self._stopped = (why, now)
        if self.scheduler is not None:
            self.scheduler.stop(why, now=now)

    async def _run_with_journal(
        self,
        folder: RunLog,
        lock: RunLock,
        *,
        rerun: list[int],
        already_ended: Iterable[Outcome] = (),
        seconds: float = 0.0,
        joined: Sequence[int] = (),
    ) -> RunResult:
        """Drive it, with a journal. `already_ended` are outcomes that the journal does not have
        yet; it was driven for `seconds` before. The last attempts at the tasks `joined` go on."""
        marker = new_marker(self.context.env)
        await self.off_loop(lambda: lock.note(run_facts(marker, folder)))
        store = await self.off_loop(self.context.open_store)
        with Journal(folder, self.scrub, store.deferred().flush) as journal:
            here = self.plan.cluster is not None and self.context.cluster is None
            begin = partial(
                journal.record_begin, self.plan, rerun=rerun, seconds=seconds, joined=joined
            )
            await self.off_loop(lambda: begin(here=here))
            for outcome in already_ended:
                await journal.record_ended(outcome)
            if self._on_begun is not None:
                on_begun = self._on_begun
                await in_thread(lambda: on_begun(self))
            self._is_begun = True
            return await self._drive(journal, marker)

    async def _drive(self, journal: Journal | None, marker: str) -> RunResult:
        import anyio  # not needed to show a run

        # Only once something is to run: 10 ms.
        from clinvk.engine.scheduling.scheduler import Scheduler

        began, clock = datetime.now(UTC), time.monotonic()
        run_id = self.folder.id if self.folder else None
        executor = await self.off_loop(lambda: self._executor(marker))
        self.scheduler = scheduler = Scheduler(
            executor, self.plan, self.preflights.tasks, self.outcomes, run_id=run_id, journal=journal,
            output_of=self._output_for_prompts, structured_of=self.task_structured,
            observe=self._forward_change, decider_of=self._decider_of(executor, marker),
            most=self._room(), free_accounts=self._free_accounts if self.context.cluster else None,
        )  # fmt: skip
        if isinstance(executor, KeepsNews):
            self._keeper = executor
            for outcome in self.outcomes:
                self._forget(outcome)
        await self._begin_with_limits(scheduler)
        if self._stopped:
            scheduler.stop(self._stopped[0], now=self._stopped[1])
        self._on_ready()
        try:
            await run_until_ended(scheduler, self.folder)
        except (anyio.get_cancelled_exc_class(), KeyboardInterrupt):
            await self._conclude(scheduler, journal, began, clock)
            raise
        result = await self._conclude(scheduler, journal, began, clock)
        if self._keeper is not None:
            await self._keeper.close()
        if self._observer_error is not None:
            raise self._observer_error
        if self.outputs:
            self.outputs.write_results(self.with_outputs(result))
            if self.outputs.problem:
                self.notify(f"{self.outputs.problem}; the run itself is complete")
        return result

    def _decider_of(self, executor: Executor, marker: str) -> Callable[[int], Executor] | None:
        """What chooses between the candidates of a task; None if no task has any."""
        if not any(task.decides for task in self.plan.tasks):
            return None
        # Only for tasks with candidates.
        from clinvk.engine.decisions.decider import Decider

        return lambda i: Decider(
            self.plan, i, self.outcomes, executor, with_output=self.with_output,
            env={**self.context.env, **({MARKER: marker} if marker else {})}, log=self.folder,
        )  # fmt: skip

    def _executor(self, marker: str) -> Executor:
        if self.executor is not None:
            return self.executor
        if self.context.cluster is not None:
            return self.context.cluster.create_executor(self.folder)
        return self.context.create_executor(marker)

    async def _free_accounts(self, backend: str) -> frozenset[str]:
        """The accounts of workers that can run tasks of a backend although another is at its limit."""
        cluster = self.context.cluster
        if cluster is None:
            return frozenset()
        return await in_thread(lambda: cluster.free_accounts(backend))

    async def _begin_with_limits(self, scheduler: Scheduler) -> None:
        """Tell the scheduler and the user about rate limits that were remembered."""

        def find() -> dict[str, LimitError]:
            return find_limits(
                self.plan, self.preflights.tasks, self.outcomes, self.context.find_limit
            )

        if self.context.cluster is None:
            found = find()
        else:  # those of the cluster are in Redis
            found = await in_thread(find)
        done = scheduler.begin_with_limits({name: e.retry_at for name, e in found.items()})
        for name, error in found.items():
            self.notify(f"{error.message}; {done[name]}")

    async def _conclude(
        self, scheduler: Scheduler, journal: Journal | None, began: datetime, clock: float
    ) -> RunResult:
        """The result, after recording it."""
        # Ctrl-C in a prompt ends its turn, and not the run around it.
        was_cancelled = self.plan.kind == "prompt" and self.outcomes[0].state == "cancelled"
        state = _run_state(self.outcomes, cancelled=scheduler.cancelled or was_cancelled)
        began, clock = self._since(began, clock)
        result = RunResult(
            id=self.folder.id if self.folder else None, kind=self.plan.kind, state=state, results=tuple(self.outcomes),
            seconds=time.monotonic() - clock, why=scheduler.end_reason, source=self.plan.source,
            started_at=began, ended_at=datetime.now(UTC),
            where=self.folder.where if self.folder else "",
        )  # fmt: skip
        if journal:
            not_started = [self.outcomes[i] for i in scheduler.not_started]
            await self.off_loop(lambda: journal.record_not_started(not_started))
            await self.off_loop(lambda: journal.record_end(result))
        return result

    def _since(self, began: datetime, clock: float) -> tuple[datetime, float]:
        """When the run started, on both clocks, if this process started it."""
        return began, clock

    def _room(self) -> int | None:
        """How many tasks can run at a time here; reports it if that is fewer than requested."""
        if self.context.cluster is not None:
            return None
        queued = sum(o.state == "queued" for o in self.outcomes)
        found = capacity.room() if min(queued, self.plan.rules.max_parallel) > 1 else None
        if found is None:
            return None
        most, limit = found
        if most < min(queued, self.plan.rules.max_parallel):
            self.notify(
                f"running {most} at a time, not {self.plan.rules.max_parallel}: there can be only "
                f"{limit}"
            )
        return most

    def task_output(self, index: int) -> str:
        """What a task has answered so far."""
        return self.with_output(self.outcomes[index]).output

    def _output_for_prompts(self, index: int) -> str:
        return answers.output_for_prompts(self.with_output(self.outcomes[index]))

    def task_structured(self, index: int) -> Any:
        """The structured answer of a task."""
        task = self.plan.tasks[index]
        return answers.structured_answer(task, self.with_output(self.outcomes[index]))

    def with_output(self, outcome: Outcome) -> Outcome:
        return self.folder.with_output(outcome) if self.folder else outcome

    def with_outputs(self, result: RunResult) -> RunResult:
        """The result with the answer of each task, which a recorded run only has in its
        directory."""
        return self.folder.with_outputs(result) if self.folder else result

    def new_outcomes(self, result: RunResult) -> set[int]:
        """The positions of the tasks that ended in this run, not in one that it continues."""
        return {outcome.index for outcome in result.results}

    def _forward_change(self, change: Change) -> None:
        if self.outputs and change.kind == "ended" and change.outcome:
            index = change.outcome.index
            self.outputs.write_answer(self.plan.tasks[index].key, self.task_output(index))
        if change.kind == "ended" and change.outcome:
            self._forget(change.outcome)
        try:
            self.observe(change)
        except Exception as error:  # noqa: BLE001 - raised again, once all is written down
            # An error of the observer must not lose what is known about the tasks.
            self._observer_error = self._observer_error or error
            self.stop("stopped, because its observer failed")

    def _forget(self, outcome: Outcome) -> None:
        """Have the news about a task deleted whose end is recorded. If it is not known how it ended, the
        workers may still say that later."""
        if self._keeper is not None and outcome.state in ("done", "failed"):
            self._keeper.forget(outcome.index)


def _initial_outcomes(plan: Plan, asks: list[preflight.Preflight]) -> list[Outcome]:
    return [
        Outcome(
            index=i,
            name=t.name,
            key=t.key,
            tags=t.tags,
            meta=t.meta,
            backend=None if t.decides else asks[i].backend,
            candidate_of=plan.name_of(t.candidate_of),
        )
        for i, t in enumerate(plan.tasks)
    ]


def _run_state(outcomes: list[Outcome], *, cancelled: bool) -> str:
    if cancelled and not all(
        o.is_settled for o in outcomes
    ):  # otherwise there was nothing left to cancel
        return "cancelled"
    code = run_exit_code("", outcomes)
    return {0: "done", EXIT_CODES["limit"]: "waiting"}.get(code, "failed")
