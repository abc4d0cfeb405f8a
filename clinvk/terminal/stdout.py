"""Non-blocking stdout: a reader that has stopped reading must not keep a run from being stopped."""

from __future__ import annotations

import os
import select
import stat
import sys

import anyio

CHUNK_SIZE = 4096  # bytes that a pipe accepts without blocking once it is writable (PIPE_BUF)


HURRIED_TIMEOUT = 0.5  # seconds to wait for a reader after the run was stopped


class PatientStdout:
    """Text is buffered until `flush`, which waits if the reader is slow."""

    def __init__(self) -> None:
        sys.stdout.flush()
        self._fd = sys.stdout.fileno()
        self._encoding = sys.stdout.encoding or "utf-8"
        self._buffer = bytearray()
        self._wait_scope: anyio.CancelScope | None = None
        self._given_up = False
        self._hurried = False  # slow readers are no longer waited for
        self._can_block = not stat.S_ISREG(os.fstat(self._fd).st_mode)  # a file never blocks

    def write(self, text: str) -> None:
        if not self._given_up:
            self._buffer += text.encode(self._encoding, "replace")

    async def flush(self, deadline: float = float("inf")) -> None:
        """Write the buffered text until `deadline` (on the clock of the event loop), and the rest
        later. Raises `BrokenPipeError` and other `OSError`s."""
        if self._hurried:
            deadline = min(deadline, anyio.current_time() + HURRIED_TIMEOUT)
        with anyio.CancelScope(deadline=deadline) as self._wait_scope:
            while self._buffer:
                if self._can_block and not select.select([], [self._fd], [], 0)[1]:
                    await anyio.wait_writable(self._fd)
                written = os.write(
                    self._fd, self._buffer[: CHUNK_SIZE if self._can_block else None]
                )
                del self._buffer[:written]
        self._wait_scope = None
        if self._hurried and self._buffer:
            self._given_up = True
            self._buffer.clear()

    @property
    def pending(self) -> bool:
        """Whether buffered text is left that will probably not be written."""
        return self._given_up or bool(self._buffer)

    def give_up(self) -> None:
        """Drop buffered and later text if a task is waiting for the reader, which ends the wait.
        Later waits are short."""
        self._hurried = True
        if self._wait_scope is not None:
            self._wait_scope.cancel()
            self._given_up = True
            self._buffer.clear()
