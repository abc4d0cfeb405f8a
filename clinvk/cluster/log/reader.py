"""Reads what is added to a run in Redis: each entry once, for all tasks together."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any

from clinvk.cluster.log.server import PAGE, START, Id, LogServer, parse_id
from clinvk.disk.jsonl import decode_line
from clinvk.runs.log import Line

IN_A_MILLISECOND = 10**6  # entries; the server adds far fewer


class StreamReader:
    """Follows the journal and the events of a run. The offset of an event is its id, as a number."""

    def __init__(self, server: LogServer, run: str) -> None:
        self._server = server
        self._run = run
        self._journal = START  # the last line that was read
        self._first: Id | None = None  # where reading the events began
        self._last = START  # the last event that was read
        self._is_at_end = False  # since the last call of `journal`
        self._found: dict[int, deque[tuple[int, Line]]] = {}  # events of tasks that were read
        self._asked: set[int] = set()

    @property
    def has_begun(self) -> bool:
        return self._journal != START

    def journal(self) -> list[Line]:
        lines = []
        for place, fields in self._server.entries(
            self._server.keys.journal(self._run), self._journal
        ):
            self._journal = place
            if (line := decode_line(fields[b"line"])) is not None:
                lines.append(line)
        self._is_at_end = False
        return lines

    def events(self, index: int, offset: int) -> Iterator[tuple[int, Line]]:
        first, last = self._range(index)
        if first is None or last is None:
            return
        if self._first is None:
            self._first = self._last = max(_before(first), _id(offset))
        if index not in self._asked:
            self._asked.add(index)
            self._read_earlier(index, max(_before(first), _id(offset)))
        while not self._is_at_end and self._last < last:
            self._read_page()
        found = self._found.get(index, deque())
        while found and found[0][0] <= offset:
            found.popleft()
        yield from list(found)

    def _range(self, index: int) -> tuple[Id | None, Id | None]:
        """The first and the last event of a task."""
        if self._is_at_end and index in self._asked:
            return START, START
        keys = self._server.keys
        with self._server.errors():
            found: Any = self._server.client.hmget(
                keys.event_index(self._run), [f"{index}:first", f"{index}:last"]
            )
        first, last = (parse_id(text) if text else None for text in found)
        return first, last

    def _read_earlier(self, index: int, after: Id) -> None:
        """Read the events of a task from before those of all tasks that were read."""
        begin = self._first or START
        if after >= begin:
            return
        earlier: deque[tuple[int, Line]] = deque()
        for place, fields in self._server.entries(
            self._server.keys.events(self._run), after, begin
        ):
            if int(fields[b"task"]) == index:
                earlier.append((_offset(place), decode_line(fields[b"line"]) or {}))
        self._found[index] = earlier + self._found.get(index, deque())

    def _read_page(self) -> None:
        page = self._server.page(self._server.keys.events(self._run), self._last)
        for place, fields in page:
            line = decode_line(fields[b"line"]) or {}
            self._found.setdefault(int(fields[b"task"]), deque()).append((_offset(place), line))
        if page:
            self._last = page[-1][0]
        self._is_at_end = len(page) < PAGE


def _offset(place: Id) -> int:
    return place[0] * IN_A_MILLISECOND + place[1]


def _id(offset: int) -> Id:
    return divmod(offset, IN_A_MILLISECOND)


def _before(place: Id) -> Id:
    """The largest id that an entry before this one can have."""
    return (place[0], place[1] - 1) if place[1] else (place[0] - 1, IN_A_MILLISECOND - 1)
