"""Runs that another process drives, from Python: submit, follow, cancel and delete them.

    for change in clinvk.follow_run("last"):
        print(change.kind, change.outcome)
    result = clinvk.cancel_run("last")
    print(result.state, result.counts)

`run` is the id of a run, a unique prefix of one, or "last" for the newest. `cluster` is the address of
the cluster that has the run, if it is a detached one; `insecure` allows one on another machine without
a password.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any

from clinvk.api.recorded import all_recorded, open_runs, placed, recorded
from clinvk.api.sync import blocking, refuse_event_loop
from clinvk.api.tasks import OF_COMPARISON, Tasks, plan_of, plan_of_comparison
from clinvk.cluster.files.forget import Forgetter, forget_unrecorded
from clinvk.dispatch.dispatcher import Dispatcher, own_unless
from clinvk.errors import ClinvkError, UsageError
from clinvk.model.age import Age, moment_of
from clinvk.model.outcome import RunResult
from clinvk.model.progress import Change
from clinvk.process.threads import in_thread
from clinvk.runs import control, retention
from clinvk.runs.checkpoints import Checkpoints
from clinvk.runs.folder import RunFolder, RunStore
from clinvk.runs.follow import RunChanges, RunFollower
from clinvk.worktrees.cleaning import clean_worktrees

if TYPE_CHECKING:
    from collections.abc import Sequence

    from clinvk.engine.run_context import RunContext
    from clinvk.model.outcome import Outcome
    from clinvk.model.plan import Plan


async def acancel_run(
    run: str,
    *,
    now: bool = False,
    notify: Callable[[str], None] = lambda _: None,
    cluster: str | None = None,
    insecure: bool = False,
    dispatcher: Dispatcher | None = None,
) -> RunResult:
    """Cancel a run that another process drives, or that was interrupted and left something running;
    returns its result. With `now`, programs are killed without time to exit. `notify` gets a
    sentence about what an interrupted run left running.

    Raises `UsageError` if the run has ended already; `SessionError` if there is no such run, if
    this process drives it, if it cannot be stopped from here, or does not stop within 15
    seconds."""
    if cluster is not None:
        return await in_thread(
            lambda: _cancel_detached(run, cluster, notify, dispatcher, now=now, insecure=insecure)
        )
    with own_unless(dispatcher) as where:
        folder = RunStore(where.config.home).find(run)
        stop = _stopper(where, folder.id, None, now=now, insecure=insecure)
        await control.cancel(folder, now=now, notify=notify, stop_elsewhere=stop)
        return folder.with_outputs(folder.result())


def _cancel_detached(
    run: str,
    cluster: str,
    notify: Callable[[str], None],
    dispatcher: Dispatcher | None,
    *,
    now: bool,
    insecure: bool,
) -> RunResult:
    """In a thread, since all calls of a server block."""
    # 45 ms, and needed only to cancel.
    import anyio

    with (
        own_unless(dispatcher) as where,
        all_recorded(where.config.home, cluster, insecure=insecure) as runs,
    ):
        found = runs.find(run)
        stop = None
        if isinstance(found, RunFolder):  # a detached one knows how
            stop = _stopper(where, found.id, cluster, now=now, insecure=insecure)
        anyio.run(partial(control.cancel, found, now=now, notify=notify, stop_elsewhere=stop))
        return found.with_outputs(found.result())


def _stopper(
    dispatcher: Dispatcher, run: str, cluster: str | None, *, now: bool, insecure: bool
) -> control.StopElsewhere:
    """Stops what a run of this machine has left running on the workers of a cluster."""

    def stop(plan: Plan, outcomes: Sequence[Outcome]) -> str | None:
        if plan.cluster is None:
            return None
        # Only with a cluster.
        from clinvk.cluster.left import find_address, stop_left

        known = dispatcher.config.config.cluster.url or None
        return stop_left(
            find_address(plan.cluster, cluster, known, insecure=insecure), run, outcomes, now=now
        )

    return stop


def follow_run(
    run: str = "last",
    *,
    after: str = "",
    cluster: str | None = None,
    insecure: bool = False,
    dispatcher: Dispatcher | None = None,
) -> Iterator[Change]:
    """Each `Change` of a run that another process drives, or that has ended, from its start to its
    end. Blocks between changes; does not affect the run.

    `after` is the `position` of a change, to get the later ones; or "now", to get only
    new ones. Raises `UsageError` for an invalid position, `SessionError` if
    there is no such run, or if it is damaged."""
    refuse_event_loop("clinvk.afollow_run(...)", "async for change in")
    with recorded(dispatcher, cluster, insecure=insecure) as (_, runs):
        yield from RunFollower(runs.find(run), after).changes()


def afollow_run(
    run: str = "last",
    *,
    after: str = "",
    cluster: str | None = None,
    insecure: bool = False,
    dispatcher: Dispatcher | None = None,
) -> RunChanges:
    """The same for an event loop, asyncio or trio: `async for change in clinvk.afollow_run(run)`.
    Other tasks continue meanwhile. The loop may be left at any time; nothing stays open, except the
    connection to a cluster: leave it with `aclosing`."""
    opened = ExitStack()

    def follow() -> RunFollower:
        with own_unless(dispatcher) as where:
            home = where.config.home
        runs, close = open_runs(home, cluster, insecure=insecure)
        opened.callback(close)
        return RunFollower(runs.find(run), after)

    return RunChanges(follow, opened.close)


def clean_runs(
    older_than: Age | None = None,
    *,
    dry_run: bool = False,
    notify: Callable[[str], None] = lambda _: None,
    cluster: str | None = None,
    insecure: bool = False,
    dispatcher: Dispatcher | None = None,
) -> list[str]:
    """Delete runs not written to for that long (a `timedelta`, days, or a text such as "12h" and
    "2w"); by default `session.retention_days` of the configuration, where 0 deletes nothing.
    Returns their ids, newest first; with `dry_run`, those that would be deleted. The worktrees of all
    runs that have finished are removed; their results stay. With `cluster`, runs of that are deleted, and what
    runs that are recorded nowhere any more have left in its git remote.

    Runs are kept that are running, that were interrupted and may have left something running, that
    have results which were neither applied nor dropped, or that a checkpoint names. `notify` gets a sentence about each checkpoint that cannot be read; all
    chains are kept then. Raises `UsageError` for an invalid age, `SessionError` if runs cannot be
    read."""

    def tell(problem: ClinvkError) -> None:
        notify(
            f"{problem.message}; runs of chains are kept, since the checkpoint may name one of them"
        )

    with recorded(dispatcher, cluster, insecure=insecure) as (where, runs):
        loaded = where.config
        before = moment_of(older_than, loaded.config.session.retention_days)
        checkpoints = Checkpoints(loaded.home)
        if isinstance(runs, RunStore):
            clean_worktrees(runs, where.env, lambda e: notify(e.message), dry_run=dry_run)
        if before is None:
            return []
        forgetter = Forgetter(loaded.home, where.env, notify)
        release = partial(forgetter.release, dry_run=dry_run)
        gone = retention.clean(
            runs, checkpoints, before, dry_run=dry_run, on_problem=tell, release=release
        )
        if cluster is not None:
            forget_unrecorded(forgetter, cluster, runs, insecure=insecure, dry_run=dry_run)
        return gone


def delete_run(
    run: str,
    *,
    notify: Callable[[str], None] = lambda _: None,
    cluster: str | None = None,
    insecure: bool = False,
    dispatcher: Dispatcher | None = None,
) -> str:
    """Delete a run, also a damaged one; returns its id. The sessions of its tasks are kept. `notify` gets a
    sentence if its results stay in the git remote of a cluster, since that cannot be reached. Raises
    `SessionError` if there is no such run, if a checkpoint names it, if it is running, if it was
    interrupted and may have left something running (cancel it first), or if a result of it was
    neither applied nor dropped."""
    with recorded(dispatcher, cluster, insecure=insecure) as (where, runs):
        folder, checkpoints = runs.find(run), Checkpoints(where.config.home)
        forgetter = Forgetter(where.config.home, where.env, notify)
        retention.delete(folder, checkpoints, forgetter.release)
        return folder.id


async def asubmit_run(
    tasks: Tasks,
    *,
    cluster: str,
    insecure: bool = False,
    notify: Callable[[str], None] = lambda _: None,
    dispatcher: Dispatcher | None = None,
    **rules: Any,
) -> str:
    """Have a worker of the cluster at this address drive a run of these tasks; returns its id as soon
    as it is recorded there. `tasks` and `rules` are as in `aparallel`; `notify` gets each notice. Raises
    `ClinvkError`."""
    return await _asubmit(
        lambda where: plan_of(tasks, "parallel", where, rules),
        cluster, notify, dispatcher, insecure=insecure,
    )  # fmt: skip


async def asubmit_chain(
    steps: Tasks,
    *,
    cluster: str,
    insecure: bool = False,
    notify: Callable[[str], None] = lambda _: None,
    dispatcher: Dispatcher | None = None,
    **rules: Any,
) -> str:
    """The same for a chain: `steps` and `rules` are as in `achain`."""
    return await _asubmit(
        lambda where: plan_of(steps, "chain", where, rules),
        cluster, notify, dispatcher, insecure=insecure,
    )  # fmt: skip


async def asubmit_compare(
    prompt: str,
    backends: Sequence[str],
    *,
    cluster: str,
    insecure: bool = False,
    notify: Callable[[str], None] = lambda _: None,
    dispatcher: Dispatcher | None = None,
    **about: Any,
) -> str:
    """The same for a comparison: the arguments are as in `acompare`. What that does once the answers are
    there, `score` and `apply`, raises `UsageError`: see `apply_run`."""
    if late := [name for name in ("score", "lowest", "apply") if about.pop(name, None)]:
        raise UsageError(
            f"{late[0]} is not possible, since this process does not wait for the run",
            f"leave out {late[0]}; later, use clinvk.apply_run(run, cluster=URL)",
        )
    options = {k: v for k, v in about.items() if k not in OF_COMPARISON}
    given = {k: v for k, v in about.items() if k in OF_COMPARISON}
    return await _asubmit(
        lambda where: plan_of_comparison(prompt, backends, where, options=options, **given),
        cluster, notify, dispatcher, insecure=insecure,
    )  # fmt: skip


async def _asubmit(
    plan_in: Callable[[Dispatcher], Plan],
    cluster: str,
    notify: Callable[[str], None],
    dispatcher: Dispatcher | None,
    *,
    insecure: bool,
) -> str:
    async with placed(dispatcher, cluster, insecure=insecure) as (where, context):
        plan = plan_in(where)
        return await in_thread(
            lambda: _submit(context, plan, cluster, where, notify, insecure=insecure)
        )


def _submit(
    context: RunContext,
    plan: Plan,
    cluster: str,
    dispatcher: Dispatcher,
    notify: Callable[[str], None],
    *,
    insecure: bool,
) -> str:
    # Only with a cluster.
    from clinvk.cluster.address import parse
    from clinvk.cluster.app import create_app, send_run
    from clinvk.cluster.drive import submit
    from clinvk.cluster.log.runs import open_runs_at

    address = parse(cluster, insecure=insecure)
    with open_runs_at(address, dispatcher.config.home, detached=True) as runs:
        run = submit(context, plan, runs, notify=notify)
    with create_app(address) as made:
        send_run(made, run.id)
    return run.id


cancel_run = blocking(acancel_run)
submit_run = blocking(asubmit_run)
submit_chain = blocking(asubmit_chain)
submit_compare = blocking(asubmit_compare)
