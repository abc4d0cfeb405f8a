"""What a run on a cluster costs, against the same run on this machine. `python -m bench cluster_cost`."""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from typing import NamedTuple

import psutil

from bench.cluster import PROGRAM, Bench, cluster_of

TASKS, AT_A_TIME = 1_000, 32
STUBS = {
    "ten lines": PROGRAM.replace("PAUSE", "0.001"),
    # The smallest program that answers: nearly all that is measured is clinvk.
    "two lines": """#!/bin/sh
[ "$1" = --version ] && { echo 1.0; exit; }
read -r line
printf '{"type":"start","id":"n%s"}\\n{"type":"end","text":"done"}\\n' $$
""",
}


class Cost(NamedTuple):
    wall: float  # seconds
    cpu: Counter[str]  # seconds, of all processes but Redis, by what they are


def main(args: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench cluster_cost")
    parser.add_argument("--tasks", type=int, default=TASKS)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args(args or [])
    print(f"a run on a cluster: {given.tasks:,} tasks, {AT_A_TIME} at a time, one worker, against the same run on "
          "this machine: wall <= 1.6 x, CPU of all processes but Redis <= 2 x")  # fmt: skip
    for name, program in STUBS.items():
        with cluster_of(program, "60s", "--appendfsync", "everysec") as here:
            here.slots = AT_A_TIME
            here.start_worker()
            _compare(name, here, given.tasks, given.rounds)


def _compare(name: str, here: Bench, tasks: int, rounds: int) -> None:
    _measured(here, AT_A_TIME * 4, "--cluster", here.url)  # each slot loads its modules once
    seen: dict[str, list[Cost]] = {"local": [], "cluster": []}
    for _ in range(rounds):
        seen["local"].append(_measured(here, tasks))
        seen["cluster"].append(_measured(here, tasks, "--cluster", here.url))
    walls = {where: statistics.median(c.wall for c in costs) for where, costs in seen.items()}
    cpus = {where: statistics.median(c.cpu.total() for c in costs) for where, costs in seen.items()}
    for where, costs in seen.items():
        parts = ", ".join(
            f"{part} {statistics.median(c.cpu[part] for c in costs) / tasks * 1000:.1f}"
            for part in costs[0].cpu
        )
        print(f"{name}, {where:<8} wall {walls[where]:6.1f} s {walls[where] / walls['local']:5.2f} x   CPU "
              f"{cpus[where] / tasks * 1000:5.1f} ms a task {cpus[where] / cpus['local']:5.2f} x ({parts})")  # fmt: skip
    print(f"load {os.getloadavg()[0]:.0f}")


def _measured(here: Bench, tasks: int, *flags: str) -> Cost:
    """The cost of a run. Raises `SystemExit` if a task fails."""
    before, began = _used(here), time.monotonic()
    run = here.submit(tasks, AT_A_TIME, *flags)
    assert run.stdout is not None
    with run.stdout as pipe:
        out = pipe.read()
    _, status, spent = os.wait4(run.pid, 0)
    run.returncode = os.waitstatus_to_exitcode(status)
    wall = time.monotonic() - began
    if run.returncode or json.loads(out)["completed"] != tasks:
        raise SystemExit(f"exit code {run.returncode}: {out[-1000:]!r}")
    cpu = _used(here)
    cpu.subtract(before)
    cpu["submitter"] = spent.ru_utime + spent.ru_stime  # on this machine with its programs
    return Cost(wall, Counter({part: seconds for part, seconds in cpu.items() if seconds > 0.005}))


def _used(here: Bench) -> Counter[str]:
    """Seconds of the processes of workers so far."""
    seen: Counter[str] = Counter()
    for part, process in _processes(here):
        with suppress(psutil.Error):
            times = process.cpu_times()
            seen[part] += times.user + times.system
            if part == "slots":
                seen["programs"] += times.children_user + times.children_system
    return seen


def _processes(here: Bench) -> Iterator[tuple[str, psutil.Process]]:
    """Those of workers, and what each is."""
    for worker in here.workers:
        node = psutil.Process(worker.pid)
        yield "node", node
        for child in node.children():
            with suppress(psutil.Error):
                words = " ".join(child.cmdline())
                is_pool = "worker.supervisor" not in words
                yield ("slots" if is_pool else "supervisor"), child
