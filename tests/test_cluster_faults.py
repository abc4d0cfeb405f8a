"""What can happen to the machines of a cluster, and to its Redis server: nothing is lost, started twice, or
left running."""

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest
import yaml

from clinvk.cluster.keys import AttemptId
from clinvk.runs.folder import RunStore
from tests.clusters import SECONDS, Cluster, Worker, cluster
from tests.conftest import is_alive, wait_for
from tests.desk import ends
from tests.needs import need
from tests.small_disk import fill_bytes

__all__ = ["cluster"]

QUICK = "--lease=6s"
# A time of day that is OFF seconds later; what measures how long something takes is not changed.
CLOCK = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <time.h>
#include <sys/time.h>

int clock_gettime(clockid_t id, struct timespec *now)
{
    int (*real)(clockid_t, struct timespec *) = dlsym(RTLD_NEXT, "clock_gettime");
    int failed = real(id, now);
    if (!failed && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE))
        now->tv_sec += atol(getenv("OFF"));
    return failed;
}

int gettimeofday(struct timeval *now, void *zone)
{
    struct timespec exact;
    int failed = clock_gettime(CLOCK_REALTIME, &exact);
    now->tv_sec = exact.tv_sec;
    now->tv_usec = exact.tv_nsec / 1000;
    return failed;
}

