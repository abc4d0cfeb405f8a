"""A cluster on this machine: a Redis server, and workers that run a stub."""

from __future__ import annotations

import json
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
        self, env: Mapping[str, str], server: RedisServer, program: str, lease: str
    ) -> None:
        self.lease = lease
        self.slots = SLOTS
        self.env = env
        self.server = server
        self.url = server.url
        self.home = Path(env["HOME"])
        self.workers: list[subprocess.Popen[bytes]] = []
        path = self.home / "stub"
        path.write_text(program)
        path.chmod(0o755)
        clinvk = Path(env["CLINVK_HOME"])
        (clinvk / "backends").mkdir(parents=True, exist_ok=True)
        (clinvk / "backends" / "stub.yaml").write_text(MANIFEST.format(program=path))
        (clinvk / "config.yaml").write_text(f"cluster: {{shared: ['{self.home}']}}\n")
        self.count = 0

    def start_worker(self, *flags: str, prefix: Sequence[str] = (), url: str | None = None) -> str:
        """A worker that is ready; returns its name. `prefix` runs it somewhere else."""
        self.count += 1
        name = f"w{self.count}"
        log = (self.home / f"{name}.log").open("wb")
        self.workers.append(subprocess.Popen(
            [*prefix, *CLINVK, "worker", "--cluster", url or self.url, "--name", name, "--lease", self.lease,
             "--backends", f"stub={self.slots}", *flags],
            env={**self.env, "NODE": name}, cwd=self.home, stdout=log, stderr=log, start_new_session=True,
        ))  # fmt: skip
        log.close()
        wait(lambda: "ready" in self.said(name))
        return name

    def said(self, name: str) -> str:
        return (self.home / f"{name}.log").read_text()

    def submit(self, count: int, at_a_time: int, *where: str) -> subprocess.Popen[bytes]:
        return self.run([f"t{i}" for i in range(count)], at_a_time, *where)

    def run(self, tasks: Sequence[Any], at_a_time: int, *flags: str) -> subprocess.Popen[bytes]:
        for name in ("starts", "pids"):
            (self.home / name).write_text("")
        rules = {"max_parallel": at_a_time, "defaults": {"backend": "stub"}}
        (self.home / "tasks.json").write_text(json.dumps({"tasks": tasks, **rules}))
        return subprocess.Popen(
            [*CLINVK, "parallel", "tasks.json", "--json", *flags], env=self.env, cwd=self.home,
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
        lines = [line.rsplit(" ", 1) for line in (self.home / "pids").read_text().splitlines()]
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
    """A cluster whose stub prints ten lines, with so many seconds between them."""
    program = PROGRAM.replace("PAUSE", str(pause))
    with cluster_of(program, lease, *server_flags) as made:
        yield made


@contextmanager
def cluster_of(program: str, lease: str = LEASE, *server_flags: str) -> Iterator[Bench]:
    with home() as env:
        folder = Path(env["HOME"], "redis")
        folder.mkdir()
        server = RedisServer(folder, *server_flags)
        server.start()
        made = Bench(env, server, program, lease)
        try:
            yield made
        finally:
            made.close()
            server.kill()


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
