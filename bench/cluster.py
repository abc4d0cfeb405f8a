"""A cluster on this machine, and what a run on it costs. `python -m bench cluster`."""

from __future__ import annotations

import argparse
import json
import os
import resource
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from bench.measure import CLINVK, home
from tests.stores import RedisServer

SLOTS = 4
LEASE = "4s"
PATIENCE = 60.0  # seconds
PROGRAM = """#!/bin/bash
[ "$1" = --version ] && { echo 1.0; exit; }
p=$(cat)
echo "$p" >>"$HOME/starts"
echo "$NODE $$" >>"$HOME/pids"
printf '{"type":"start","id":"n%s"}\\n' $$
for i in 1 2 3 4 5 6 7 8 9 10; do
  sleep PAUSE & wait $!
  printf '{"type":"delta","text":"%s "}\\n' $i
done
printf '{"type":"end","text":"<%s>"}\\n' "$p"
"""
MANIFEST = """
name: stub
command: {program}
argv: {{run: [run], resume: [resume, $native_id]}}
events:
- {{when: "type == 'start'", emit: started, set: {{native_id: id}}}}
- {{when: "type == 'delta'", emit: delta, set: {{text: text}}}}
- {{when: "type == 'end'", emit: finished, set: {{text: text}}}}
"""


class Bench:
    """Workers, and a Redis server."""

    def __init__(
        self, env: Mapping[str, str], server: RedisServer, pause: float, lease: str
    ) -> None:
        self.lease = lease
        self.env = env
        self.server = server
        self.url = server.url
        self.home = Path(env["HOME"])
        self.workers: list[subprocess.Popen[bytes]] = []
        program = self.home / "stub"
        program.write_text(PROGRAM.replace("PAUSE", str(pause)))
        program.chmod(0o755)
        clinvk = Path(env["CLINVK_HOME"])
        (clinvk / "backends").mkdir(parents=True, exist_ok=True)
        (clinvk / "backends" / "stub.yaml").write_text(MANIFEST.format(program=program))
        (clinvk / "config.yaml").write_text(f"cluster: {{shared: ['{self.home}']}}\n")
        self.count = 0

    def start_worker(self, *flags: str, prefix: Sequence[str] = (), url: str | None = None) -> str:
        """A worker that is ready; returns its name. `prefix` runs it somewhere else."""
        self.count += 1
        name = f"w{self.count}"
        log = (self.home / f"{name}.log").open("wb")
        self.workers.append(subprocess.Popen(
            [*prefix, *CLINVK, "worker", "--cluster", url or self.url, "--name", name, "--lease", self.lease,
             "--backends", f"stub={SLOTS}", *flags],
            env={**self.env, "NODE": name}, cwd=self.home, stdout=log, stderr=log, start_new_session=True,
        ))  # fmt: skip
        log.close()
        wait(lambda: "ready" in self.said(name))
        return name

    def said(self, name: str) -> str:
        return (self.home / f"{name}.log").read_text()

    def submit(self, count: int, at_a_time: int, *where: str) -> subprocess.Popen[bytes]:
        for name in ("starts", "pids"):
            (self.home / name).write_text("")
        tasks = [f"t{i}" for i in range(count)]
        rules = {"max_parallel": at_a_time, "defaults": {"backend": "stub"}}
        (self.home / "tasks.json").write_text(json.dumps({"tasks": tasks, **rules}))
        return subprocess.Popen(
            [*CLINVK, "parallel", "tasks.json", "--json", *where], env=self.env, cwd=self.home,
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip

    def resume(self, *flags: str) -> dict[str, Any]:
        done = subprocess.run(
            [*CLINVK, "runs", "resume", "--json", *flags], env=self.env, cwd=self.home,
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        return json.loads(done.stdout)

    def starts(self) -> Counter[str]:
        return Counter((self.home / "starts").read_text().split())

    def living(self, node: str | None = None) -> list[int]:
        """The programs that run, of one worker or of all."""
        lines = [line.split() for line in (self.home / "pids").read_text().splitlines()]
        started = [int(pid) for by, pid in lines if node in (None, by)]
        return [pid for pid in started if _lives(pid)]

    def close(self) -> None:
        for worker in self.workers:
            worker.send_signal(signal.SIGTERM)
            worker.send_signal(signal.SIGTERM)
        for worker in self.workers:
            worker.wait()


@contextmanager
def bench(pause: float, lease: str = LEASE, *server_flags: str) -> Iterator[Bench]:
    with home() as env:
        folder = Path(env["HOME"], "redis")
        folder.mkdir()
        server = RedisServer(folder, *server_flags)
        server.start()
        made = Bench(env, server, pause, lease)
        try:
            yield made
        finally:
            made.close()
            server.kill()


def figures(count: int = 1000, at_a_time: int = 32) -> None:
    """What a run on a cluster costs, compared with one on this machine: at most 1.6 times as long, and
    twice the CPU."""
    global SLOTS  # noqa: PLW0603 - only here
    SLOTS = at_a_time
    with bench(0.001, "60s") as here:
        for where in ("local", "cluster"):
            flags = ["--cluster", here.url] if where == "cluster" else []
            if flags:
                here.start_worker()
            before, began = _cpu(here), time.monotonic()
            run = here.submit(count, at_a_time, *flags)
            out, _ = run.communicate()
            took, cpu = time.monotonic() - began, _cpu(here) - before
            done = json.loads(out)["completed"]
            print(f"{where}: {done} of {count} tasks, {took:.1f} s, {cpu:.1f} s of CPU, "
                  f"load {os.getloadavg()[0]:.0f}")  # fmt: skip
        print(
            f"an idle worker of {at_a_time} slots: {_pss(here.workers[0].pid) / at_a_time:.1f} MB a slot"
        )


def _cpu(here: Bench) -> float:
    """Seconds of all processes: those that have ended and been waited for, and those of workers."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    total = ended.ru_utime + ended.ru_stime
    for worker in here.workers:
        for process in (top := psutil.Process(worker.pid), *top.children(recursive=True)):
            with suppress(psutil.Error):
                times = process.cpu_times()
                total += times.user + times.system + times.children_user + times.children_system
    return total


def _pss(pid: int) -> float:
    top, total = psutil.Process(pid), 0
    for process in (top, *top.children(recursive=True)):
        with suppress(psutil.Error):
            total += process.memory_full_info().pss
    return total / 1e6


def _lives(pid: int) -> bool:
    with suppress(psutil.Error):
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    return False


def wait(condition: Any, seconds: float = PATIENCE) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError("it did not happen")
        time.sleep(0.02)


def main(args: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench cluster")
    parser.add_argument("--tasks", type=int, default=1000)
    figures(parser.parse_args(args or []).tasks)
