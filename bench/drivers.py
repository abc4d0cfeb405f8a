"""`kill -9` of the process that drives a detached run, again and again, and what came of its tasks."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from bench.measure import CLINVK, backend, home

AT_A_TIME, WORKERS = 4, 3
LEASE = "--lease=2s"
SLOW = 120.0  # seconds without any progress, after which something is wrong
PIECES = [f"{i} " for i in range(1, 11)]
STUB = r"""[ "$1" = --version ] && { echo 1.0; exit; }
p=$(cat); echo "$p" >>"$LOG"; echo '{"type":"start","id":"1"}'
for i in 1 2 3 4 5 6 7 8 9 10; do sleep 0.03; echo "{\"type\":\"piece\",\"text\":\"$i \"}"; done
echo "{\"type\":\"end\",\"text\":\"$p\"}" """

EVENTS = [
    {"when": "type == 'start'", "emit": "started", "set": {"native_id": "id"}},
    {"when": "type == 'piece'", "emit": "delta", "set": {"text": "text"}},
    {"when": "type == 'end'", "emit": "finished", "set": {"text": "text"}},
]


def main(rounds: int = 50) -> None:
    tasks = 3 * rounds
    print(f"drivers: {rounds} x kill -9 of the process that drives a detached run of {tasks} tasks on "
          f"{WORKERS} workers: 0 tasks lost, 0 started twice, 0 answers missing, all with their events")  # fmt: skip
    if shutil.which("redis-server") is None:
        print("redis-server is not installed: left out")
        return
    with home() as env:
        folder = Path(env["HOME"])
        env["LOG"] = str(folder / "log")
        backend(env, "stub", STUB, events=EVENTS)
        Path(env["CLINVK_HOME"], "config.yaml").write_text(f"cluster: {{shared: [{folder}]}}\n")
        with _server(folder) as url, _workers(env, url, folder):
            began = time.monotonic()
            run, kills = _run(env, url, folder, tasks, rounds)
            took = time.monotonic() - began
            started = Counter(Path(env["LOG"]).read_text().split("\n")[:-1])
            results = _json(env, "runs", "show", run, "--json", "--cluster", url)["results"]
            partly = _without_events(url, folder, run, tasks)
    lost = sum(result["state"] != "done" for result in results)
    twice = sum(count > 1 for count in started.values())
    missing = sum(result["output"] != f"task {i}" for i, result in enumerate(results))
    print(
        f"{kills} kills in {took:.0f} s: {lost} tasks lost, {twice} started twice, {missing} answers missing, "
        f"{partly} without all events; load {os.getloadavg()[0]:.0f}"
    )
    if lost or twice or missing or partly or len(started) != tasks:
        raise SystemExit("something was lost, or started twice")


def _run(
    env: Mapping[str, str], url: str, folder: Path, tasks: int, rounds: int
) -> tuple[str, int]:
    """Its id, and how often its driver was killed."""
    from clinvk.cluster.log.runs import open_runs

    file = folder / "tasks.json"
    plan = {"tasks": [f"task {i}" for i in range(tasks)], "max_parallel": AT_A_TIME}
    file.write_text(json.dumps({**plan, "defaults": {"backend": "stub"}}))
    words = ["parallel", str(file), "--cluster", url, "--detach", "-q"]
    run_id = (
        subprocess.run([*CLINVK, *words], env=env, cwd=folder, stdout=-1, check=True)
        .stdout.decode()
        .strip()
    )
    chance, kills, killed = random.Random(3), 0, 0
    deadline = time.monotonic() + SLOW
    with open_runs(url, folder) as runs:
        run = runs.find(run_id)
        while run.summary()["state"] in ("queued", "running"):
            driver = (run.find_driver() or {}).get("clinvk")
            if driver not in (None, killed) and kills < rounds:
                time.sleep(chance.uniform(0, 0.6))
                with suppress(ProcessLookupError):
                    os.kill(driver, signal.SIGKILL)
                    kills, killed, deadline = kills + 1, driver, time.monotonic() + SLOW
            if time.monotonic() > deadline and kills < rounds:
                raise SystemExit(f"run {run_id} is not continued; see {folder}")
            time.sleep(0.05)
    return run_id, kills


def _without_events(url: str, folder: Path, run: str, tasks: int) -> int:
    """How many tasks do not have the events that their programs have printed."""
    from clinvk.cluster.log.runs import open_runs

    with open_runs(url, folder) as runs:
        found = runs.find(run)
        texts = [[e["text"] for e in found.events(i) if e["type"] == "text"] for i in range(tasks)]
    return sum("".join(text) != "".join(PIECES) for text in texts)


@contextmanager
def _server(folder: Path) -> Iterator[str]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    words = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder),
             "--appendonly", "yes", "--save", ""]  # fmt: skip
    with subprocess.Popen(words, stdout=subprocess.DEVNULL) as server:
        try:
            while socket.socket().connect_ex(("127.0.0.1", port)):
                time.sleep(0.05)
            yield f"redis://127.0.0.1:{port}/0"
        finally:
            server.kill()


@contextmanager
def _workers(env: Mapping[str, str], url: str, folder: Path) -> Iterator[None]:
    started = []
    for i in range(WORKERS):
        words = ["worker", "--cluster", url, "--name", f"w{i}", "--backends", "stub=2", LEASE]
        with (folder / f"w{i}.log").open("w") as log:
            started.append(subprocess.Popen([*CLINVK, *words], env=env, stdout=log, stderr=log))
    try:
        yield
    finally:
        for worker in started:
            worker.terminate()
        for worker in started:
            worker.wait()


def _json(env: Mapping[str, str], *words: str) -> Any:
    done = subprocess.run([*CLINVK, *words], env=env, stdout=subprocess.PIPE, check=False)
    return json.loads(done.stdout)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
