"""What a run of many tasks costs, against `xargs` with the same program; and what waiting takes."""

from __future__ import annotations

import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from bench.measure import CLINVK, backend, claude_stub, home

TASKS, AT_A_TIME = 1_000, 32
QUEUED = 10_000
BARE_LOOP = Path(__file__).with_name("bare.py")
STUB = "read -r line\nprintf $LINES"


class Cost(NamedTuple):
    wall: float  # seconds
    cpu: float  # seconds, of all processes
    peak: float  # MB, of the largest one


def main(rounds: int = 5) -> None:
    print(f"tasks: {TASKS:,} on a stub with the manifest of claude, {AT_A_TIME} at a time, against xargs: with records "
          "and journal CPU <= 3 x, wall <= 4 x; --ephemeral CPU <= 1.8 x, wall <= 2.2 x; "
          "peak <= 70 MB")  # fmt: skip
    with home() as env:
        program = claude_stub(env, STUB)
        lines = "".join(f"task {i}\n" for i in range(TASKS))
        words = ["parallel", "--format", "lines", "-j", str(AT_A_TIME), "-b", "claude", "-q", "-"]
        commands = {
            # It gives the program its line as arguments, and /dev/null as its stdin.
            "xargs": ["xargs", "-P", str(AT_A_TIME), "-L1", str(program)],
            # What Python with anyio takes for the programs alone: nothing below it can be reached.
            "anyio alone": [sys.executable, str(BARE_LOOP), str(program), str(AT_A_TIME)],
            "--ephemeral": [*CLINVK, *words, "--ephemeral"],
            "with records and journal": [*CLINVK, *words],
        }
        seen: dict[str, list[Cost]] = {name: [] for name in commands}
        for number in range(rounds):
            for name, argv in commands.items():
                seen[name].append(measured(argv, env, lines))
            _put_aside(env, number)
        reference = _median(seen["xargs"])
        for name, costs in seen.items():
            c = _median(costs)
            print(f"{name:<28} wall {c.wall:6.2f} s {c.wall / reference.wall:5.2f} x   "
                  f"CPU {c.cpu:6.2f} s {c.cpu / reference.cpu:5.2f} x   peak {c.peak:5.1f} MB")  # fmt: skip
    waiting()


def _put_aside(env: Mapping[str, str], number: int) -> None:
    """Start over. Deleting thousands of files would keep the disk busy in the next round."""
    aside = Path(env["HOME"], f"round-{number}")
    aside.mkdir()
    for name in ("sessions", "transcripts", "locks", "runs", "index.db"):
        if (made := Path(env["CLINVK_HOME"], name)).exists():
            made.rename(aside / name)


def measured(argv: list[str], env: Mapping[str, str], stdin: str) -> Cost:
    """Raises `SystemExit` where it fails."""
    began = time.perf_counter()
    with subprocess.Popen(
        argv, env=env, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdin is not None
        process.stdin.write(stdin)
        process.stdin.close()
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise SystemExit(f"{argv}: exit {process.returncode}")
    wall = time.perf_counter() - began
    return Cost(wall, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024)


def _median(costs: list[Cost]) -> Cost:
    return Cost(*(statistics.median(values) for values in zip(*costs, strict=True)))


def waiting() -> None:
    """How much memory tasks take that wait for their turn."""
    print(f"queued: {QUEUED:,} tasks: memory grows <= 3 KB a task")
    for form in ("jsonl", "yaml", "json"):
        few, many = (resident(form, count) for count in (10, 10 + QUEUED))
        each = [(b - a) / QUEUED for a, b in zip(few, many, strict=True)]
        print(f"{form:<6} while they wait {each[0]:5.2f} KB a task (peak, reading the file "
              f"included: {each[1]:5.2f} KB)")  # fmt: skip


def resident(form: str, count: int) -> tuple[int, int]:
    """KB that the driver holds, and held at most, while its first task runs and the others wait."""
    with home() as env:
        backend(
            env,
            "slow",
            'echo "$$" > "$HOME/running.new"\nmv "$HOME/running.new" "$HOME/running"\nexec sleep 60',
        )
        tasks = [
            {"prompt": f"look at file number {i} and say what it is for"} for i in range(count)
        ]
        file = Path(env["HOME"], f"tasks.{form}")
        if form == "jsonl":
            file.write_text("".join(json.dumps(task) + "\n" for task in tasks))
        elif form == "json":
            file.write_text(json.dumps({"tasks": tasks}))
        else:
            file.write_text("tasks:\n" + "".join(f"  - prompt: {t['prompt']}\n" for t in tasks))
        words = ["parallel", str(file), "-j", "1", "-b", "slow", "-q"]
        with subprocess.Popen([*CLINVK, *words], env=env, stdout=subprocess.DEVNULL,
                              stderr=subprocess.DEVNULL) as driver:  # fmt: skip
            deadline = time.monotonic() + 60
            while not Path(env["HOME"], "running").exists():
                if driver.poll() is not None or time.monotonic() > deadline:
                    raise SystemExit("the first task was not started")
                time.sleep(0.05)
            time.sleep(0.5)
            said = Path(f"/proc/{driver.pid}/status").read_text()
            driver.send_signal(signal.SIGINT)
            driver.wait()
    sizes = dict(line.split(":", 1) for line in said.splitlines())
    return int(sizes["VmRSS"].split()[0]), int(sizes["VmHWM"].split()[0])


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
