"""The slots of a worker: threads of one process, which share what it has."""

import os
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest
from anyio.from_thread import start_blocking_portal

from clinvk.cluster.keys import AttemptId
from clinvk.cluster.worker.pool import WakingThreads
from clinvk.cluster.worker.slots import contained
from clinvk.runs.folder import RunStore
from tests.clusters import SECONDS, Cluster, Worker, cluster
from tests.conftest import wait_for
from tests.desk import ends

__all__ = ["cluster"]


def test_a_slot_that_is_free_wakes_up_what_takes_the_next_message():
    from kombu.asynchronous.hub import Hub  # an extra

    pool, hub = WakingThreads(1), Hub()
    with closing(hub):
        try:
            pool.start()
            pool.register_with_event_loop(hub)
            pool.apply_async(lambda: None, callback=lambda _: None)
            seen: list[int] = []
            wait_for(lambda: seen.extend(fd for fd, _ in hub.poller.poll(0.1) or []) or seen, "it")
            assert set(seen) == {pool.pipe[0]}
        finally:
            pool.stop()
            for fd in pool.pipe:
                os.close(fd)


def test_an_attempt_that_ends_with_any_exception_leaves_the_others_their_event_loop():
    class OddError(BaseException): ...

    async def fail() -> None:
        raise OddError

    async def work() -> None:
        done.append("work")

    done: list[str] = []
    with start_blocking_portal() as portal:
        with pytest.raises(RuntimeError, match="OddError"):
            portal.call(contained, fail)
        portal.call(contained, work)
    assert done == ["work"]


class Stuck:
    """A pipe that nobody reads any more."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        self.read = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        self.write = os.open(path, os.O_WRONLY)
        self._other = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
        self.said = b""

    def has_said(self, text: bytes) -> bool:
        with suppress(BlockingIOError):
            self.said += os.read(self.read, 4096)
        return text in self.said

    def fill(self) -> None:
        with suppress(BlockingIOError):
            while True:
                os.write(self._other, b"." * 512)

    def close(self) -> None:
        for fd in (self.read, self.write, self._other):
            os.close(fd)


@pytest.fixture
def stuck(tmp_path: Path) -> Iterator[Stuck]:
    with closing(Stuck(tmp_path / "stderr")) as made:
        yield made


def test_tasks_go_on_if_nobody_reads_what_the_worker_prints(cluster: Cluster, stuck: Stuck):
    """As in a terminal after Ctrl-S."""
    process = cluster.clinvk.start(
        "worker", "--cluster", cluster.url, "--name", "w1", "--backends", "fake=2", "--lease", "6s",
        stdout=stuck.write, stderr=stuck.write,
    )  # fmt: skip
    cluster.workers.append(Worker(process, cluster.folder / "none.log"))
    wait_for(lambda: stuck.has_said(b"ready"), "the worker", SECONDS)
    path = cluster.file({"tasks": ["hold a"]})
    run = cluster.start("parallel", path, "--json", "--cluster", cluster.url)
    cluster.wait_for("hold a")
    ledger, attempt = cluster.ledger(), AttemptId(RunStore(cluster.home.path).find("last").id, 0, 1)
    stuck.fill()
    assert cluster.go("parallel", cluster.file({"tasks": ["b"]}, "b.yaml")).returncode == 0

    def lease() -> int:
        return int(ledger.client.hget(ledger.keys.attempt(attempt), "lease") or 0)  # type: ignore[arg-type]

    first = lease()
    wait_for(lambda: lease() > first + 6000, "that its lease is renewed all the time", SECONDS)
    cluster.let_go()
    code, out, err = ends(run, SECONDS)
    assert code == 0, out + err
