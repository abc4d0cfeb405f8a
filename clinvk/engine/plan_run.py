"""A plan, run from its first task to its last; and a run that was cut off, carried on."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import to_builtins
from msgspec.structs import replace

from clinvk.disk.atomic import NoSpace
from clinvk.dispatch.dispatcher import Dispatcher
from clinvk.engine import backoff, capacity
from clinvk.engine.executor import Executor, LocalExecutor
from clinvk.engine.rerun import SelectTasks, requeue_if_unfinished
from clinvk.errors import SessionError
from clinvk.model.outcome import Outcome, RunResult, outcome_from_result, run_exit_code
from clinvk.model.plan import Plan, Task
from clinvk.model.result import EXIT_CODES
from clinvk.model.session import MessageRole
from clinvk.plans import preflight
from clinvk.process.marker import MARKER, new_marker
from clinvk.runs import secrets
from clinvk.runs.control import abandon_run, end_leftovers, run_facts
from clinvk.runs.folder import RunFolder, RunStore
from clinvk.runs.journal import Journal
from clinvk.runs.output_dir import OutputDirectory
from clinvk.runs.replay import requeue

if TYPE_CHECKING:
    from clinvk.disk.lockfile import HeldLock
    from clinvk.engine.scheduler import Scheduler
    from clinvk.model.progress import Change

Observe = Callable[["Change"], None]


class PlanRun:
    """One run of a plan. `await run()` once; `stop()` from anywhere in the same event loop."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        plan: Plan,
        *,
        observe: Observe = lambda _: None,
        notify: Callable[[str], None] = lambda _: None,
        is_resumed: bool = False,
        executor: Executor | None = None,
    ) -> None:
        """Raises `ClinvkError` where the plan cannot be started: nothing has happened then. Of a
        run that is resumed, only the tasks that are to be run have to be valid. `executor` runs the
        tasks; None: this machine."""
        self.dispatcher = dispatcher
        self.plan = plan
        self.executor = executor
        self.observe = observe
        self.notify = notify
        look = preflight.survey_plan if is_resumed else preflight.check_plan
        self.preflights = look(plan, dispatcher.selector)
        redacting = dispatcher.config.config.session.redact
        self.scrub = secrets.create_scrubber(self.preflights.secrets, redacting=redacting)
        self.folder: RunFolder | None = None
        self.outcomes = _initial_outcomes(plan, self.preflights.tasks)
        self.scheduler: Scheduler | None = None
        self.outputs = (
            OutputDirectory(Path(rules.output_dir)) if (rules := plan.rules).output_dir else None
        )
        # Called as soon as `outcomes` say what is to be run.
        self.on_ready: Callable[[], None] = lambda: None
        self.on_begun: Callable[[], None] = lambda: None  # called when it is kept, before it starts
        self._is_begun = False  # the journal says so
        self.is_resumed = False  # it was begun before, and is to be carried on
        self.replaced_folder: RunFolder | None = None  # the run that `follow` takes over from
        self._reused_outcomes: list[Outcome] = []  # of another run, taken over
        self._previous_result: RunResult | None = None  # where it stood when it was carried on
        self._stopped: tuple[str, bool] | None = None
        self._observer_error: Exception | None = None  # what whoever watches it raised
        for text in self.preflights.notices:
            notify(text)

    def create_folder(self) -> RunFolder | None:
        """Make the folder that the run is kept in; none for an ephemeral one."""
        if not self.plan.rules.ephemeral:
            tasks = tuple(map(self._without_secrets, self.plan.tasks))
            kept = replace(self.plan, tasks=tasks, cwd=os.getcwd())
            self.folder = RunStore(self.dispatcher.config.home).create(kept)
        return self.folder

    async def run(self) -> RunResult:
        """What came of it. Raises `ClinvkError` where the run cannot be kept; what was started is
        ended then."""
        folder = self.folder or self.create_folder()
        if folder is None:
            return await self._drive(None, "")
        with self._lock_new(folder) as turn:
            return await self._run_with_journal(
                folder, turn, rerun=[], already_ended=self._reused_outcomes
            )

    async def resume(self, select: SelectTasks) -> RunResult:
        """Run what is left of the run in `folder`; what was cut off is made sure to be dead first.
        `choose` says, of where each task stands, what is queued again."""
        assert self.folder is not None  # noqa: S101 - see `resumed`
        turn = self.folder.lock()
        try:
            if turn.leftover:
                self.notify(await end_leftovers(self.folder, turn))
            before = self.folder.result(self.plan, is_driver=True, trusted=True)
            self._previous_result = before
            told = [self._outcome_if_ended(o, self.folder, self.plan) for o in before.results]
            self.outcomes = select(told)
            self._check_not_redacted()
            self._check_queued_tasks()
        except BaseException:
            turn.abandon()  # what was noted is still needed
            raise
        try:
            rerun = [o.index for o in self.outcomes if o.state == "queued"]
            pairs = zip(self.outcomes, before.results, strict=True)
            found = [o for o, stood in pairs if o != stood and o.state != "queued"]
            if not (rerun or any(o.ok for o in found)) and before.state != "interrupted":
                return self._finish_unchanged(before)
            return await self._run_with_journal(self.folder, turn, rerun=rerun, already_ended=found)
        finally:
            turn.close()

    async def replace_run(
        self, old_folder: RunFolder, *, rerun_indeterminate: bool = False
    ) -> RunResult:
        """Run the plan in place of another run's, which is given up. What is the same here and
        there, and needs nothing that is run again, is not run again where it has succeeded, nor
        where it was cut off and may not be. Raises `SessionError`."""
        if told := await abandon_run(old_folder):
            self.notify(told)
        folder = self.folder or self.create_folder()
        assert folder is not None  # noqa: S101 - an ephemeral run follows none
        with self._lock_new(folder) as turn:
            self._take_over(folder, old_folder, rerun_indeterminate=rerun_indeterminate)
            return await self._run_with_journal(
                folder, turn, rerun=[], already_ended=self._reused_outcomes
            )

    @contextmanager
    def _lock_new(self, folder: RunFolder) -> Iterator[HeldLock]:
        """The lock of a new run, which leaves nothing behind if it cannot be begun, on a full disk
        for instance. A run that another clinvk has taken already is that one's: it stays."""
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

    def _take_over(self, folder: RunFolder, old: RunFolder, *, rerun_indeterminate: bool) -> None:
        theirs = old.plan(trusted=True)
        for known in old.result(theirs, trusted=True).results[: len(self.plan.tasks)]:
            i, task = known.index, self.plan.tasks[known.index]
            same = _task_definition(self._without_secrets(task)) == _task_definition(
                theirs.tasks[i]
            )
            if not same or not all(self.outcomes[n].ok for n in task.needs):
                continue
            said = self._outcome_if_ended(known, old, theirs)
            stands = requeue_if_unfinished(said, self.plan, rerun_indeterminate=rerun_indeterminate)
            if stands.ok or stands.state == "indeterminate":
                folder.copy_events(old, i)
                self.outcomes[i] = stands
                self._reused_outcomes.append(stands)

    def _finish_unchanged(self, before: RunResult) -> RunResult:
        self.outcomes = list(before.results)
        self.on_ready()
        self.notify("nothing is left to run")
        return before

    def stop(self, why: str = "cancelled", *, now: bool = False) -> None:
        """Start nothing more and end what runs; at once where `now`."""
        self._stopped = (why, now)
        if self.scheduler is not None:
            self.scheduler.stop(why, now=now)

    async def _run_with_journal(
        self,
        folder: RunFolder,
        lock: HeldLock,
        *,
        rerun: list[int],
        already_ended: Iterable[Outcome] = (),
    ) -> RunResult:
        """Drive it, with a journal. `found` are tasks of which the journal does not know yet that
        they have ended."""
        marker = new_marker(self.dispatcher.env)
        lock.note(run_facts(marker, folder))
        with Journal(folder, self.scrub, self.dispatcher.store.settle) as journal:
            journal.record_begin(self.plan, rerun=rerun)
            for outcome in already_ended:
                await journal.record_ended(outcome)
            self.on_begun()
            self._is_begun = True
            return await self._drive(journal, marker)

    async def _drive(self, journal: Journal | None, marker: str) -> RunResult:
        import anyio  # who shows a run has no use for it

        # Only once something is to run: 10 ms.
        from clinvk.engine.scheduler import Scheduler

        began, clock = datetime.now(UTC), time.monotonic()
        run_id = self.folder.id if self.folder else None
        self.scheduler = scheduler = Scheduler(
            self.executor or LocalExecutor(self._dispatcher_with_marker(marker)), self.plan, self.preflights.tasks, self.outcomes,
            run_id=run_id, journal=journal, output_of=self.task_output, observe=self._forward_change,
            most=self._room(),
        )  # fmt: skip
        if self._stopped:
            scheduler.stop(self._stopped[0], now=self._stopped[1])
        self.on_ready()
        try:
            await _run_until_ended(scheduler)
        except (anyio.get_cancelled_exc_class(), KeyboardInterrupt):
            self._conclude(scheduler, journal, began, clock)
            raise
        result = self._conclude(scheduler, journal, began, clock)
        if self._observer_error is not None:
            raise self._observer_error
        if self.outputs:
            self.outputs.write_results(self.with_outputs(result))
            if self.outputs.problem:
                self.notify(f"{self.outputs.problem}; nothing of the run is lost")
        return result

    def _conclude(
        self, scheduler: Scheduler, journal: Journal | None, began: datetime, clock: float
    ) -> RunResult:
        """What came of it, written down."""
        state = _run_state(self.outcomes, cancelled=scheduler.cancelled)
        before = self._previous_result
        if before is not None:
            began, clock = before.started_at or began, clock - before.seconds
        result = RunResult(
            id=self.folder.id if self.folder else None, kind=self.plan.kind, state=state, results=tuple(self.outcomes),
            seconds=time.monotonic() - clock, why=scheduler.end_reason, source=self.plan.source,
            started_at=began, ended_at=datetime.now(UTC),
        )  # fmt: skip
        if journal:
            journal.record_not_started(self.outcomes[i] for i in scheduler.not_started)
            journal.record_end(result)
        return result

    def _room(self) -> int | None:
        """How many tasks can run at a time here; told if that is fewer than were asked for."""
        queued = sum(o.state == "queued" for o in self.outcomes)
        found = capacity.room() if min(queued, self.plan.rules.max_parallel) > 1 else None
        if found is None:
            return None
        most, limit = found
        if most < min(queued, self.plan.rules.max_parallel):
            self.notify(
                f"running {most} at a time, not {self.plan.rules.max_parallel}: there may be only "
                f"{limit}"
            )
        return most

    def _dispatcher_with_marker(self, marker: str) -> Dispatcher:
        """A dispatcher whose programs, and all that they start, carry the marker of this run."""
        if not marker:
            return self.dispatcher
        d = self.dispatcher
        return Dispatcher(d.config, store=d.store, catalog=d.catalog, env={**d.env, MARKER: marker})

    def task_output(self, index: int) -> str:
        """What a task has answered so far."""
        return self.with_output(self.outcomes[index]).output

    def with_output(self, outcome: Outcome) -> Outcome:
        return self.folder.with_output(outcome) if self.folder else outcome

    def with_outputs(self, result: RunResult) -> RunResult:
        """The result with what each task answered, which a kept run has in its folder only."""
        return self.folder.with_outputs(result) if self.folder else result

    def _forward_change(self, change: Change) -> None:
        if self.outputs and change.kind == "ended" and change.outcome:
            index = change.outcome.index
            self.outputs.write_answer(self.plan.tasks[index].key, self.task_output(index))
        try:
            self.observe(change)
        except Exception as error:  # noqa: BLE001 - raised again, once all is written down
            # Whoever watches is no reason to lose what is known of the tasks.
            self._observer_error = self._observer_error or error
            self.stop("ended, because whoever watched it failed")

    def _without_secrets(self, task: Task) -> Task:
        """The task as it may be kept. One whose prompt holds a key cannot be run from that."""
        asked = {"prompt": task.prompt, "options": task.options, "args": list(task.args)}
        about = {"title": task.title, "tags": list(task.tags), "meta": task.meta}
        kept, told = self.scrub(asked), self.scrub(about)
        if (kept, told) == (asked, about):
            return task
        whole = kept == asked
        kept["args"], told["tags"] = tuple(kept["args"]), tuple(told["tags"])
        return replace(task, **kept, **told, redacted=not whole)

    def _check_queued_tasks(self) -> None:
        """Raise `ClinvkError` where a task that is to be run cannot be."""
        for outcome in self.outcomes:
            if outcome.state == "queued" and (
                problem := self.preflights.problems.get(outcome.index)
            ):
                raise problem

    def _check_not_redacted(self) -> None:
        for outcome in self.outcomes:
            task = self.plan.tasks[outcome.index]
            if outcome.state == "queued" and task.redacted:
                raise SessionError(
                    f"task {task.name!r} held a secret, which was not kept, so it cannot be run",
                    f"run it anew from {self.plan.source or 'where it came from'}",
                )

    def _outcome_if_ended(self, outcome: Outcome, folder: RunFolder, plan: Plan) -> Outcome:
        """A task that was cut off may have ended before its clinvk did: then the result behind its
        events tells; or its session, which holds all that it said, and not the answer alone."""
        if outcome.state != "indeterminate":
            return outcome
        alone = plan.tasks[outcome.index].continues is None
        if (result := folder.result_of(outcome, alone=alone)) is not None:
            ended = outcome_from_result(outcome, result)
            if backoff.is_transient(ended.error) and self._may_retry(ended):
                return requeue(ended)
            return outcome if ended.error and ended.error.kind == "cancelled" else ended
        # The session of an earlier step, which it was to go on with, tells of that step.
        return self._outcome_from_session(outcome, folder) if alone else outcome

    def _may_retry(self, outcome: Outcome) -> bool:
        return outcome.attempts <= self.plan.retries_of(outcome.index)

    def _outcome_from_session(self, outcome: Outcome, folder: RunFolder) -> Outcome:
        if not outcome.session_id:
            return outcome
        try:
            session = self.dispatcher.store.get(outcome.session_id)
            messages = self.dispatcher.store.messages(outcome.session_id)
        except SessionError:
            return outcome
        answered = messages and messages[-1].role is MessageRole.ASSISTANT
        if not answered or session.turns != 1 or session.status != "active":
            return outcome
        return folder.outcome_from_session(outcome, session, messages[-1].content)


