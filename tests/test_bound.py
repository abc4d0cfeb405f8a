"""Tests that are killed leave nothing running."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.clusters import SECONDS
from tests.conftest import PROJECT, Home, is_alive, wait_for
from tests.needs import need

# As pytest does it: a fixture has started them, and a test waits for something.
TESTS = """
import os, sys, time
from pathlib import Path
from tests.clusters import Cluster
from tests.conftest import CommandLine, Home
from tests.stores import RedisServer

folder = Path(sys.argv[1])
(folder / "redis").mkdir()
server = RedisServer(folder / "redis")
server.start()
home = Home(folder / "clinvk", folder / "work", dict(os.environ))
made = Cluster(home, CommandLine(home), folder / "desk", server)
worker = made.worker("w1", slots="fake=1")
run = made.start("parallel", made.file({"tasks": ["hold a"]}), "--cluster", made.url)
made.wait_for("hold a")
print(server.process.pid, made.pid("hold"), run.pid, *(p.pid for p in worker.family()), flush=True)
time.sleep(600)
"""


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="it needs Linux")
def test_servers_and_workers_of_killed_tests_end(home: Home, tmp_path: Path):
    need("redis-server")
    folder = tmp_path / "killed"
    (folder / "work").mkdir(parents=True)
    env = {**home.env, "CLINVK_HOME": str(folder / "clinvk"), "PYTHONPATH": str(PROJECT)}
    with subprocess.Popen(
        [sys.executable, "-c", TESTS, str(folder)], cwd=PROJECT, env=env, stdout=subprocess.PIPE,
        text=True,
    ) as tests:  # fmt: skip
        assert tests.stdout is not None
        pids = [int(word) for word in tests.stdout.readline().split()]
        assert len(pids) > 5, "a server, a program, a run and the processes of a worker"
        assert all(map(is_alive, pids))
        tests.kill()
    wait_for(lambda: not any(map(is_alive, pids)), f"the end of all of {pids}", SECONDS)
