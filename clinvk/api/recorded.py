"""Where runs are recorded, and where their tasks are run: on this machine, or in a cluster."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import ExitStack, asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, TypeVar

from clinvk.config.extras import require_extra
from clinvk.dispatch.dispatcher import Dispatcher, own_unless
from clinvk.engine.run_context import RunContext, local_context
from clinvk.process.threads import in_thread
from clinvk.runs.folder import RunFolder, RunStore
from clinvk.runs.log import RunLog, Runs
from clinvk.worktrees.results.reading import find_run_in, is_of_repository

if TYPE_CHECKING:
    from pathlib import Path

    from clinvk.model.plan import Plan
    from clinvk.worktrees.results.target import Target


T = TypeVar("T")


def open_runs(
    home: Path, cluster: str | None, *, insecure: bool = False
) -> tuple[Runs, Callable[[], None]]:
    """The runs of this machine, or of the cluster at this address; and what closes them. Raises
    `ClinvkError`."""
    if cluster is None:
        return RunStore(home), lambda: None
    # Only with a cluster.
    from clinvk.cluster.log import runs

    found = runs.open_runs(cluster, home, insecure=insecure)
    return found, found.close


@contextmanager
def all_recorded(home: Path, cluster: str | None, *, insecure: bool = False) -> Iterator[Runs]:
    """The runs to be resumed: those of this machine, and before them those of the cluster at this
    address. Blocks, with a cluster."""
    here = RunStore(home)
    if cluster is None:
        yield here
        return
    # Only with a cluster.
    from clinvk.cluster.log.joined import JoinedRuns
    from clinvk.cluster.log.lease import WHERE

    there, close = open_runs(home, cluster, insecure=insecure)
    try:
        yield JoinedRuns([there], [here], where=WHERE)
    finally:
        close()


async def off_loop(context: RunContext, make: Callable[[], T], plan: Plan | None = None) -> T:
    """`make()`; in a thread if it may wait for git or the server of a cluster, and cancelling this stops
    git then."""
    if context.cluster is None and not (plan and any(task.worktree for task in plan.tasks)):
        return make()
    # Only if it may wait.
    from clinvk.worktrees.git import stopping_git

    return await stopping_git(make)


@asynccontextmanager
async def found_run(
    home: Path, cluster: str | None, text: str, env: Mapping[str, str], *, insecure: bool = False
) -> AsyncIterator[RunLog]:
    """The run to be resumed, of `all_recorded`, found without blocking the event loop."""
    # Only if it may wait.
    from clinvk.worktrees.git import stopping_git

    with ExitStack() as stack:

        def find() -> RunLog:
            return stack.enter_context(all_recorded(home, cluster, insecure=insecure)).find(text)

        found = find() if cluster is None else await in_thread(find)
        await stopping_git(lambda: bring_missing(found, env, trusted=True))
        yield found


@contextmanager
def with_results(runs: Runs, text: str, here: Path, env: Mapping[str, str]) -> Iterator[RunFolder]:
    """One of the runs, with a directory of this machine and its results in a repository there: those of a
    run of a cluster are fetched. `last` is the newest of the repository that contains `here`. Raises
    `ClinvkError`."""
    found = find_run_in(runs, text, here, _is_of)
    if isinstance(found, RunFolder):
        bring_missing(found, env)
        yield found
        return
    # Only with a cluster.
    from clinvk.cluster.log.noted import open_noted
    from clinvk.cluster.log.run import RedisRun

    assert isinstance(found, RedisRun)  # noqa: S101 - there are no others
    with open_noted(found, here, env) as noted:
        yield noted


def bring_missing(folder: RunLog, env: Mapping[str, str], *, trusted: bool = False) -> None:
    """Fetch the results of a run of this machine that were not when their tasks ended on a cluster.
    Blocks. Raises `ClinvkError`; with `trusted`, not because other users may have written the run."""
    if not isinstance(folder, RunFolder):
        return  # they stay in the remote
    plan = folder.plan(trusted=trusted)
    if any(task.worktree and task.worktree.remote for task in plan.tasks):
        # Only with a cluster.
        from clinvk.cluster.files.missing import fetch_missing

        fetch_missing(folder, plan, env, trusted=trusted)


def _is_of(run: RunLog, plan: Plan, near: Target) -> bool:
    if isinstance(run, RunFolder) or not any(t.worktree and t.worktree.remote for t in plan.tasks):
        return is_of_repository(plan, near)
    # Only with a cluster.
    from clinvk.cluster.files.clone import is_of_clone

    return is_of_clone(plan, near)


@contextmanager
def recorded(
    dispatcher: Dispatcher | None, cluster: str | None, *, insecure: bool = False
) -> Iterator[tuple[Dispatcher, Runs]]:
    """A dispatcher, the given one if there is one, and the runs. Blocks, with a cluster."""
    with own_unless(dispatcher) as where:
        runs, close = open_runs(where.config.home, cluster, insecure=insecure)
        try:
            yield where, runs
        finally:
            close()


@asynccontextmanager
async def placed(
    dispatcher: Dispatcher | None, cluster: str | None, *, insecure: bool = False
) -> AsyncIterator[tuple[Dispatcher, RunContext]]:
    """A dispatcher, the given one if the tasks run here, and what their run needs. `cluster` is the
    address of the cluster whose workers run them. Raises `ClinvkError`."""
    with own_unless(dispatcher) as where:
        if cluster is None:
            yield where, local_context(where)
            return
        with require_extra("cluster", "a cluster"):
            # Slow, and extras.
            import celery  # noqa: F401
            import redis  # noqa: F401

        # Only with a cluster.
        from clinvk.cluster.address import parse
        from clinvk.cluster.context import Cluster, cluster_context, with_cluster_store

        address = parse(cluster, insecure=insecure)
        with with_cluster_store(where, address) as there:
            opened = await in_thread(lambda: Cluster(there, address))
            with opened:
                await in_thread(lambda: opened.check(insecure=insecure))
                yield there, cluster_context(there, opened)
