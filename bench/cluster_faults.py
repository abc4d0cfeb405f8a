"""Faults of a cluster: workers and submitters that are killed, a Redis that is restarted, and a worker that
is cut off. `python -m bench cluster_faults [--rounds N] [--only FAULT]`; `drivers` kills those who drive
detached runs."""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from bench.cable import HERE, cable
from bench.cluster import SLOTS, Bench, bench, wait
from clinvk.runs.folder import RunStore

TASKS, WORKERS = 60, 3
DELTAS = 10  # of each task
LEASE = 4.0  # seconds
SHORT = 0.3  # of a lease: nothing should be lost by it
CHECK_AFTER = 0.1  # seconds after the end of a lease

Told = Counter[str]  # what happened, by its name


@contextmanager
def _three_workers(pause: float) -> Iterator[Bench]:
    with bench(pause, f"{LEASE}s") as here:
        for _ in range(WORKERS):
            here.start_worker()
        yield here


def _begun(here: Bench, chance: random.Random, most: float) -> subprocess.Popen[str]:
    """A run that has been going on for a random time, of at most so many seconds."""
    run = here.submit(TASKS, SLOTS * WORKERS, "--cluster", here.url)
    wait(lambda: bool(here.starts()))
    time.sleep(chance.uniform(0, most))
    return run


def workers(rounds: int) -> Told:
    """kill -9 of a random process of a random worker, in runs of 60 tasks over three workers."""
    chance, told = random.Random(14), Told()
    with _three_workers(0.05) as here:
        for _ in range(rounds):
            run = _begun(here, chance, 4)
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


def submitters(rounds: int) -> Told:
    """kill -9 of the process that submitted a run, each followed by `runs resume`."""
    chance, told = random.Random(15), Told()
    with _three_workers(0.02) as here:
        for _ in range(rounds):
            run = _begun(here, chance, 3)
            run.kill()
            run.communicate()
            _judge(here.resume(), here, told)
    return told


def restarts(rounds: int) -> Told:
    """kill -9 of Redis, which is started again within its workers' leases, or after them."""
    chance, told = random.Random(16), Told()
    with _three_workers(0.05) as here:
        for number in range(rounds):
            run = _begun(here, chance, 3)
            is_long = number % 2 == 1
            here.server.kill()
            killed_at = time.monotonic()
            time.sleep(
                chance.uniform(1.1, 2) * LEASE if is_long else chance.uniform(0, SHORT) * LEASE
            )
            if is_long:
                _count_fenced(here, told)
            here.server.start()
            if not is_long:
                told["longest short break"] = max(
                    told["longest short break"], round(1000 * (time.monotonic() - killed_at))
                )
            out, _ = run.communicate()
            _judge(json.loads(out), here, told, "long" if is_long else "short")
    return told


def cuts(rounds: int) -> Told:
    """One of three workers is cut off from Redis, for less than its lease, or longer."""
    chance, told = random.Random(17), Told()
    flags = ("--bind", "127.0.0.1", HERE, "--protected-mode", "no")
    with cable() as line, bench(0.05, f"{LEASE}s", *flags) as here:
        url = f"redis://{HERE}:{here.server.port}/0"
        victim = here.start_worker("--insecure", prefix=line.prefix, url=url)
        for _ in range(WORKERS - 1):
            here.start_worker()
        for number in range(rounds):
            run = here.submit(TASKS, SLOTS * WORKERS, "--cluster", here.url)
            wait(lambda: bool(here.living(victim)))
            time.sleep(chance.uniform(0, 1))
            is_long = number % 2 == 1
            line.cut()
            if is_long:
                time.sleep(LEASE + CHECK_AFTER)
                _count_fenced(here, told, victim)
                time.sleep(chance.uniform(0, 2) * LEASE)
            else:
                time.sleep(chance.uniform(0.1, SHORT) * LEASE)
            line.reconnect()
            out, _ = run.communicate()
            _judge(json.loads(out), here, told, "long" if is_long else "short")
    return told


def _count_fenced(here: Bench, told: Told, node: str | None = None) -> None:
    """Programs that a worker runs, though its lease is over."""
    told["fenced"] += len(here.living(node))


def _judge(result: dict[str, Any], here: Bench, told: Told, kind: str = "") -> None:
    """Count what went wrong."""
    starts, results = here.starts(), result["results"]
    states = Counter(task["state"] for task in results)
    told["runs"] += 1
    told["indeterminate"] += states["indeterminate"]
    told[f"indeterminate {kind}"] += states["indeterminate"]
    told["lost"] += TASKS - states["done"] - states["indeterminate"]
    told["twice"] += sum(starts[f"t{task['index']}"] > task["attempts"] for task in results)
    done = [task["index"] for task in results if task["state"] == "done"]
    told["never started"] += sum(not starts[f"t{index}"] for index in done)
    run = RunStore(Path(here.env["CLINVK_HOME"])).find(result["id"])
    for index in done:
        seen = [line["text"] for line in run.events(index) if line["type"] == "text"]
        told["without events"] += seen != ["".join(f"{i} " for i in range(1, DELTAS + 1))]
    with suppress(TimeoutError):
        wait(lambda: not here.living(), 10)
    told["left"] += len(here.living())
    if wrong(told) and "kept" not in told:
        told["kept"] = 1
        print(f"the first that went wrong: run {result['id']}: {dict(told)}", file=sys.stderr)
        for log in here.home.glob("w*.log"):
            print(f"--- {log.name}\n{log.read_text()[-4000:]}", file=sys.stderr)


def wrong(told: Told) -> int:
    names = ("lost", "twice", "left", "never started", "without events", "fenced")
    return sum(told[name] for name in names)


def _words(process: psutil.Process) -> str:
    with suppress(psutil.Error):
        return " ".join(process.cmdline())
    return ""


FAULTS: dict[str, tuple[Callable[[int], Told], int, str]] = {
    "workers": (workers, 100, "kill -9 of a process of a worker"),
    "submitters": (submitters, 50, "kill -9 of the submitter, then runs resume"),
    "restarts": (restarts, 20, "Redis killed and started again"),
    "cuts": (cuts, 20, "a worker cut off from Redis"),
}


def main(args: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench cluster_faults")
    parser.add_argument("--rounds", type=int, help="how often each; 100, 50, 20 and 20 by default")
    parser.add_argument("--only", choices=FAULTS)
    given = parser.parse_args(args or [])
    failed = 0
    for name, (fault, rounds, what) in FAULTS.items():
        if given.only in (None, name):
            began = time.monotonic()
            told = fault(given.rounds or rounds)
            print(f"{what}: {told['runs']} runs of {TASKS} tasks: {told['lost']} lost, {told['twice']} started twice, "
                  f"{told['fenced']} programs alive after their lease, {told['left']} left, "
                  f"{told['without events']} done without all events; {told['indeterminate']} indeterminate "
                  f"({told['indeterminate short']} and {told['indeterminate long']} of short and long breaks; of the restarts, "
                  f"the longest short one took {told['longest short break']} ms); "
                  f"{time.monotonic() - began:.0f} s, load {os.getloadavg()[0]:.0f}", flush=True)  # fmt: skip
            failed += wrong(told)
    if failed:
        sys.exit("something was lost, started twice, or left running")


if __name__ == "__main__":
    main(sys.argv[1:])
