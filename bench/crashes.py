"""`kill -9` of clinvk in the middle of a run of many tasks, and `clinvk runs resume` after it."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import psutil

from bench.measure import CLINVK, home

TASKS, AT_A_TIME = 40, 8


def main(rounds: int = 100) -> None:
    print(f"crashes: {rounds} x kill -9 of a {TASKS}-task run on echo, each followed by "
          "`runs resume`: 0 tasks lost, 0 started twice unasked, 0 processes left")  # fmt: skip
    chance = random.Random(4)
    with home() as env:
        whole = _took(env)
        lost = twice = left = found = indeterminate = 0
        for _ in range(rounds):
            told = one(env, chance.uniform(0.05, whole))
            lost += told["lost"]
            twice += told["twice"]
            left += told["left"]
            found += told["found"]
            indeterminate += told["indeterminate"]
    print(f"{lost} tasks lost, {twice} started twice, {left} processes left; "
          f"{indeterminate} indeterminate until they were asked for, {found} of them had started")  # fmt: skip
    if lost or twice or left:
        raise SystemExit("something was lost, started twice, or left running")


def _took(env: Mapping[str, str]) -> float:
    began = time.monotonic()
    _parallel(env, "whole").wait()
    took = time.monotonic() - began
    _SEEN.update(
        run["id"] for run in json.loads(_clinvk(env, "runs", "list", "--json").stdout)["runs"]
    )
    return took


def _parallel(env: Mapping[str, str], word: str) -> subprocess.Popen[bytes]:
    tasks = [
        {"name": f"t{i}", "prompt": f"{word} task {i} of {TASKS}", "options": {"delay": 0.02}}
        for i in range(TASKS)
    ]
    file = Path(env["HOME"], "tasks.json")
    file.write_text(
        json.dumps({"tasks": tasks, "max_parallel": AT_A_TIME, "defaults": {"backend": "echo"}})
    )
    words = ["parallel", str(file), "-q"]
    return subprocess.Popen(
        [*CLINVK, *words], env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


def one(env: Mapping[str, str], after: float) -> dict[str, int]:
    """One crash, so many seconds after the start, and what came of its tasks."""
    word = f"w{os.urandom(4).hex()}"
    driver = _parallel(env, word)
    time.sleep(after)
    driver.kill()
    driver.wait()
    runs = json.loads(_clinvk(env, "runs", "list", "--json").stdout)["runs"]
    id_ = runs[0]["id"] if runs and runs[0]["id"] not in _SEEN else None
    if id_ is None:  # it was killed before it had a run: nothing may have been started
        return {"lost": 0, "twice": 0, "left": _alive(env), "found": 0,
                "indeterminate": 0, **({"twice": 1} if _starts(env, word) else {})}  # fmt: skip
    _SEEN.add(id_)
    resumed = json.loads(_clinvk(env, "runs", "resume", id_, "--json").stdout)
    starts = _starts(env, word)
    left = _alive(env)
    unsure = [r for r in resumed["results"] if r["state"] == "indeterminate"]
    odd = [r for r in resumed["results"] if r["state"] not in ("done", "indeterminate")]
    never = sum(starts[r["name"]] == 0 for r in resumed["results"] if r["state"] == "done")
    twice = sum(n > 1 for n in starts.values())
    again = json.loads(
        _clinvk(env, "runs", "resume", id_, "--rerun-indeterminate", "--json").stdout
    )
    not_done = sum(r["state"] != "done" for r in again["results"])
    return {
        "lost": len(odd) + never + not_done,
        "twice": twice,
        "left": left + _alive(env),
        "found": sum(starts[r["name"]] == 1 for r in unsure),
        "indeterminate": len(unsure),
    }


_SEEN: set[str] = set()


def _clinvk(env: Mapping[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*CLINVK, *words], env=env, capture_output=True, text=True, check=False)


def _starts(env: Mapping[str, str], word: str) -> Counter[str]:
    """How often each task was started: echo keeps a file of each session, with its prompts."""
    starts: Counter[str] = Counter()
    for file in Path(env["CLINVK_HOME"], "echo").glob("*.json"):
        first = json.loads(file.read_text())[0]
        if first.startswith(f"{word} task "):
            starts[f"t{first.split()[2]}"] += 1
    return starts


def _alive(env: Mapping[str, str]) -> int:
    """Processes with this home in their environment."""
    count = 0
    for process in psutil.process_iter(["environ", "status"]):
        theirs = (process.info["environ"] or {}).get("CLINVK_HOME")
        if theirs == env["CLINVK_HOME"] and process.info["status"] != psutil.STATUS_ZOMBIE:
            count += 1
    return count


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100)
