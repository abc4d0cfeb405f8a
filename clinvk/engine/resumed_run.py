"""Runs that continue another one: the rest of a run, or a changed plan that replaces it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime
from functools import partial
from typing import Any

from msgspec import to_builtins
from msgspec.structs import replace

from clinvk.dispatch.dispatcher import CHECKING
from clinvk.dispatch.off_loop import StoreCalls
from clinvk.engine.driven_run import DrivenRun
from clinvk.engine.rerun import INTERRUPTED_STATES, SelectTasks, requeue_if_unfinished, unfinished
from clinvk.engine.run_context import ClusterRuns, RunContext
from clinvk.engine.scheduling import backoff
from clinvk.engine.storable import storable_task
from clinvk.errors import ClinvkError, SessionError
from clinvk.model.checks.progress import CheckProgress
from clinvk.model.outcome import Outcome, RunResult, outcome_from_result
from clinvk.model.plan import Plan, Task
from clinvk.model.result import Result
from clinvk.model.session import MessageRole, Session
from clinvk.plans import preflight
from clinvk.plans.loops.rounds import requeue_rounds, settle
from clinvk.process.threads import in_thread
from clinvk.runs.control import abandon_run, end_leftovers
from clinvk.runs.log import RunLog
from clinvk.runs.replay import requeue, requeue_same_attempt, started_here
from clinvk.store.base import Store

UNKNOWN_ENDS = ("cancelled", "indeterminate")  # how far an attempt that ended so got is unknown


class ResumedRun(DrivenRun):
    """The rest of a run. Tasks that have ended stay as they are, unless they are selected."""

    # A task that is not run again does not need its backend to be installed.
    _check = staticmethod(preflight.survey_plan)
    _has_begun = True

    def __init__(
        self,
        context: RunContext,
        folder: RunLog,
        select: Callable[[Plan], SelectTasks] = unfinished,
        *,
        rules: Callable[[Plan], Plan] = lambda plan: plan,
        **watch: Any,
    ) -> None:
        """`select` returns the selection of tasks for a plan, and `rules` changes its rules.
        `watch` are the other arguments of a `DrivenRun`. Raises `ClinvkError`."""
        plan = rules(folder.plan(trusted=True))
        super().__init__(context, plan if context.cluster else _without_remotes(plan), **watch)
        self.folder = self._folder = folder
        self._select = select(self.plan)
        self._previous_result: RunResult | None = None  # its state before

    async def _run(self) -> RunResult:
        """Run the rest. First, everything that an interrupted run left running is stopped."""
        folder = self._folder
        lock = await self.off_loop(folder.lock)
        try:
            if lock.leftover:
                self.notify(await end_leftovers(folder, lock))
            before = await self.off_loop(
                lambda: folder.result(self.plan, is_driver=True, trusted=True)
            )
            self._previous_result = before
            calls = StoreCalls(await self.off_loop(self.context.open_store))
            joined = await in_thread(lambda: self._join(before.results, folder))
            told = [
                requeue_same_attempt(o)
                if o.index in joined
                else await calls(partial(_outcome_if_ended, o, folder, self.plan, self))
                for o in before.results
            ]
            told = [await self._with_worktree(o, folder) for o in told]
            self.outcomes = told
            told = await self.off_loop(lambda: settle(self.plan, told, self.task_structured))
            selected = await self.off_loop(lambda: self._select(told))
            self.outcomes = requeue_rounds(self.plan, selected)
            self._check_not_redacted()
            self._check_queued_tasks()
        except BaseException:
            await self.off_loop(lock.abandon)  # its note is still needed
            raise
        try:
            rerun = [o.index for o in self.outcomes if o.state == "queued"]
            pairs = zip(self.outcomes, before.results, strict=True)
            found = [o for o, stood in pairs if _differs(o, stood) and o.state != "queued"]
            if not (rerun or any(o.is_settled for o in found)) and before.state != "interrupted":
                return self._finish_unchanged(before)
            return await self._run_with_journal(
                folder, lock, rerun=[i for i in rerun if i not in joined], already_ended=found,
                seconds=before.seconds, joined=sorted(joined),
            )  # fmt: skip
        finally:
            await self.off_loop(lock.close)

    def _join(self, outcomes: Iterable[Outcome], folder: RunLog) -> set[int]:
        """The positions of the interrupted tasks whose last attempt the workers of a cluster still
        run, have ended, or were never sent: their results are fetched, not worked for again."""
        joined = _joinable(outcomes, folder, self.plan, self.context.cluster)
        for i in joined:
            folder.drop_unfinished_events(i)
        return joined

    async def _with_worktree(self, outcome: Outcome, folder: RunLog) -> Outcome:
        """The outcome with what has changed in its worktree, if that was not recorded."""
        wanted = self.plan.tasks[outcome.index].worktree
        if (
            wanted is None
            or outcome.worktree is not None
            or outcome.state not in ("done", "failed")
        ):
            return outcome
        # Only with worktrees.
        from clinvk.worktrees.results.unsaved import with_saved_result

        home, env = folder.home, self.context.env
        try:
            return await in_thread(lambda: with_saved_result(outcome, wanted, folder.id, home, env))
        except ClinvkError as error:
            self.notify(f"what task {outcome.name!r} changed was not committed: {error.message}")
            return outcome

    def _finish_unchanged(self, before: RunResult) -> RunResult:
        self.outcomes = list(before.results)
        self._on_ready()
        count = sum(o.state in INTERRUPTED_STATES and o.attempts > 0 for o in before.results)
        but = f" except {count} interrupted task{'s' * (count != 1)}" if count else ""
        self.notify(f"there is nothing left to run{but}")
        return before

    def new_outcomes(self, result: RunResult) -> set[int]:
        before = self._previous_result.results if self._previous_result else ()
        known = {outcome.index: outcome for outcome in before}
        return {o.index for o in result.results if o != known.get(o.index)}

    def _since(self, began: datetime, clock: float) -> tuple[datetime, float]:
        before = self._previous_result
        if before is None:
            return began, clock
        return before.started_at or began, clock - before.seconds

    def _check_queued_tasks(self) -> None:
        """Raise `ClinvkError` if a task that should be run cannot be."""
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
                    f"task {task.name!r} contained a secret, which was not stored, so it cannot be run",
                    f"run it again from {self.plan.source or 'its original source'}",
                )


class ReplacingRun(DrivenRun):
    """A new run that replaces an older one. Tasks that are the same in both, and succeeded there,
    are not run again."""

    def __init__(
        self,
        context: RunContext,
        plan: Plan,
        old_folder: RunLog,
        *,
        rerun_indeterminate: bool = False,
        **watch: Any,
    ) -> None:
        """`watch` are the other arguments of a `DrivenRun`. Raises `ClinvkError`."""
        super().__init__(context, plan, **watch)
        self.old_folder = old_folder
        self.rerun_indeterminate = rerun_indeterminate
        self._reused: set[int] = set()

    async def _run(self) -> RunResult:
        cluster, old = self.context.cluster, self.old_folder
        stop = None if cluster is None else lambda _plan, left: cluster.stop_left(old.id, left)
        if told := await abandon_run(old, stop):
            self.notify(told)
        folder = self.folder or await self.create_folder_off_loop()
        assert folder is not None  # noqa: S101 - an ephemeral run replaces none
        with self._lock_new(folder) as lock:
            reused = await self._reuse_outcomes(folder)
            self._reused = {outcome.index for outcome in reused}
            return await self._run_with_journal(folder, lock, rerun=[], already_ended=reused)

    def new_outcomes(self, result: RunResult) -> set[int]:
        return super().new_outcomes(result) - self._reused

    async def _reuse_outcomes(self, folder: RunLog) -> list[Outcome]:
        """Copy the outcomes of unchanged tasks that need nothing that is run again: of those that
        succeeded, and of those that may not be run again."""
        old, reused = self.old_folder, list[int]()
        theirs, calls = old.plan(trusted=True), StoreCalls(self.context.open_store())
        for known in old.result(theirs, trusted=True).results[: len(self.plan.tasks)]:
            i, task = known.index, self.plan.tasks[known.index]
            same = _task_definition(storable_task(task, self.scrub)) == _task_definition(
                theirs.tasks[i]
            )
            # Its changes are in a worktree of the other run.
            met = all(self.outcomes[n].is_settled for n in task.needs)
            if task.worktree or not same or not met or self.outcomes[i].is_not_needed:
                continue
            said = await calls(partial(_outcome_if_ended, known, old, theirs, self))
            stands = requeue_if_unfinished(
                said, self.plan, rerun_indeterminate=self.rerun_indeterminate
            )
            if stands.ok or stands.state == "indeterminate":
                folder.copy_events(old, i)
                self.outcomes[i] = stands
                reused.append(i)
                # The conditions of its loops may be other ones.
                self.outcomes = settle(self.plan, self.outcomes, self.task_structured)
        ended = [o.index for o in self.outcomes if o.is_not_needed]
        return [self.outcomes[i] for i in sorted({*reused, *ended})]


def _outcome_if_ended(outcome: Outcome, folder: RunLog, plan: Plan, run: DrivenRun) -> Outcome:
    """The outcome of a task of the `plan` in the directory, for a run that continues it. An
    interrupted task may have ended before its clinvk did: then the result after its events says so,
    or its session, which holds everything it said and not only the answer."""
    store = run.context.open_store()
    if (progress := _progress_of(outcome, folder, plan, store)) is not None:
        outcome = replace(outcome, check_progress=progress)
    if outcome.state != "indeterminate":
        return requeue(outcome) if _is_between_turns(outcome) else outcome
    alone = _is_alone(outcome, plan)
    if (result := folder.result_of(outcome, alone=alone)) is not None:
        ended = outcome_from_result(outcome, result)
        if backoff.is_transient(ended.error) and ended.attempts <= run.plan.retries_of(ended.index):
            return requeue(ended)
        return outcome if ended.error and ended.error.kind in UNKNOWN_ENDS else ended
    if _is_between_turns(outcome):
        return requeue(outcome)
    # If it was to continue the session of an earlier step, that session is about that step.
    found = _answer_in_session(outcome, store) if alone and not progress else None
    return folder.outcome_from_session(outcome, *found) if found else outcome


def _differs(outcome: Outcome, before: Outcome) -> bool:
    """Whether something about it is not in the journal yet."""
    return replace(outcome, check_progress=None) != replace(before, check_progress=None)


def _is_alone(outcome: Outcome, plan: Plan) -> bool:
    """Whether its session has the turns of one attempt at this task only."""
    progress = outcome.check_progress
    is_continued = progress is not None and progress.result is not None and outcome.attempts > 1
    return plan.tasks[outcome.index].continues is None and not is_continued


def _is_between_turns(outcome: Outcome) -> bool:
    """Whether an interrupted task can be continued without repeating a turn: its last turn had
    succeeded, and was checked or about to be."""
    progress = outcome.check_progress
    interrupted = outcome.state in INTERRUPTED_STATES and outcome.attempts > 0
    return interrupted and progress is not None and progress.is_between_turns


def _progress_of(
    outcome: Outcome, folder: RunLog, plan: Plan, store: Store
) -> CheckProgress | None:
    """How far a task with a check has got, with the answer of its last turn; None for another task,
    or if it has had no turn that succeeded."""
    progress, options = outcome.check_progress, plan.tasks[outcome.index].options
    if progress is None or not any(options.get(name) for name in CHECKING):
        return None
    if progress.result is not None:
        turn = folder.last_turn(outcome.index)
        result = replace(
            progress.result, text=str(turn.get("content") or ""), structured=turn.get("structured")
        )
        return replace(progress, result=result)
    alone = plan.tasks[outcome.index].continues is None and outcome.attempts == 1
    found = _answer_in_session(outcome, store) if alone else None
    if outcome.state != "indeterminate" or found is None:
        return progress
    session, answer = found
    backend = session.backend or ""
    result = Result(
        ok=True, text=answer, backend=backend, exit_code=0, session_id=session.id,
        native_id=session.native_ids.get(backend), model=session.model, usage=session.usage,
        cost=session.cost,
    )  # fmt: skip
    return replace(progress, result=result, changed=True)


def _answer_in_session(outcome: Outcome, store: Store) -> tuple[Session, str] | None:
    """The session of a task that had ended, and its answer; None if it had not."""
    if not outcome.session_id:
        return None
    try:
        session = store.get(outcome.session_id)
        messages = store.messages(outcome.session_id)
    except SessionError:
        return None
    answered = messages and messages[-1].role is MessageRole.ASSISTANT
    if not answered or session.turns != 1 or session.status != "active":
        return None
    return session, messages[-1].content


def find_interrupted(
    folder: RunLog, store: Store, cluster: ClusterRuns | None = None
) -> list[Outcome]:
    """The interrupted tasks of a run, which are run again only on request; not those whose results the
    workers of the cluster still have, or will have. Changes nothing; empty while a process drives the
    run. Raises `SessionError`."""
    if folder.find_driver() is not None:
        return []
    plan = folder.plan(trusted=True)
    outcomes = folder.result(plan, trusted=True).results
    joinable = _joinable(outcomes, folder, plan, cluster)
    found = []
    for outcome in outcomes:
        if outcome.index in joinable or _has_ended(outcome, folder, plan, store):
            continue
        stands = requeue_if_unfinished(outcome, plan, rerun_indeterminate=False)
        if stands.state == "indeterminate":
            found.append(stands)
    return found


def _joinable(
    outcomes: Iterable[Outcome], folder: RunLog, plan: Plan, cluster: ClusterRuns | None
) -> set[int]:
    """See `ClusterRuns.joinable`."""
    cut_off = [o for o in outcomes if o.state == "indeterminate" and o.attempts]
    if cluster is None or not cut_off:
        return set()
    here = started_here(folder.read_journal(trusted=True))
    asked = [
        (o.index, o.attempts)
        for o in cut_off
        if o.index not in here and folder.result_of(o, alone=_is_alone(o, plan)) is None
    ]
    return cluster.joinable(folder.id, asked)


def _without_remotes(plan: Plan) -> Plan:
    """The plan of a run that was begun on a cluster, for this machine: its worktrees are those of the
    user's repository."""
    tasks = (
        replace(t, worktree=replace(t.worktree, remote="")) if t.worktree else t for t in plan.tasks
    )
    return replace(plan, tasks=tuple(tasks))


def _has_ended(outcome: Outcome, folder: RunLog, plan: Plan, store: Store) -> bool:
    """Whether an interrupted task had ended before its clinvk did, or need not repeat a turn: see
    `_outcome_if_ended`."""
    progress = _progress_of(outcome, folder, plan, store)
    if progress is not None and _is_between_turns(replace(outcome, check_progress=progress)):
        return True
    if outcome.state != "indeterminate":
        return False
    alone = _is_alone(outcome, plan)
    if (result := folder.result_of(outcome, alone=alone)) is not None:
        error = outcome_from_result(outcome, result).error
        return error is None or error.kind not in UNKNOWN_ENDS
    return alone and progress is None and _answer_in_session(outcome, store) is not None


def _task_definition(task: Task) -> dict[str, Any]:
    """The content of a task, independent of its place in a file."""
    known = to_builtins(task)
    return {k: v for k, v in known.items() if k not in ("place", "droppable")}
