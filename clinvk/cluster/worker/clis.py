"""The versions and logins of a worker's CLIs, found by a process of its own: starting them takes
seconds, and a worker that forks has no threads."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import msgspec

from clinvk.cluster.nodes import Cli
from clinvk.cluster.worker.settings import WorkerSettings

AGAIN_AFTER = 900.0  # seconds; CLIs update themselves


class CliProbe:
    """What is known of the CLIs. Call `look` now and then."""

    def __init__(self, settings: WorkerSettings) -> None:
        self.settings = settings
        self.found: dict[str, Cli] = {}
        self._process: subprocess.Popen[bytes] | None = None
        self._next = 0.0

    def look(self) -> dict[str, Cli]:
        """What is known; starts to find out again if that is old. Does not wait."""
        process = self._process
        if process is not None and process.poll() is not None:
            self._process = None
            try:
                out, _ = process.communicate()
                self.found = msgspec.json.decode(out, type=dict[str, Cli])
            except (OSError, msgspec.MsgspecError):
                pass  # nothing depends on it
        elif process is None and time.monotonic() >= self._next:
            self._next = time.monotonic() + AGAIN_AFTER
            self._start()
        return self.found

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def _start(self) -> None:
        settings = self.settings
        words = [sys.executable, "-m", "clinvk.cluster.worker.clis", str(settings.config.path)]
        try:
            self._process = subprocess.Popen(
                [*words, *settings.slots], env=dict(settings.env), stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip
        except OSError:
            self._process = None


def main() -> None:
    """`python -m clinvk.cluster.worker.clis CONFIG BACKEND…` prints what it finds as JSON."""
    # Only this process needs them.
    import anyio

    # The same.
    from clinvk.backend.catalog import Catalog
    from clinvk.backend.probe import probe_backends
    from clinvk.config import loading

    path, *names = sys.argv[1:]
    given = Path(path)
    loaded = loading.load(os.environ, given if given.is_file() else None)
    found = anyio.run(probe_backends, Catalog(loaded.home), names, loaded, os.environ)
    clis = {one.name: Cli(one.version, one.login) for one in found}
    sys.stdout.buffer.write(msgspec.json.encode(clis))


if __name__ == "__main__":
    main()
