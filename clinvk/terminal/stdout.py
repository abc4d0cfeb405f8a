"""stdout without waiting for it: a reader that has stopped must not keep a run from being ended."""

from __future__ import annotations

import os
import select
import stat
import sys

import anyio

CHUNK_SIZE = (
    4096  # bytes that a pipe takes without blocking, once it says that it can be written (PIPE_BUF)
)


HURRIED_TIMEOUT = 0.5  # seconds for a reader, once the run was ended


class PatientStdout:
    """Text is held until `flush`, which waits for room where the reader is slow."""

    def __init__(self) -> None:
        sys.stdout.flush()
        self._fd = sys.stdout.fileno()
        self._encoding = sys.stdout.encoding or "utf-8"
        self._buffer = bytearray()
        self._wait_scope: anyio.CancelScope | None = None
        self._given_up = False
        self._hurried = False  # whoever reads too slowly is not waited for any more
        self._can_block = not stat.S_ISREG(
            os.fstat(self._fd).st_mode
        )  # a file never makes one wait

    def write(self, text: str) -> None:
        if not self._given_up:
            self._buffer += text.encode(self._encoding, "replace")

    async def flush(self, deadline: float = float("inf")) -> None:
        """Write what is held; until `deadline` (on the clock of the event loop), and the rest later.
        Raises `BrokenPipeError` and other `OSError`s."""
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
        """Whether something was not written, and will hardly be."""
        return self._given_up or bool(self._buffer)

    def give_up(self) -> None:
        """Drop what is held and what comes, if somebody waits for room: he stops waiting. Whoever
        comes to wait later does so for a moment."""
        self._hurried = True
        if self._wait_scope is not None:
            self._wait_scope.cancel()
            self._given_up = True
            self._buffer.clear()
