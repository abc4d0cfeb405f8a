"""What a prompt waits for beside its CLI: from our exec to that of the CLI, and from the CLI's exit
to ours; in units of a bare Python that does nothing."""

from __future__ import annotations

import os
import select
import statistics
import subprocess
import time
from pathlib import Path
from typing import NamedTuple

from bench.measure import BARE, CLINVK, claude_stub, home, once

# It says who it is and waits, as a CLI that boots; meanwhile clinvk gets everything ready.
STUB = 'echo $$ > "$HOME/begun"\nread -r line\nsleep 0.3\nprintf $LINES'


class Moments(NamedTuple):
    """Seconds of wall and of CPU of our own process."""

    until_exec: float
    until_exec_cpu: float
    after_exit: float
    after_exit_cpu: float


def main(rounds: int = 21) -> None:
    print("turn: from our exec to that of the CLI <= 8 x, from its exit to ours <= 1.5 x")
    with home() as env:
        claude_stub(env, STUB)
        os.mkfifo(Path(env["HOME"], "begun"))
        bare, seen = [], []
        for _ in range(rounds):
            bare.append(once(BARE, env))
            seen.append(measure(env))
        wall, cpu = (statistics.median(values) for values in zip(*bare, strict=True))
        found = Moments(*(statistics.median(values) for values in zip(*seen, strict=True)))
    print(f"bare python: wall {wall * 1000:.1f} ms, CPU {cpu * 1000:.1f} ms")
    for name, w, c in (
        ("our exec to its exec", found.until_exec, found.until_exec_cpu),
        ("its exit to our exit", found.after_exit, found.after_exit_cpu),
    ):
        print(f"{name:<28} wall {w * 1000:8.1f} ms {w / wall:6.2f} x   "
              f"CPU {c * 1000:8.1f} ms {c / cpu:6.2f} x")  # fmt: skip


def measure(env: dict[str, str]) -> Moments:
    """Raises `SystemExit` if the prompt fails."""
    began = time.perf_counter()
    argv = [*CLINVK, "-b", "claude", "p"]
    with subprocess.Popen(argv, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as us:
        with open(Path(env["HOME"], "begun")) as fifo:  # until the CLI opens it
            until_exec, until_exec_cpu = time.perf_counter() - began, _cpu(us.pid)
            cli = os.pidfd_open(int(fifo.read()))
        select.select([cli], [], [])
        ended, cpu_then = time.perf_counter(), _cpu(us.pid)
        os.close(cli)
        os.waitid(os.P_PID, us.pid, os.WEXITED | os.WNOWAIT)
        after_exit, after_exit_cpu = time.perf_counter() - ended, _cpu(us.pid) - cpu_then
    if us.returncode != 0:
        raise SystemExit(f"{argv}: exit {us.returncode}")
    return Moments(until_exec, until_exec_cpu, after_exit, after_exit_cpu)


def _cpu(pid: int) -> float:
    """Seconds that the main thread of a process has run; also of one that nobody has waited for."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9


if __name__ == "__main__":
    main()