time_t time(time_t *now)
{
    struct timespec exact;
    clock_gettime(CLOCK_REALTIME, &exact);
    if (now)
        *now = exact.tv_sec;
    return exact.tv_sec;
}
"""


@pytest.fixture
def clock(tmp_path: Path) -> Path:
    """What a program loads whose clock is off."""
    compiler = need("cc")
    (tmp_path / "clock.c").write_text(CLOCK)
    made = tmp_path / "clock.so"
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-o", made, tmp_path / "clock.c", "-ldl"], check=True
    )
    return made


def states(out: str) -> list[str]:
    return [task["state"] for task in json.loads(out)["results"]]


def everything(worker: Worker) -> list[psutil.Process]:
    """All processes of a worker, with the programs of its tasks."""
    top = psutil.Process(worker.process.pid)
    return [top, *top.children(recursive=True)]


@contextmanager
def asleep(processes: list[psutil.Process]) -> Iterator[None]:
    """As on a laptop whose lid is closed."""
    try:
        _send(processes, signal.SIGSTOP)
        yield
    finally:
        _send(processes, signal.SIGCONT)


def _send(processes: list[psutil.Process], number: signal.Signals) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(number)


@pytest.mark.parametrize("how", ["runs", "has ended"])
def test_a_worker_that_slept_for_longer_than_its_lease_records_nothing(cluster: Cluster, how: str):
    """Its program is ended if it still runs, and is of no use if it ended right after the sleep."""
    worker = cluster.worker("w1", QUICK, slots="fake=1")
    path = cluster.file({"tasks": ["hold a"]})
    run = cluster.start("parallel", path, "--json", "--cluster", cluster.url)
    cluster.wait_for("hold a")
    program = cluster.pid("hold")
    with asleep(everything(worker)):
        code, out, err = ends(run, SECONDS)
        assert (code, states(out)) == (1, ["indeterminate"]), err
        assert "the worker w1 was lost" in out
        if how == "has ended":
            cluster.let_go()
    wait_for(lambda: not is_alive(program), "the end of its program", SECONDS)
    wait_for(lambda: "stopped: " in worker.said, "that it says so", SECONDS)
    id_ = RunStore(cluster.home.path).find("last").id
    ledger = cluster.ledger()
    assert ledger.state(AttemptId(id_, 0, 1)) == "lost"
    assert [news.kind for news in ledger.read_news(id_, "0", wait=0.001)][-1] == "lost"
    cluster.let_go()
    done = cluster.go("runs", "resume", "--rerun-indeterminate", "--json")
    assert states(done.stdout) == ["done"], "it works on"
    assert cluster.starts() == ["hold a", "hold a"]


@pytest.mark.skipif(sys.platform != "linux", reason="LD_PRELOAD is of Linux")
@pytest.mark.parametrize("seconds", [3600, -3600])
@pytest.mark.parametrize("where", ["worker", "submitter"])
def test_a_clock_that_is_an_hour_off_changes_nothing(
    cluster: Cluster, clock: Path, where: str, seconds: int
):
    off = {"LD_PRELOAD": str(clock), "OFF": str(seconds)}
    worker = cluster.worker("w1", QUICK, env=off if where == "worker" else None)
    path = cluster.file({"tasks": ["hold a", {"prompt": "b", "needs": "1"}]})
    run = cluster.start(
        "parallel", path, "--json", "--cluster", cluster.url,
        env=off if where == "submitter" else None,
    )  # fmt: skip
    cluster.wait_for("hold a")
    ledger = cluster.ledger()
    attempt = AttemptId(RunStore(cluster.home.path).find("last").id, 0, 1)

    def lease() -> int:
        return int(ledger.client.hget(ledger.keys.attempt(attempt), "lease") or 0)  # type: ignore[arg-type]

    wait_for(lambda: lease() > 0, "its lease", SECONDS)
    first = lease()
    wait_for(lambda: lease() > first + 8000, "that it outlives its first lease", SECONDS)
    known = json.loads(cluster.go("workers", "--json").stdout)
    assert [node["name"] for node in known["workers"] if node["state"] == "live"] == ["w1"], known
    cluster.let_go()
    code, out, err = ends(run, SECONDS)
    assert (code, states(out)) == (0, ["done", "done"]), err
    assert cluster.starts() == ["hold a", "b"]
    if where == "worker":  # its supervisor finds what it has left running
        (cluster.folder / "go").unlink()
        run = cluster.start("parallel", path, "--json", "--cluster", cluster.url)
        cluster.wait_for("hold a", 2)
        program = cluster.pid("hold")
        worker.kill()
        wait_for(lambda: not is_alive(program), "the end of its program", SECONDS)
        code, out, _ = ends(run, SECONDS)
        assert states(out)[0] == "indeterminate"


def test_a_worker_whose_disk_is_full_passes_on_what_it_cannot_start(cluster: Cluster, disk: Path):
    own = disk / "own"
    cluster.configure("", own)
    worker = cluster.worker("full", env={"CLINVK_HOME": str(own), "TMPDIR": str(disk)})
    fill_bytes(disk)
    checked = {"prompt": "a", "check": "true"}  # whose output is kept in a file
    needs_file = {"prompt": "b", "options": {"system_prompt": "x"}}
    path = cluster.file({"tasks": [checked, needs_file]})
    done = cluster.go("parallel", path, "--json")
    assert states(done.stdout) == ["done", "failed"]
    assert "the output of the check was not stored" in done.stderr
    assert "no worker can run it: full: " in done.stdout
    assert "No space left on device" in done.stdout
    wait_for(lambda: "refused: " in worker.said, "that it says so", SECONDS)
    cluster.worker("w2")
    done = cluster.go("runs", "resume", "--json")
    assert states(done.stdout) == ["done", "done"], done
    assert cluster.starts() == ["a", "b"]


def test_a_worker_without_the_program_passes_its_tasks_on(cluster: Cluster):
    """It does not start without it, but a program may be removed, or be updating itself."""
    own = cluster.folder / "own"
    cluster.configure("", own)
    manifest = own / "backends" / "fake.yaml"
    facts = yaml.safe_load(manifest.read_text())
    program = Path(shutil.copy(facts["command"], cluster.folder / "program"))
    manifest.write_text(yaml.safe_dump({**facts, "command": str(program)}))
    worker = cluster.worker("poor", env={"CLINVK_HOME": str(own)})
    kept = program.rename(cluster.folder / "kept")
    path = cluster.file({"tasks": ["a"]})
    done = cluster.go("parallel", path, "--json")
    assert states(done.stdout) == ["failed"]
    assert f"poor: fake: the program '{program}' is not installed" in done.stdout
    late = cluster.start_worker("late", env={"CLINVK_HOME": str(own)})
    assert late.ends() == 2
    assert "is not installed" in late.said
    kept.rename(program)
    done = cluster.go("runs", "resume", "--json")
    assert states(done.stdout) == ["done"], done
    assert cluster.starts() == ["a"]
    assert worker.process.poll() is None


FULL = "its memory is full, and it accepts no writes"


def test_a_redis_whose_memory_is_full_ends_neither_workers_nor_runs(cluster: Cluster):
    worker = cluster.worker("w1", QUICK, slots="fake=1")
    path = cluster.file({"tasks": ["hold a", "b"]})
    run = cluster.start("parallel", path, "--cluster", cluster.url)
    cluster.wait_for("hold a")
    program = cluster.pid("hold")
    client = cluster.ledger().client
    client.config_set("maxmemory", "1")
    assert run.stderr
    assert any(f"{FULL}; waiting for it" in line for line in run.stderr)
    assert FULL in worker.said
    wait_for(lambda: not is_alive(program), "the end of its program", SECONDS)
    wait_for(lambda: "Unrecoverable error" in worker.said, "what Celery says", SECONDS)
    client.config_set("maxmemory", "0")
    cluster.let_go()
    code, _, _ = ends(run, SECONDS)
    assert code == 1
    shown = cluster.clinvk.json("runs", "show", "--json")
    assert [task["state"] for task in shown["results"]] == ["indeterminate", "done"]
    assert "the worker w1 was lost" in shown["results"][0]["error"]["message"]
    assert cluster.starts() == ["hold a", "b"]
    assert "Redis answers again" in worker.said
    assert "Traceback" not in worker.said
    assert worker.process.poll() is None


def test_nothing_is_submitted_to_a_redis_whose_memory_is_full(cluster: Cluster):
    client = cluster.ledger().client
    client.config_set("maxmemory", "1")
    path = cluster.file({"tasks": ["a"]})
    for more in ([], ["--detach"]):
        done = cluster.go("parallel", path, *more)
        assert done.returncode == 4, done
        assert FULL in done.stderr
        assert "raise maxmemory" in done.stderr
    worker = cluster.start_worker("w1")
    assert worker.ends() == 4
    assert FULL in worker.said
    assert not (cluster.home.path / "runs").exists()
    assert client.keys("*") == []
