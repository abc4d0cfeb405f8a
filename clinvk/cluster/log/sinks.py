"""Where the journal and the events of a run are appended."""

from __future__ import annotations

import itertools
import threading
from typing import Any

import msgspec

from clinvk.cluster.log import scripts
from clinvk.cluster.log.lease import RunLease
from clinvk.cluster.log.server import LogServer
from clinvk.disk.closing import Closing
from clinvk.disk.jsonl import encode
from clinvk.errors import SessionError
from clinvk.process.threads import in_thread

MAX_LINE = 8 * 1024 * 1024  # bytes; longer ones are shortened
MAX_TEXT = 262_144  # characters of each text of such a line
MAX_EVENTS = 1024 * 1024 * 1024  # bytes of the events of a run; then only results are stored
MAX_CALL = 1024 * 1024  # bytes of lines that are sent at a time, or one longer line
KINDS = {b'{"type":"result"': "result", b'{"type":"turn"': "turn"}

_counter = itertools.count()


class _Writer(Closing):
    """Appends with a script, each call once: a call that is repeated because the connection was
    lost has the number of the first one."""

    def __init__(self, server: LogServer, run: str, lease: RunLease, field: str) -> None:
        self._server = server
        self._run = run
        self._lease = lease
        self._field = field
        self._number = 0
        self._lock = threading.Lock()  # calls are made in the order of their numbers

    def _call(self, script: str, keys: list[str], values: list[Any]) -> None:
        mine = [self._server.keys.run_log(self._run), self._server.keys.driver(self._run)]
        with self._lock:
            self._number += 1
            answer = self._server.run(
                script, [*mine, *keys], [self._lease.token, self._field, self._number, *values]
            )
        self._lease.check(answer)

    def close(self) -> None:
        """Does nothing: each call is complete."""


class StreamJournal(_Writer):
    """Appends lines to the journal of a run."""

    def __init__(self, server: LogServer, run: str, lease: RunLease) -> None:
        super().__init__(server, run, lease, "journal")
        self.name = f"the journal of run {run} in the redis at {server.place}"

    def commit(self, lines: list[bytes], files: list[int] | None = None) -> None:  # noqa: ARG002 - has none
        if any(len(line) > MAX_LINE for line in lines):
            raise SessionError(f"{self.name} was not written: a line is too long")
        stripped: list[Any] = [line.rstrip(b"\n") for line in lines]
        self._call(scripts.APPEND, [self._server.keys.journal(self._run)], stripped)

    def append(self, lines: list[bytes]) -> None:
        self.commit(lines)


class StreamEvents(_Writer):
    """Appends the events of a task."""

    def __init__(self, server: LogServer, run: str, lease: RunLease, index: int) -> None:
        # Its numbers start from 1, so it needs a field of its own.
        super().__init__(server, run, lease, f"events:{index}:{next(_counter)}")
        self._index = index

    async def write(self, lines: list[bytes]) -> None:
        await in_thread(lambda: self.append(lines))

    def append(self, lines: list[bytes]) -> None:
        values: list[Any] = []
        size = 0
        for line in lines:
            short = shorten_line(line.rstrip(b"\n"))
            if values and size + len(short) > MAX_CALL:
                self._append(values)
                values, size = [], 0
            values += [_kind(short), short]
            size += len(short)
        if values:
            self._append(values)

    def _append(self, values: list[Any]) -> None:
        keys = self._server.keys
        self._call(
            scripts.EVENTS, [keys.events(self._run), keys.event_index(self._run)],
            [MAX_EVENTS, self._index, *values],
        )  # fmt: skip

    def duplicate(self) -> int | None:
        return None

    def detach(self) -> int | None:
        return None


def _kind(line: bytes) -> str:
    return next((kind for start, kind in KINDS.items() if line.startswith(start)), "")


def shorten_line(line: bytes) -> bytes:
    """The line, with shorter texts if it is too long."""
    if len(line) <= MAX_LINE:
        return line
    return encode(_shorten(msgspec.json.decode(line)))


def _shorten(value: Any) -> Any:
    if isinstance(value, str) and len(value) > MAX_TEXT:
        return f"{value[:MAX_TEXT]}… [{len(value) - MAX_TEXT:,} more characters were not stored]"
    if isinstance(value, list):
        return [_shorten(one) for one in value]
    if isinstance(value, dict):
        return {key: _shorten(one) for key, one in value.items()}
    return value
