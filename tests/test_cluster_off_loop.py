"""What a run does before its first task starts waits for git and Redis in threads."""

import signal
from pathlib import Path

import anyio
import pytest
from msgspec.structs import replace

import clinvk
from clinvk.api.tasks import plan_of
from clinvk.cluster.address import parse
from clinvk.cluster.context import Cluster as Place
from clinvk.cluster.context import cluster_context, with_cluster_store
from clinvk.cluster.log.runs import open_runs
from clinvk.config import loading
from clinvk.dispatch.dispatcher import Dispatcher
from clinvk.engine.driven_run import DrivenRun
from clinvk.model.outcome import RunResult
from tests.clusters import SECONDS, Cluster, cluster
from tests.conftest import Home
from tests.needs import need
from tests.stores import keep
from tests.test_worktrees import git, new_repository

__all__ = ["cluster"]

need("git")

pytestmark = pytest.mark.anyio


async def test_the_event_loop_goes_on_while_redis_is_slow(cluster: Cluster):
    cluster.worker("w1")
    address = parse(cluster.url)
    dispatcher = keep(with_cluster_store(cluster.dispatcher(), address))
    place = keep(Place(dispatcher, address))
    runs = keep(open_runs(cluster.url, cluster.home.path))
    context = replace(cluster_context(dispatcher, place), runs=runs)
    plan = plan_of(["a"], "parallel", dispatcher, {"workdir": str(cluster.home.work)})
    run = DrivenRun(context, plan)
    results: list[RunResult] = []

    async def drive() -> None:
        results.append(await run.run())

    assert cluster.server.process
    with anyio.fail_after(SECONDS):
        cluster.server.process.send_signal(signal.SIGSTOP)
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(drive)
                for _ in range(20):  # an event loop that waits for the server would never get there
                    await anyio.sleep(0.01)
                assert results == []
                cluster.server.process.send_signal(signal.SIGCONT)
        finally:
            cluster.server.process.send_signal(signal.SIGCONT)
    assert [outcome.state for outcome in results[0].results] == ["done"]


async def test_git_is_stopped_if_a_run_is_cancelled_before_it_begins(home: Home, tmp_path: Path):
    repo = new_repository(tmp_path / "repo", **{"a": "one\n", ".gitattributes": "a filter=slow\n"})
    begun, go, slow = tmp_path / "begun", tmp_path / "go", tmp_path / "slow"
    slow.write_text(
        f"#!/bin/sh\ntouch {begun}\nn=0\nuntil test -e {go} || [ $n -gt 1200 ]; do n=$((n+1)); sleep 0.05; done\ncat\n"
    )
    slow.chmod(0o755)
    git(
        repo, "config", "filter.slow.clean", str(slow)
    )  # which `git status` runs for a changed file
    (repo / "a").write_text("two\n")
    dispatcher = keep(Dispatcher(loading.load(home.env), env=home.env))
    with anyio.fail_after(SECONDS):
        async with anyio.create_task_group() as tasks:

            async def run() -> None:
                await clinvk.aparallel(
                    ["x"], backend="echo", workdir=str(repo), worktree=True, dispatcher=dispatcher
                )

            tasks.start_soon(run)
            while not begun.exists():  # noqa: ASYNC110 - made by another program
                await anyio.sleep(0.01)
            tasks.cancel_scope.cancel()
    go.touch()
    assert not (home.path / "runs").exists() or not list((home.path / "runs").iterdir())
