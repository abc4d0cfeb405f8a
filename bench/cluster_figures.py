"""What a cluster waits for, and what it takes while it waits. `python -m bench cluster_figures [NAME…]`."""

from __future__ import annotations

import argparse
import os
import resource
import signal
import statistics
import subprocess
import time
from contextlib import suppress
from typing import Any

import psutil

from bench.cluster import Bench, bench, cluster_of, wait
from bench.cluster_cost import STUBS
from bench.redis_monitor import Monitor

TIMED = """#!/bin/bash
[ "$1" = --version ] && { echo 1.0; exit; }
began=$EPOCHREALTIME
read -r p
printf '{"type":"start","id":"n%s"}\\n{"type":"end","text":"done"}\\n' $$
echo "$p $began $EPOCHREALTIME" >>"$HOME/times"
"""
PAIRS, PAIRS_AT_A_TIME = 100, 4
QUEUED = 10_000
CANCELLED, ROUNDS = 16, 5
IDLE_SLOTS, IDLE_TIME = 32, 60.0
COUNTED = 200


def ledger() -> None:
    print("Redis commands of the ledger for a task, besides Celery's and the events: <= 25")
    for name, program in STUBS.items():
        with cluster_of(program, "60s", "--appendfsync", "everysec") as here:
            here.slots = 8
            here.start_worker("--drive", "0")
            _finish(here.submit(20, 8, "--cluster", here.url))
            with Monitor(here.url) as monitor:
                _finish(here.submit(COUNTED, 8, "--cluster", here.url))
        for part, (requests, commands) in sorted(monitor.counts.items()):
            print(f"{name}, {part:<8} {requests / COUNTED:5.1f} requests, {commands / COUNTED:5.1f} commands with "
                  "those of scripts")  # fmt: skip


def dependents() -> None:
    print("from the end of a task to the start of the one that needs it: <= 50 ms (p95)")
    tasks: list[dict[str, Any]] = []
    for i in range(PAIRS):
        tasks += [
            {"name": f"a{i}", "prompt": f"a{i}"},
            {"name": f"b{i}", "prompt": f"b{i}", "needs": [f"a{i}"]},
        ]
    with cluster_of(TIMED, "60s", "--appendfsync", "everysec") as here:
        here.slots = 2 * PAIRS_AT_A_TIME
        here.start_worker("--drive", "0")
        for where, flags in (("cluster", ["--cluster", here.url]), ("local", [])):
            (here.home / "times").write_text("")
            _finish(here.run(tasks, PAIRS_AT_A_TIME, *flags))
            lines = [line.split() for line in (here.home / "times").read_text().splitlines()]
            times = {name: (float(began), float(ended)) for name, began, ended in lines}
            gaps = [(times[f"b{i}"][0] - times[f"a{i}"][1]) * 1000 for i in range(PAIRS)]
            p95 = statistics.quantiles(gaps, n=20)[-1]
            print(
                f"{where:<8} median {statistics.median(gaps):5.1f} ms, p95 {p95:5.1f} ms; {_load()}"
            )


def cancelled() -> None:
    print(f"from Ctrl-C to the end of the last of {CANCELLED} programs: <= 2 s")
    with bench(600, "20s") as here:
        here.slots = CANCELLED
        here.start_worker("--drive", "0")
        for where, flags in (("cluster", ["--cluster", here.url]), ("local", [])):
            seconds = []
            for _ in range(ROUNDS):
                run = here.submit(CANCELLED, CANCELLED, *flags)
                wait(lambda: len(here.living()) == CANCELLED)
                began = time.monotonic()
                run.send_signal(signal.SIGINT)
                wait(lambda: not here.living())
                seconds.append(time.monotonic() - began)
                run.communicate()
            print(f"{where:<8} {ROUNDS} runs: median {statistics.median(seconds):.2f} s, longest {max(seconds):.2f} s; "
                  f"{_load()}")  # fmt: skip


def detached() -> None:
    print(f"{QUEUED:,} tasks with --detach, until the id is printed: <= 10 s")
    with bench(0.001, "60s") as here:
        for _ in range(3):
            began, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
            run = here.submit(QUEUED, 8, "--cluster", here.url, "--detach")
            assert run.stdout is not None
            run.stdout.readline()
            took = time.monotonic() - began
            run.communicate()
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
            print(f"{took:.1f} s, {cpu:.1f} s of CPU, {after.ru_maxrss / 1024:.0f} MB; {_load()}")


def idle() -> None:
    print("an idle worker: <= 40 MB (PSS) a slot, <= 1 % of a core")
    with bench(0.001, "20s") as here:
        here.slots = IDLE_SLOTS
        here.start_worker()
        for name in ("before its first task", "after 200 tasks"):
            wait(lambda: not _is_probing(here))
            before = _cpu(here)
            time.sleep(IDLE_TIME)
            cpu = (_cpu(here) - before) / IDLE_TIME * 100
            print(f"{IDLE_SLOTS} slots, {name}: {_pss(here) / IDLE_SLOTS:.1f} MB a slot, {cpu:.2f} % of a core; "
                  f"{_load()}")  # fmt: skip
            if name.startswith("before"):
                _finish(here.submit(200, IDLE_SLOTS, "--cluster", here.url))


def _finish(run: subprocess.Popen[bytes]) -> None:
    out, _ = run.communicate()
    if run.returncode:
        raise SystemExit(f"exit code {run.returncode}: {out[-1000:]!r}")


def _family(here: Bench) -> list[psutil.Process]:
    tops = [psutil.Process(worker.pid) for worker in here.workers]
    return [p for top in tops for p in (top, *top.children(recursive=True))]


def _is_probing(here: Bench) -> bool:
    """Whether the worker still asks its CLIs for their versions."""
    for process in _family(here):
        with suppress(psutil.Error):
            if "clinvk.cluster.worker.clis" in process.cmdline():
                return True
    return False


def _cpu(here: Bench) -> float:
    return sum(t.user + t.system for t in (p.cpu_times() for p in _family(here)))


def _pss(here: Bench) -> float:
    return sum(p.memory_full_info().pss for p in _family(here)) / 1e6


def _load() -> str:
    return f"load {os.getloadavg()[0]:.0f}"


PARTS = {
    "ledger": ledger,
    "dependents": dependents,
    "cancelled": cancelled,
    "detached": detached,
    "idle": idle,
}


def main(args: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench cluster_figures")
    parser.add_argument(
        "names", nargs="*", choices=[*PARTS, []], metavar="NAME", help=", ".join(PARTS)
    )
    for name in parser.parse_args(args or []).names or PARTS:
        PARTS[name]()