async def _run_until_ended(scheduler: Scheduler) -> None:
    """Run it to its end. Whoever cancels us ends the run as Ctrl-C does, and it has ended then."""
    # 45 ms, and needed only once something runs.
    import anyio

    # Anyio, 45 ms: needed only once something runs.
    from clinvk.process.child import unwrap_single_exception

    ended = anyio.Event()

    async def run() -> None:
        with anyio.CancelScope(shield=True):
            await scheduler.run()
        ended.set()

    with unwrap_single_exception():
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run)
            try:
                await ended.wait()
            except BaseException:  # also KeyboardInterrupt, which trio raises here
                scheduler.stop()
                raise


def prepare_resume(
    dispatcher: Dispatcher,
    folder: RunFolder,
    *,
    observe: Observe = lambda _: None,
    notify: Callable[[str], None] = lambda _: None,
    rules: Callable[[Plan], Plan] = lambda plan: plan,
    executor: Executor | None = None,
) -> PlanRun:
    """A run that is there already, to be carried on; by other `rules`, where they are given.
    Raises `ClinvkError`."""
    plan = rules(folder.plan(trusted=True))
    run = PlanRun(
        dispatcher, plan, observe=observe, notify=notify, is_resumed=True, executor=executor
    )
    run.folder, run.is_resumed = folder, True
    return run


def _task_definition(task: Task) -> dict[str, Any]:
    """What a task is, wherever it was written."""
    known = to_builtins(task)
    return {k: v for k, v in known.items() if k not in ("place", "droppable")}


def _initial_outcomes(plan: Plan, asks: list[preflight.Preflight]) -> list[Outcome]:
    return [
        Outcome(index=i, name=t.name, key=t.key, backend=asks[i].backend, tags=t.tags, meta=t.meta)
        for i, t in enumerate(plan.tasks)
    ]


def _run_state(outcomes: list[Outcome], *, cancelled: bool) -> str:
    if cancelled and not all(o.ok for o in outcomes):  # else there was nothing left to cancel
        return "cancelled"
    code = run_exit_code("", outcomes)
    return {0: "done", EXIT_CODES["limit"]: "waiting"}.get(code, "failed")
