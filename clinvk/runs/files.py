"""The files that hold the journal of a run and the events of its tasks."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from clinvk.disk.atomic import file_error, open_to_append, write_all
from clinvk.disk.closing import Closing
from clinvk.disk.jsonl import decode_line, decode_lines
from clinvk.disk.reading import open_regular
from clinvk.disk.sync import holding_sync_threads, sync_folder, sync_together
from clinvk.runs.log import Line


class JournalFile(Closing):
    """Appends lines to a journal. Raises `SessionError`."""

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        self._path = path
        self._lock = threading.Lock()
        self._held = ExitStack()
        self._held.enter_context(holding_sync_threads())  # needed for each batch
        self._fd = -1
        try:
            self._fd = open_to_append(path)
            sync_folder(path.parent)
        except OSError as error:
            self.close()
            raise file_error("write", path, error) from error

    def commit(self, lines: list[bytes], files: list[int] | None = None) -> None:
        if files:
            try:
                sync_together(files)
            except OSError as error:
                raise file_error("write", self._path.parent, error) from error
        try:
            end = self._write(lines)
            try:
                os.fsync(self._fd)
            except OSError:
                with self._lock:
                    os.ftruncate(self._fd, end)
                raise
        except OSError as error:
            raise file_error("write", self._path, error) from error

    def append(self, lines: list[bytes]) -> None:
        try:
            self._write(lines)
        except OSError as error:
            raise file_error("write", self._path, error) from error

    def _write(self, lines: list[bytes]) -> int:
        """Write all of the lines, or none of them; returns where they begin."""
        with self._lock:  # several threads may write
            end = os.lseek(self._fd, 0, os.SEEK_END)
            try:
                write_all(self._fd, b"".join(lines))
            except OSError:
                os.ftruncate(self._fd, end)
                raise
        return end

    def close(self) -> None:
        self._held.close()
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)


class EventFile(Closing):
    """Appends the events of an attempt. Raises `SessionError`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd = -1
        try:
            # The torn last line of a killed attempt must not spoil this one.
            self._fd = open_to_append(path)
        except OSError as error:
            raise file_error("write", path, error) from error

    async def write(self, lines: list[bytes]) -> None:
        try:
            write_all(self._fd, b"".join(lines))
        except OSError as error:
            raise file_error("write", self._path, error) from error

    def duplicate(self) -> int | None:
        return os.dup(self._fd)

    def detach(self) -> int | None:
        """The open file, which the caller closes."""
        fd, self._fd = self._fd, -1
        return fd

    def close(self) -> None:
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)


class FileReader:
    """Reads what is appended to a journal and to the events of tasks."""

    def __init__(self, journal: Path, events: Path) -> None:
        """`events` is the directory of the events of tasks."""
        self._journal = journal
        self._events = events
        self._offset = 0  # bytes of the journal that were read

    @property
    def has_begun(self) -> bool:
        return self._offset > 0

    def journal(self) -> list[Line]:
        data = _read_whole_lines(self._journal, self._offset)
        self._offset += len(data)
        return decode_lines(data)

    def events(self, index: int, offset: int) -> Iterator[tuple[int, Line]]:
        for line in _read_whole_lines(events_path(self._events, index), offset).split(b"\n")[:-1]:
            offset += len(line) + 1
            yield offset, decode_line(line) or {}


def events_path(folder: Path, index: int) -> Path:
    return folder / f"{index + 1:04}.jsonl"


def _read_whole_lines(path: Path, offset: int) -> bytes:
    """The content of a file from there to its last complete line. Raises `SessionError`."""
    try:
        with open_regular(path) as file:
            file.seek(offset)
            data = file.read()
    except FileNotFoundError:  # nothing was written yet
        return b""
    except OSError as error:
        raise file_error("read", path, error) from error
    return data[: data.rfind(b"\n") + 1]
