"""The output of a check: the end of it in memory, most of it in a file."""

from __future__ import annotations

import os
import re
from collections import deque
from collections.abc import Callable
from pathlib import Path

from clinvk.disk.atomic import make_folder, write_all
from clinvk.model.checks.check import OUTPUT_KEPT
from clinvk.process.threads import in_thread
from clinvk.text.sanitize import sanitize

MARGIN = 4 * 1024  # bytes before the end that are searched for the beginning of a secret
BUFFERED = 256 * 1024  # bytes that are searched for secrets at once
MAX_LOG = 8 * 1024 * 1024  # bytes of a check's output in its file, and then its end

Scrub = Callable[[str], str]


class CheckOutput:
    """Takes the output in pieces. `path` gets its beginning, up to `MAX_LOG` bytes, and its end;
    None: no file. A file that cannot be written is reported in `problem`; the check continues."""

    def __init__(self, path: Path | None, scrub: Scrub) -> None:
        self.path = path
        self.size = 0
        self.problem: str | None = None
        self._scrub = scrub
        self._end: deque[bytes] = deque()
        self._end_size = 0
        self._buffer = bytearray()
        self._logged = 0
        self._fd = -1

    async def add(self, piece: bytes) -> None:
        self.size += len(piece)
        self._keep_end(piece)
        if self.path is None or self.problem or self._logged >= MAX_LOG:
            return
        self._buffer += piece
        if len(self._buffer) >= BUFFERED:
            await self._log(self._take_lines())

    def begin(self, command: str) -> None:
        """Start the file, or the part of the next command."""
        if self.path is not None and not self.problem:
            try:
                if self._fd < 0:
                    make_folder(self.path.parent)
                    self._fd = os.open(
                        self.path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600
                    )
                write_all(self._fd, f"$ {self._scrub(command)}\n".encode("utf-8", "replace"))
            except OSError as error:
                self._give_up(error)

    async def end(self) -> str:
        """Write the rest, and return the end of the output as text."""
        cut = self._logged + len(self._buffer) < self.size
        await self._log(bytes(self._buffer))
        self._buffer.clear()
        if cut and self.path is not None and not self.problem:
            left = f"\n[… {self.size:,} bytes in all; the last {OUTPUT_KEPT:,} are:]\n"
            await self._write(f"{left}{self.tail()}\n".encode("utf-8", "replace"))
        return self.tail()

    def tail(self) -> str:
        """The end of the output, without secrets and control sequences."""
        data = b"".join(self._end)
        text = self._scrub(as_text(data))
        if self._end_size > OUTPUT_KEPT or self.size > self._end_size:
            text = text.encode("utf-8", "replace")[-OUTPUT_KEPT:].decode("utf-8", "ignore")
        return text.strip("\n")

    def close(self) -> None:
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)

    def _keep_end(self, piece: bytes) -> None:
        most = OUTPUT_KEPT + MARGIN
        self._end.append(piece[-most:])
        self._end_size += len(self._end[-1])
        while self._end_size - len(self._end[0]) >= most:
            self._end_size -= len(self._end.popleft())

    def _take_lines(self) -> bytes:
        """The complete lines of the buffer; all of it if it is one long line."""
        end = self._buffer.rfind(b"\n") + 1 or len(self._buffer)
        taken = bytes(self._buffer[:end])
        del self._buffer[:end]
        return taken

    async def _log(self, data: bytes) -> None:
        if not data or self.path is None or self.problem or self._logged >= MAX_LOG:
            return
        self._logged += len(data)
        await self._write(await in_thread(lambda: self._clean(data)))

    async def _write(self, data: bytes) -> None:
        try:
            if self._fd >= 0:
                write_all(self._fd, data)
        except OSError as error:
            self._give_up(error)

    def _clean(self, data: bytes) -> bytes:
        return self._scrub(as_text(data)).encode("utf-8", "replace")

    def _give_up(self, error: OSError) -> None:
        self.problem = f"the output of the check was not stored: {self.path}: {error.strerror}"
        self.close()


def as_text(data: bytes) -> str:
    """The output as it is seen on a terminal, without its control sequences: of a line that was
    written over, only what was written last."""
    text = data.decode("utf-8", "replace").replace("\r\n", "\n")
    if "\r" in text:
        text = re.sub(r"[^\n]*\r(?=[^\n\r])", "", text)
    return sanitize(text)
