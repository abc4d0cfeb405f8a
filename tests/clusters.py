"""A cluster on loopback: a Redis server, and workers that a test may kill."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import closing, suppress
from pathlib import Path

import psutil
import pytest

from clinvk.cluster.address import connect_to, parse
from clinvk.cluster.keys import Keys
from clinvk.cluster.ledger.ledger import Ledger
from tests.conftest import CommandLine, Home, wait_for
from tests.desk import Desk
from tests.stores import RedisServer, keep

SECONDS = 60  # for what takes one or two on a machine with nothing else to do


class Worker:
    """A `clinvk worker` in a process of its own."""

    def __init__(self, process: subprocess.Popen[str], log: Path) -> None:
        self.process = process
        self.log = log

    @property
    def said(self) -> str:
        return self.log.read_text()

    def family(self) -> list[psutil.Process]:
        """Its processes: itself, those of Celery, and the supervisor, but no programs of tasks."""
        with suppress(psutil.NoSuchProcess):
            top = psutil.Process(self.process.pid)
            return [top, *(p for p in top.children(recursive=True) if self._is_ours(p))]
        return []

    def _is_ours(self, process: psutil.Process) -> bool:
        with suppress(psutil.Error):
            words = " ".join(process.cmdline())
            return " worker " in words or "clinvk.cluster.worker" in words
        return False

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def kill(self) -> None:
        """As the kernel would, out of memory."""
        self.process.kill()
        self.process.wait()

    def ends(self) -> int:
        return self.process.wait(SECONDS)

    def close(self) -> None:
        family = self.family()
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        for process in family:  # they end by themselves, but a test must not leave that to them
            with suppress(psutil.NoSuchProcess):
                process.wait(SECONDS)


def wait_until_ready(worker: Worker, name: str) -> None:
    wait_for(lambda: "ready" in worker.said or worker.process.poll() is not None, name, SECONDS)
    assert worker.process.poll() is None, worker.said


class Cluster(Desk):
    """A desk with a cluster: `run` and `start` are as of somebody who uses it."""

    def __init__(self, home: Home, clinvk: CommandLine, folder: Path, server: RedisServer) -> None:
        super().__init__(home, clinvk, folder)
        self.server = server
        self.url = server.url
        self.workers: list[Worker] = []
        self.configure()

    def configure(self, more: str = "", home: Path | None = None) -> None:
        text = f"default_backend: fake\ncluster: {{shared: [{self.home.work}]}}\n{more}"
        if home is None:
            self.home.config(text)
        else:
            (home / "backends").mkdir(parents=True)
            (home / "config.yaml").write_text(text)
            for manifest in (self.home.path / "backends").iterdir():
                (home / "backends" / manifest.name).write_text(manifest.read_text())

    def worker(
        self,
        name: str,
        *args: str,
        env: Mapping[str, str] | None = None,
        slots: str = "fake=2",
        drive: int = 0,
    ) -> Worker:
        """A worker that is ready, and drives so many detached runs."""
        made = self.start_worker(name, "--drive", str(drive), *args, env=env, slots=slots)
        wait_until_ready(made, name)
        return made

    def start_worker(
        self, name: str, *args: str, env: Mapping[str, str] | None = None, slots: str = "fake=2"
    ) -> Worker:
        log = self.folder / f"{name}.{len(self.workers)}.log"
        with log.open("w") as stderr:
            process = self.clinvk.start(
                "worker", "--cluster", self.url, "--name", name, "--backends", slots, *args,
                env=env, stdout=stderr, stderr=stderr,
            )  # fmt: skip
        self.workers.append(made := Worker(process, log))
        return made

    def go(self, *args: str, **more: str) -> subprocess.CompletedProcess[str]:
        """A command of a run on the cluster."""
        return self.clinvk(*args, "--cluster", self.url, env=more, timeout=SECONDS * 2)

    def ledger(self) -> Ledger:
        return Ledger(keep(connect_to(parse(self.url))), Keys.of())

    def close(self) -> None:
        self.let_go()
        super().close()
        for worker in self.workers:
            worker.close()
        for pid in map(int, self._lines("pids")):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


@pytest.fixture
def cluster(
    home: Home, clinvk: CommandLine, tmp_path: Path, own_server: RedisServer
) -> Iterator[Cluster]:
    with closing(Cluster(home, clinvk, tmp_path / "desk", own_server)) as made:
        yield made
