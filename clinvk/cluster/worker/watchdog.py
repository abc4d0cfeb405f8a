"""The node's side of the supervisor: its process, and the attempts whose process it has seen die."""

from __future__ import annotations

import os
import subprocess
import sys

import msgspec

from clinvk.cluster.ledger.ledger import Ledger, Owner
from clinvk.errors import ClinvkError

CHUNK_SIZE = 64 * 1024  # bytes


class Watchdog:
    """The supervisor of a node, which reads from this end of a pipe. `wait` for it once all other ends
    are closed."""

    def __init__(self, pipe: int) -> None:
        """Raises `ClinvkError`."""
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "clinvk.cluster.worker.supervisor", str(pipe)],
                pass_fds=[pipe], start_new_session=True, stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE, bufsize=0,
            )  # fmt: skip
        except OSError as error:
            raise ClinvkError(f"the supervisor cannot be started: {error}") from error
        assert self._process.stdout is not None  # noqa: S101 - it is a pipe
        self._said = self._process.stdout
        os.set_blocking(self._said.fileno(), False)
        self._rest = b""
        self._killed: list[Owner] = []  # not reported yet

    @property
    def is_gone(self) -> bool:
        return self._process.poll() is not None

    def report(self, ledger: Ledger) -> None:
        """Give up the attempts whose process was killed, with all that it had started. Raises the errors
        of redis-py; it is tried again the next time then."""
        self._read()
        while self._killed:
            ledger.give_up(self._killed[0])
            del self._killed[0]

    def wait(self) -> None:
        self._process.wait()

    def close(self) -> None:
        self._said.close()

    def _read(self) -> None:
        while data := self._said.read(CHUNK_SIZE):
            *lines, self._rest = (self._rest + data).split(b"\n")
            self._killed += [msgspec.json.decode(line, type=Owner) for line in lines]
