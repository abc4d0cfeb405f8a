"""A cluster on this machine: workers and submitters that are killed in the middle of runs, and what a run
on a cluster costs. `python -m bench cluster [--rounds N]`."""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from bench.measure import CLINVK, home
from tests.stores import RedisServer

TASKS, SLOTS, WORKERS = 60, 4, 3
LEASE = "4s"
PATIENCE = 60.0  # seconds
PROGRAM = """#!/bin/bash
p=$(cat)
echo "$p" >>"$HOME/starts"
echo $$ >>"$HOME/pids"
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

    def start_worker(self) -> None:
        self.count += 1
        log = (self.home / f"worker-{self.count}.log").open("wb")
        self.workers.append(subprocess.Popen(
            [*CLINVK, "worker", "--cluster", self.url, "--name", f"w{self.count}", "--lease", self.lease,
             "--backends", f"stub={SLOTS}"],
            env=self.env, cwd=self.home, stdout=log, stderr=log, start_new_session=True,
        ))  # fmt: skip
        log.close()
        _wait(lambda: "ready" in (self.home / f"worker-{self.count}.log").read_text())

    def submit(self, count: int, at_a_time: int, *where: str) -> subprocess.Popen[bytes]:
        (self.home / "starts").write_text("")
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

    def living(self) -> list[int]:
        return [int(pid) for pid in (self.home / "pids").read_text().split() if _lives(int(pid))]

    def close(self) -> None:
        for worker in self.workers:
            worker.send_signal(signal.SIGTERM)
            worker.send_signal(signal.SIGTERM)
        for worker in self.workers:
            worker.wait()


@contextmanager
def bench(pause: float, lease: str = LEASE) -> Iterator[Bench]:
    with home() as env:
        folder = Path(env["HOME"], "redis")
        folder.mkdir()
        server = RedisServer(folder)
        server.start()
        made = Bench(env, server, pause, lease)
        try:
            yield made
        finally:
            made.close()
            server.kill()


def kill_workers(rounds: int) -> Counter[str]:
    """kill -9 of a random process of a random worker, in runs of 60 tasks over three workers."""
    chance, told = random.Random(14), Counter[str]()
    with bench(0.05) as here:
        for _ in range(WORKERS):
            here.start_worker()
        for _ in range(rounds):
            run = here.submit(TASKS, SLOTS * WORKERS, "--cluster", here.url)
            _wait(lambda: bool(here.starts()))
            time.sleep(chance.uniform(0, 4))
            victim = chance.choice(here.workers)
            family = psutil.Process(victim.pid).children(recursive=True)
            ours = [victim.pid, *(p.pid for p in family if " worker " in _words(p))]
            chosen = chance.choice(ours)
            os.kill(chosen, signal.SIGKILL)
            if chosen == victim.pid:
                victim.wait()
                here.workers.remove(victim)
                here.start_worker()
            out, _ = run.communicate()
            _judge(json.loads(out), here, told)
    return told


def kill_submitters(rounds: int) -> Counter[str]:
    """kill -9 of the process that submitted a run, each followed by `runs resume`."""
    chance, told = random.Random(15), Counter[str]()
    with bench(0.02) as here:
        for _ in range(WORKERS):
            here.start_worker()
        for _ in range(rounds):
            run = here.submit(TASKS, SLOTS * WORKERS, "--cluster", here.url)
            _wait(lambda: bool(here.starts()))
            time.sleep(chance.uniform(0, 3))
            run.kill()
            run.communicate()
            _judge(here.resume(), here, told)
    return told


def _judge(result: dict[str, Any], here: Bench, told: Counter[str]) -> None:
    """Count what went wrong."""
    starts = here.starts()
    states = Counter(task["state"] for task in result["results"])
    told["runs"] += 1
    told["indeterminate"] += states["indeterminate"]
    told["lost"] += TASKS - states["done"] - states["indeterminate"]
    told["twice"] += sum(
        starts[task["name"] if task["name"].startswith("t") else f"t{task['index']}"]
        > task["attempts"]
        for task in result["results"]
    )
    told["never started"] += sum(
        task["state"] == "done" and not starts[f"t{task['index']}"] for task in result["results"]
    )
    with suppress(TimeoutError):
        _wait(lambda: not here.living(), 10)
    told["left"] += len(here.living())


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


def _words(process: psutil.Process) -> str:
    with suppress(psutil.Error):
        return " ".join(process.cmdline())
    return ""


def _lives(pid: int) -> bool:
    with suppress(psutil.Error):
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    return False


def _wait(condition: Any, seconds: float = PATIENCE) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError("it did not happen")
        time.sleep(0.02)


def main(args: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench cluster")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--tasks", type=int, default=1000, help="of the figures")
    parser.add_argument("--only", choices=["workers", "submitters", "figures"])
    given = parser.parse_args(args or [])
    wrong = 0
    for name, part in (("workers", kill_workers), ("submitters", kill_submitters)):
        if given.only in (None, name):
            told = part(given.rounds)
            print(f"kill -9 of {name}: {told['runs']} runs of {TASKS} tasks: {told['lost']} lost, {told['twice']} "
                  f"started twice, {told['left']} programs left, {told['indeterminate']} indeterminate")  # fmt: skip
            wrong += told["lost"] + told["twice"] + told["left"] + told["never started"]
    if given.only in (None, "figures"):
        figures(given.tasks)
    if wrong:
        sys.exit("something was lost, started twice, or left running")
