"""Write the events of one attempt to a file."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from clinvk.disk.atomic import file_error, open_to_append, write_all
from clinvk.disk.closing import Closing
from clinvk.disk.jsonl import encode
from clinvk.errors import ClinvkError
from clinvk.model.events import (
    Delta,
    Denied,
    Event,
    Failed,
    Finished,
    Notice,
    Text,
    Tool,
    ToolResult,
)
from clinvk.model.result import Result
from clinvk.process.threads import for_long
from clinvk.runs.attachments import MAX_OUTPUT_LENGTH, shorten_output
from clinvk.text.redact import GaveUp, without_long_texts

BUFFER_SIZE = 64 * 1024  # bytes


class EventLog(Closing):
    """Writes events to a file, without raw lines and attachments; pieces of an answer are joined, so that a secret
    split across two of them is still found."""

    def __init__(
        self,
        path: Path,
        scrub: Callable[[Any], Any],
        is_urgent: Callable[[], bool] = lambda: False,
    ) -> None:
        """Once `is_urgent`, long texts are left out, since searching them for secrets takes long.
        Raises `SessionError` if the file cannot be written, as all methods do."""
        self.path = path
        self.scrub = scrub
        self._is_urgent = is_urgent
        self.problem: ClinvkError | None = None  # the error that was raised
        self._told_of_cut = False
        self._pieces: list[str] = []
        self._buffer = bytearray()
        self._fd = -1
        try:
            self._fd = open_to_append(
                path
            )  # the torn last line of a killed attempt must not spoil this one
        except OSError as error:
            self.close()
            raise file_error("write", path, error) from error

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self.detach())

    def detach(self) -> int:
        """The open file, which the caller closes."""
        fd, self._fd = self._fd, -1
        return fd

    async def add(self, event: Event) -> None:
        if isinstance(event, Delta):
            self._pieces.append(event.text)
            return
        if isinstance(event, Text):
            self._pieces = []  # it contains the whole text
        await self._write_pieces()
        if isinstance(event, (Finished, Failed)):  # it is in the result
            return
        if isinstance(event, (Tool, ToolResult, Denied)):
            event = await self._shortened(event)
        await self._buffer_line(event.to_json())
        self._flush(BUFFER_SIZE if event.type in ("text", "thinking") else 0)

    async def end(self, result: Result) -> None:
        """Write the last line: the result, as in `-o json`."""
        await self._write_pieces()
        await self._buffer_line({"type": "result", **result.to_json()})
        self._flush(0)

    async def add_turn(self, result: Result) -> int:
        """Write the result of a turn that is not the last one; returns the file, open once more,
        which the caller closes."""
        await self._write_pieces()
        await self._buffer_line({"type": "turn", **result.to_json()})
        self._flush(0)
        return os.dup(self._fd)

    async def _shortened(self, event: Tool | ToolResult | Denied) -> Event:
        """The event without attachments; with a notice before it, the first time that more than
        that is left out."""
        field = "output" if isinstance(event, ToolResult) else "input"
        value, cut = shorten_output(getattr(event, field))
        if cut and not self._told_of_cut:
            self._told_of_cut = True
            most = f"{MAX_OUTPUT_LENGTH:,} characters"
            notice = Notice(message=f"of a tool's input or output, {most} are stored at most")
            await self._buffer_line(notice.to_json())
        return replace(event, **{field: value})

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
