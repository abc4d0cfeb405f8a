"""A cluster for all tests of a process, one after another.

The worker reads the manifests of whichever test runs, and its tasks work in the directories of that
test.
"""

import os
import subprocess
import sys
from pathlib import Path

from tests.bound import bound
from tests.clusters import Worker, wait_until_ready
from tests.conftest import Home
from tests.stores import RedisServer

# The made-up CLIs that these tests may use, and how many tasks of each run at a time.
SLOTS = {
    "fake": 4, "other": 2, "echo": 2, "quiet": 1, "north": 2, "south": 2, "west": 1, "arbiter": 1,
    "broken": 1, "fixer": 1, "reviewer": 1, "judge": 1, "short": 1, "long": 1, "bad": 1,
}  # fmt: skip


class SharedCluster:
    """A server and a worker for all tests of a process, one after another."""

    def __init__(self, folder: Path, shared: Path, server: RedisServer) -> None:
        """The directories of all tests are below `shared`."""
        self.folder = folder
        self.url = server.url
        self.setting = f"cluster: {{shared: ['{shared}']}}\n"
        self.home = folder / "worker"
        self.worker: Worker | None = None
        (self.home / "tmp").mkdir(parents=True)
        (self.home / "config.yaml").write_text(self.setting)
        self.none = folder / "none"
        self.none.mkdir()
        for name in SLOTS.keys() - {"echo"}:
            text = f"name: {name}\ncommand: /bin/true\nargv: {{run: []}}\n"
            (self.none / f"{name}.yaml").write_text(text)

    def attach(self, home: Home) -> None:
        """Have the tasks of this home run on the cluster, with its manifests."""
        if self.worker is None or self.worker.process.poll() is not None:
            self._use(self.none)
            self._start(home.env)
        self._use(home.path / "backends")
        home.cluster = self.url
        home.setting = self.setting
        home.env["CLINVK_CLUSTER_URL"] = self.url
        home.config("")

    def close(self) -> None:
        if self.worker is not None:
            self.worker.close()

    def _use(self, manifests: Path) -> None:
        manifests.mkdir(parents=True, exist_ok=True)
        link = self.home / "new"
        link.symlink_to(manifests)
        link.replace(self.home / "backends")

    def _start(self, env: dict[str, str]) -> None:
        log = self.folder / "log"
        of_worker = {"HOME": str(self.home), "CLINVK_HOME": str(self.home), "TMPDIR": str(self.home / "tmp")}  # fmt: skip
        slots = ",".join(f"{name}={count}" for name, count in SLOTS.items())
        with log.open("a") as stderr:
            process = bound(subprocess.Popen(
                [sys.executable, "-m", "clinvk", "worker", "--cluster", self.url, "--name", f"w{os.urandom(2).hex()}",
                 "--drive", "0", "--backends", slots],
                env={**env, **of_worker}, cwd=self.home, text=True, start_new_session=True,
                stdin=subprocess.DEVNULL, stdout=stderr, stderr=stderr,
            ))  # fmt: skip
        self.worker = Worker(process, log)
        wait_until_ready(self.worker, "the worker of all tests")
