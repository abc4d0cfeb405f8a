"""What happens to stored sessions when much goes on, or wrong: counts of what was lost."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.measure import CLINVK, home
from clinvk.store.base import Query
from clinvk.store.files.store import FileStore

UPDATE = """
import sys
from pathlib import Path
from msgspec.structs import replace
from clinvk.store.files.store import FileStore

with FileStore(Path(sys.argv[1])) as store:
    for _ in range(int(sys.argv[2])):
        store.update("shared", lambda s: replace(s, turns=s.turns + 1), durable=False)
"""

LOOP = """
import subprocess, sys

for _ in range(int(sys.argv[1])):
    subprocess.run(sys.argv[2:], check=True, capture_output=True)
"""

# Prints a number after each append that has returned: what was printed is acknowledged.
WRITE = """
import os, sys
from pathlib import Path
from msgspec.structs import replace
from clinvk.session import Message
from clinvk.store.files.store import FileStore

store = FileStore(Path(sys.argv[1]))
n = int(sys.argv[2])
while True:
    n += 1
    said = [Message("user", f"message {n} " + "x" * 2000)]
    store.append("killed", said, lambda s: replace(s, turns=n))
    os.write(1, b"%d\\n" % n)
"""


def main() -> None:
    print("faults: nothing is lost and nothing damaged")
    turns(200)
    updates(50, 100)
    kills(500)


def turns(count: int) -> None:
    """Two processes take turns in one session."""
    with home() as env:
        once = [*CLINVK, "--session", "shared", "-b", "echo", "hello"]
        subprocess.run(once, env=env, check=True, capture_output=True)
        loop = [sys.executable, "-c", LOOP, str(count)]
        began = time.perf_counter()
        two = [subprocess.Popen([*loop, *once], env=env) for _ in range(2)]
        codes = [p.wait() for p in two]
        with FileStore(Path(env["CLINVK_HOME"])) as store:
            said, recorded = len(store.messages("shared")), store.get("shared").turns
        wanted = 2 * (2 * count + 1)
        print(f"2 processes x {count} turns in one session: {wanted - said} of {wanted} messages lost, "
              f"{recorded} turns, codes {codes}, "
              f"{time.perf_counter() - began:.0f} s")  # fmt: skip


def updates(processes: int, count: int) -> None:
    """Many processes change one record."""
    from clinvk.model.session import Session

    with tempfile.TemporaryDirectory() as folder:
        with FileStore(Path(folder)) as store:
            store.create(Session(id="shared"), exact=True)
        began = time.perf_counter()
        all_of_them = [
            subprocess.Popen([sys.executable, "-c", UPDATE, folder, str(count)])
            for _ in range(processes)
        ]
        for process in all_of_them:
            process.wait()
        with FileStore(Path(folder)) as store:
            lost = processes * count - store.get("shared").turns
        print(f"{processes} processes x {count} updates: {lost} lost, "
              f"{time.perf_counter() - began:.0f} s")  # fmt: skip


def kills(count: int) -> None:
    """A writer is killed at random moments; each time everything is looked at."""
    from clinvk.model.session import Session

    chance = random.Random(7)
    damaged = lost = stale = 0
    with tempfile.TemporaryDirectory() as folder:
        with FileStore(Path(folder)) as store:
            store.create(Session(id="killed"), exact=True)
        acknowledged = 0
        for _ in range(count):
            argv = [sys.executable, "-c", WRITE, folder, str(acknowledged)]
            writer = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
            assert writer.stdout is not None
            writer.stdout.readline()  # it is at work
            time.sleep(chance.random() * 0.02)
            os.kill(writer.pid, signal.SIGKILL)
            printed = [int(n) for n in writer.stdout.read().split()] or [acknowledged + 1]
            writer.wait()
            acknowledged = printed[-1]
            damaged_now, turns, said, indexed = _look(folder)
            damaged += damaged_now
            lost += turns < acknowledged or f"message {acknowledged}" not in said
            stale += indexed != turns
            acknowledged = max(turns, acknowledged)
    print(f"{count} kills in the middle of writes: {damaged} damaged, {lost} acknowledged lost, "
          f"{stale} stale indexes believed ({acknowledged:,} writes)")  # fmt: skip


def _look(folder: str) -> tuple[int, int, str, int]:
    """(damaged records, turns in the record, last message, turns that the index shows)."""
    with FileStore(Path(folder)) as store:
        listed = store.select(Query())
        # As the index has it: `select` looks at the record, too.
        row = store._index_sync.query(lambda index: next(iter(index.select(Query())))[0])  # noqa: SLF001
        session = store.get("killed")
        said = store.messages("killed")
    damaged = sum(not hasattr(s, "turns") for s in listed)
    recent = " ".join(m.content.split(" x")[0] for m in said[-3:])
    return damaged, session.turns, recent, getattr(row, "turns", -1)


if __name__ == "__main__":
    main()
