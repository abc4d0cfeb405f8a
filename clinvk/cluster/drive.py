"""Detached runs: submit one, and drive it from any machine. Taking over a run whose driver has died is
resuming it, and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from msgspec.structs import replace

from clinvk.cluster.log.run import RedisRun
from clinvk.cluster.log.runs import RedisRuns
from clinvk.cluster.server import identify
from clinvk.engine import rerun
from clinvk.engine.driven_run import DrivenRun, Observe
from clinvk.engine.executor import Executor
from clinvk.engine.rerun import SelectTasks
from clinvk.engine.resumed_run import ResumedRun
from clinvk.engine.run_context import RunContext
from clinvk.errors import UsageError
from clinvk.model.outcome import Outcome, RunResult
from clinvk.model.plan import Plan
from clinvk.plans.preflight import Preflight
from clinvk.process.threads import in_thread
from clinvk.runs.log import RunNotFound

if TYPE_CHECKING:
    Notify = Callable[[str], None]


def submit(
    context: RunContext, plan: Plan, runs: RedisRuns, *, notify: Notify = lambda _: None
) -> RedisRun:
    """Record a run that a worker is to drive; nothing is started here. `runs` creates detached ones.
    Raises `ClinvkError` if the plan cannot be run so."""
    check_detachable(plan, runs.where)
    run = DrivenRun(context, plan, notify=notify)
    stored = _with_backends(run.stored_plan(), run.preflights.tasks)
    for task in stored.tasks:
        if task.redacted:
            raise UsageError(
                f"task {task.name!r} contains a secret, which is not stored, so no worker could run it",
                "put it into an environment variable of the workers, or run it without --detach",
            )
    if not any(task.worktree for task in stored.tasks):
        return runs.create(stored)
    # Git, which most runs do without.
    from clinvk.cluster.files.bases import Bases
    from clinvk.cluster.files.exchange import Exchange

    identity = identify(runs.server.client, runs.server.address)
    exchange = Exchange(runs.home, context.env, cluster=identity)
    bases = Bases(stored, exchange)
    try:
        return runs.create(stored, bases.publish)
    except BaseException:
        bases.withdraw()
        raise


def _with_backends(plan: Plan, preflights: Sequence[Preflight]) -> Plan:
    """The plan, in which tasks without a backend have the default one of this machine: that of the worker
    that drives the run may be another one."""
    tasks = tuple(
        task if task.backend or task.decides else replace(task, backend=ask.backend)
        for task, ask in zip(plan.tasks, preflights, strict=True)
    )
    return replace(plan, tasks=tasks)


def check_detachable(plan: Plan, where: str = "") -> None:
    """Raise `UsageError` for what a run without its own process cannot do. `where` are the flags with which
    a command finds it."""
    if plan.rules.ephemeral:
        raise UsageError(
            "an ephemeral run is not recorded, so it cannot be detached",
            "leave out --ephemeral, or --detach",
        )
    if plan.rules.output_dir is not None:
        raise UsageError(
            "a detached run writes no files on this machine",
            "leave out --output-dir; later, get the answers with: "
            f"clinvk runs show ID --answers{where}",
        )


async def drive(
    context: RunContext,
    run: RedisRun,
    *,
    executor: Executor | None = None,
    observe: Observe = lambda _: None,
    notify: Notify = lambda _: None,
    check: Callable[[Plan], None] = lambda _: None,
) -> RunResult | None:
    """Drive a detached run to its end; None if it has ended or was deleted. `check` raises `ClinvkError`
    for a plan that may not be driven here. Raises `SessionError` if another process drives it,
    `ClinvkError` if it cannot go on."""
    if not await in_thread(lambda: run.awaits_driver(has_begun=True)):
        return None
    has_begun = await in_thread(run.has_begun)

    def rules(plan: Plan) -> Plan:
        check_detachable(plan)  # it comes from the network
        check(plan)
        return _waiting_for_limits(plan) if has_begun else plan

    try:
        create = partial(
            ResumedRun, context, run, _unless_ended(run), observe=observe, notify=notify,
            executor=executor, rules=rules,
        )  # fmt: skip
        driven = await in_thread(create)
        return await driven.run()
    except RunNotFound:
        return None


def _waiting_for_limits(plan: Plan) -> Plan:
    """The plan of a run that another process has begun: a rate limit that it has met since then is one
    that it waits for."""
    limits = plan.rules.limits
    if limits.at_start != "refuse":
        return plan
    return replace(plan, rules=replace(plan.rules, limits=replace(limits, at_start="wait")))


def _unless_ended(run: RedisRun) -> Callable[[Plan], SelectTasks]:
    """The unfinished tasks; none if the run has ended before this process had its lease."""

    def select_of(plan: Plan) -> SelectTasks:
        chosen = rerun.unfinished(plan)

        def select(outcomes: Iterable[Outcome]) -> list[Outcome]:
            return chosen(outcomes) if run.awaits_driver(has_begun=True) else list(outcomes)

        return select

    return select_of
