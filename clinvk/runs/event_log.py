"""Write the events of one attempt."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from msgspec.structs import replace

from clinvk.disk.closing import Closing
from clinvk.disk.jsonl import encode
from clinvk.errors import ClinvkError, SessionError
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
from clinvk.runs.log import EventSink
from clinvk.text.redact import GaveUp, without_long_texts

BUFFER_SIZE = 64 * 1024  # bytes


class EventLog(Closing):
    """Writes events, without raw lines and attachments; pieces of an answer are joined, so that a secret
    split across two of them is still found."""

    def __init__(
        self,
        sink: EventSink,
        scrub: Callable[[Any], Any],
        is_urgent: Callable[[], bool] = lambda: False,
    ) -> None:
        """Once `is_urgent`, long texts are left out, since searching them for secrets takes long.
        Methods raise `SessionError` if the events cannot be written."""
        self.scrub = scrub
        self._is_urgent = is_urgent
        self._sink = sink
        self.problem: ClinvkError | None = None  # the error that was raised
        self._told_of_cut = False
        self._pieces: list[str] = []
        self._lines: list[bytes] = []  # to be written
        self._size = 0  # bytes in them

    def close(self) -> None:
        self._sink.close()

    def detach(self) -> int | None:
        """The file that has to be flushed before the end is recorded, if any; the caller closes
        it."""
        return self._sink.detach()

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
        await self._flush(BUFFER_SIZE if event.type in ("text", "thinking") else 0)

    async def end(self, result: Result) -> None:
        """Write the last line: the result, as in `-o json`."""
        await self._write_pieces()
        await self._buffer_line({"type": "result", **result.to_json()})
        await self._flush(0)

    async def add_turn(self, result: Result) -> int | None:
        """Write the result of a turn that is not the last one; returns the file that has to be
        flushed before the turn is recorded, if any; the caller closes it."""
        await self._write_pieces()
        await self._buffer_line({"type": "turn", **result.to_json()})
        await self._flush(0)
        return self._sink.duplicate()

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
        self._lines.append(encode(line) + b"\n")
        self._size += len(self._lines[-1])

    async def _flush(self, most: int) -> None:
        if self._size <= most:
            return
        lines, self._lines, self._size = self._lines, [], 0
        try:
            await self._sink.write(lines)
        except SessionError as error:
            self.problem = error
            raise
