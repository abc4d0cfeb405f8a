"""Shared by the readers: JSON lines, times, and joining the pieces of an answer."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, TypeVar

import msgspec

from clinvk.disk.reading import open_regular
from clinvk.model.conversion import json_decoder
from clinvk.model.session import Message, MessageRole

T = TypeVar("T")

LONGEST = 256 * 1024 * 1024  # bytes of a line; longer ones are skipped


class JsonLines:
    """The lines of a file, one at a time: a transcript may be larger than the memory.

    Each is decoded as `kind`, which has the needed fields: all else, such as images and whole
    requests, is skipped. Lines that are not JSON are counted in `torn`, except an incomplete last
    one, which may still be being written."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.torn = 0

    def read(self, kind: type[T]) -> Iterator[T]:
        """Raises `OSError`, and `CompressedError` for a file that needs a missing package."""
        decoder = json_decoder(kind)
        with _open_plain(self.path) as file:
            while line := file.readline(LONGEST):
                if len(line) == LONGEST and not line.endswith(b"\n"):
                    self.torn += 1
                    while (more := file.readline(LONGEST)) and not more.endswith(b"\n"):
                        pass  # the rest of a line that is too long
                    continue
                try:
                    yield decoder.decode(line)
                except msgspec.ValidationError:
                    continue  # JSON of an unknown form
                except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                    self.torn += line.endswith(b"\n") and not line.isspace()

    @property
    def problems(self) -> tuple[str, ...]:
        """Call it after reading."""
        if not self.torn:
            return ()
        return (f"{self.path}: {self.torn} damaged line(s) were skipped",)


class CompressedError(Exception):
    """The file is compressed, and the package that reads such files is not installed."""


@contextmanager
def _open_plain(path: Path) -> Iterator[IO[bytes]]:
    """The content of the file, without its compression. Raises `OSError`, `CompressedError`."""
    with open_regular(path) as file:
        if path.suffix != ".zst":
            yield file
            return
        try:
            import zstandard  # an extra, for old sessions of codex
        except ModuleNotFoundError:
            raise CompressedError from None
        reader = zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True)
        try:
            yield io.BufferedReader(reader)
        except zstandard.ZstdError as error:
            raise ValueError(f"not valid Zstandard data: {error}") from error


def cli_home(env: Mapping[str, str], variable: str, folder: str) -> Path:
    """The directory of a CLI: from its variable, otherwise in the home directory."""
    if given := env.get(variable):
        return Path(given)
    return Path(env.get("HOME") or os.path.expanduser("~")) / folder


def parse_time(text: Any) -> datetime | None:
    """A time that a CLI wrote; None if it is invalid."""
    try:
        found = datetime.fromisoformat(text)
    except (TypeError, ValueError):
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def modified_at(path: Path) -> datetime:
    """The modification time of the file, for a line without a time."""
    return datetime.fromtimestamp(path.stat().st_mtime, UTC)


def real_path(folder: Any) -> str | None:
    return os.path.realpath(folder) if isinstance(folder, str) and folder else None


class EntryTree:
    """The entries of a transcript that is a tree; the entry added last is the current one."""

    def __init__(self) -> None:
        self._parents: dict[str, str | None] = {}
        self._messages: dict[str, Message] = {}
        self._last: str | None = None

    def add(self, entry: str, parent: str | None, message: Message | None) -> None:
        """Add an entry, with its message if it has one."""
        self._last = entry
        self._parents[entry] = parent
        if message is not None:
            self._messages[entry] = message

    def current_messages(self) -> list[Message]:
        """The messages from the root to the current entry, without undone ones; all messages if the
        path is broken. The text between two tool calls is one answer."""
        messages: list[Message] = []
        for entry in self._path():
            if entry in self._messages:
                append_message(messages, self._messages[entry])
        return messages

    def _path(self) -> list[str]:
        way: dict[str, None] = {}
        entry = self._last
        while entry is not None and entry not in way:
            if entry not in self._parents:
                return list(self._parents)
            way[entry] = None
            entry = self._parents[entry]
        return list(reversed(way))


def append_message(messages: list[Message], message: Message) -> None:
    """Append a message; the text between two tool calls is one answer."""
    last = messages[-1] if messages else None
    if last is not None and last.role is message.role is MessageRole.ASSISTANT:
        last.content += f"\n\n{message.content}"
        last.timestamp = message.timestamp
    else:
        messages.append(message)


def text_parts(content: Any, *kinds: str) -> list[str]:
    """The texts in a message's content, which is a text or a list of parts."""
    if isinstance(content, str):
        return [content]
    parts = content if isinstance(content, list) else []
    found = (p.get("text") for p in parts if isinstance(p, dict) and p.get("type", "text") in kinds)
    return [text for text in found if isinstance(text, str)]
