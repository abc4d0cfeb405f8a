"""The events of one attempt, on their way into a file."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from clinvk.disk.atomic import file_error, open_to_append, write_all
from clinvk.disk.closing import Closing
from clinvk.disk.jsonl import encode
from clinvk.errors import ClinvkError
from clinvk.model.events import Delta, Event, Failed, Finished, Text
from clinvk.model.result import Result
from clinvk.process.threads import for_long
from clinvk.text.redact import GaveUp, without_long_texts

BUFFER_SIZE = 64 * 1024  # bytes


class EventLog(Closing):
    """Writes events to an open file, without raw lines; pieces of an answer are put together, so
    that a secret that was said in two of them is still seen."""

    def __init__(
        self,
        path: Path,
        scrub: Callable[[Any], Any],
        is_urgent: Callable[[], bool] = lambda: False,
    ) -> None:
        """Once `is_urgent`, long texts are left out, since it takes long to search them for
        secrets. Raises `SessionError` if the file cannot be written, as everything below does."""
        self.path = path
        self.scrub = scrub
        self._is_urgent = is_urgent
        self.problem: ClinvkError | None = None  # what was raised
        self._pieces: list[str] = []
        self._buffer = bytearray()
        self._fd = -1
        try:
            self._fd = open_to_append(path)  # an attempt that was killed spoils no line of this one
        except OSError as error:
            self.close()
            raise file_error("write", path, error) from error

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self.detach())

    def detach(self) -> int:
        """The open file, for somebody who closes it."""
        fd, self._fd = self._fd, -1
        return fd

    async def add(self, event: Event) -> None:
        if isinstance(event, Delta):
            self._pieces.append(event.text)
            return
        if isinstance(event, Text):
            self._pieces = []  # it holds the whole of what they said
        await self._write_pieces()
        if isinstance(event, (Finished, Failed)):  # the result tells it all
            return
        await self._buffer_line(event.to_json())
        self._flush(BUFFER_SIZE if event.type in ("text", "thinking") else 0)

    async def end(self, result: Result) -> None:
        """The last line: what came of it, as `-o json` has it."""
        await self._write_pieces()
        await self._buffer_line({"type": "result", **result.to_json()})
        self._flush(0)

    async def _write_pieces(self) -> None:
        if self._pieces:
            pieces, self._pieces = self._pieces, []
            await self._buffer_line(Text(text="".join(pieces)).to_json())

    async def _buffer_line(self, line: dict[str, Any]) -> None:
        try:
            line = await for_long(line, self.scrub, self._is_urgent)
        except GaveUp:
            line = self.scrub(without_long_texts(line))
        self._buffer += encode(line) + b"\n"

    def _flush(self, most: int) -> None:
        if len(self._buffer) <= most:
            return
        try:
            write_all(self._fd, bytes(self._buffer))
        except OSError as error:
            self.problem = file_error("write", self.path, error)
            raise self.problem from error
        self._buffer = bytearray()
