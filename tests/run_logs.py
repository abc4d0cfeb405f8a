"""The records of runs that tests run over: a directory, and a real Redis server.

`python -m tests.run_logs ADDRESS RUN` drives a run that is recorded there, in a process of its own.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path

import anyio
import pytest

from clinvk.cluster.drive import drive
from clinvk.cluster.log.run import RedisRun
from clinvk.cluster.log.runs import RedisRuns, open_runs
from clinvk.config import loading
from clinvk.dispatch.dispatcher import Dispatcher
from clinvk.engine.resumed_run import ResumedRun
from clinvk.engine.run_context import local_context
from clinvk.model.outcome import RunResult
from clinvk.runs.folder import RunStore
from clinvk.runs.log import RunLog, Runs
from tests.conftest import Home
from tests.stores import keep

KINDS = ["folder", "redis"]
LEASE = 2.0  # seconds; long enough for a thread that has to wait for a busy machine


def address_of(kind: str, home: Home, request: pytest.FixtureRequest) -> str:
    """Where runs of this kind are."""
    return str(home.path) if kind == "folder" else str(request.getfixturevalue("redis_url"))


def open_at(address: str, home: Path, *, detached: bool = False) -> Runs:
    if "://" not in address:
        return RunStore(Path(address))
    return keep(open_redis(address, home, detached=detached))


def open_redis(url: str, home: Path, *, detached: bool = False) -> RedisRuns:
    return open_runs(url, home, detached=detached, seconds=LEASE)


def start_driver(home: Home, address: str, run_id: str) -> subprocess.Popen[str]:
    """A process that drives the run, or what is left of it."""
    return subprocess.Popen(
        [sys.executable, "-m", "tests.run_logs", address, run_id], env=home.env, cwd=home.work,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip


async def drive_here(dispatcher: Dispatcher, run: RunLog) -> RunResult | None:
    context = local_context(dispatcher)
    if isinstance(run, RedisRun) and run.awaits_driver(has_begun=True):
        return await drive(context, run)
    resumed = ResumedRun(context, run)

    async def watch() -> None:
        with anyio.open_signal_receiver(signal.SIGTERM) as signals:
            async for _ in signals:
                resumed.stop()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(watch)
        result = await resumed.run()
        tasks.cancel_scope.cancel()
    return result


def main(address: str, run_id: str) -> None:
    with Dispatcher(loading.load(os.environ)) as dispatcher:
        home = dispatcher.config.home
        if "://" not in address:
            result = anyio.run(drive_here, dispatcher, RunStore(Path(address)).find(run_id))
        else:
            with open_redis(address, home) as runs:
                result = anyio.run(drive_here, dispatcher, runs.find(run_id))
    print(result.state if result else "nothing to drive")


if __name__ == "__main__":
    main(*sys.argv[1:])
