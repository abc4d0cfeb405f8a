"""What was said in the sessions of a CLI while its own screen was open."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path

from msgspec.structs import replace

from clinvk.model.session import Message, MessageRole
from clinvk.sessions.native import KNOWN, NativeSession, reader_for

CLOCK_TOLERANCE = timedelta(seconds=2)  # a file system may store times in whole seconds


def can_read(backend: str) -> bool:
    """Whether the sessions of this backend can be read."""
    return backend in KNOWN


def find_native(backend: str, env: Mapping[str, str], native_id: str) -> NativeSession | None:
    """The session with this native id; the newest, if there is more than one file of it. Raises
    `OSError`, and whatever a damaged file leads to."""
    reader = reader_for(backend)
    found = []
    for path in reader.find_files(env):
        with suppress(FileNotFoundError):  # it was deleted meanwhile
            if reader.find_native_id(path) == native_id:
                found.append(reader.read_session(path))
    return max(filter(None, found), key=lambda s: s.updated, default=None)


def has_native(backend: str, env: Mapping[str, str], native_id: str) -> bool:
    """Whether there is a file with the session with this native id; False if that cannot be known. Raises
    `OSError`, and whatever a damaged file leads to."""
    if not can_read(backend):
        return False
    reader = reader_for(backend)
    for path in reader.find_files(env):
        with suppress(FileNotFoundError):  # it was deleted meanwhile
            if reader.find_native_id(path) == native_id:
                return True
    return False


def used_since(
    backend: str, env: Mapping[str, str], cwd: str, since: datetime
) -> list[NativeSession]:
    """The sessions of a directory (real path) in which something was said since then, those that
    were created first at the beginning. Raises `OSError`."""
    reader = reader_for(backend)
    found: dict[str, NativeSession] = {}
    for path in _files_since(reader.find_files(env), since):
        native = reader.read_session(path)
        if native is not None and native.updated >= since and native.cwd in (None, cwd):
            found[native.native_id] = native
    return sorted(found.values(), key=lambda s: s.created)


def new_messages(
    before: NativeSession | None, after: NativeSession | None, since: datetime
) -> list[Message]:
    """The messages of `after` that `before`, the same session earlier, does not have. Turns that
    were undone meanwhile are not among those that follow; what a CLI only writes again, such as a
    shortened history, is not new."""
    if after is None:
        return []
    known = before.messages if before else []
    at = 0
    while at < min(len(known), len(after.messages)) and _is_same(known[at], after.messages[at]):
        at += 1
    rest = [m for m in after.messages[at:] if m.timestamp >= since]
    if rest and at < len(known) and rest[0] is after.messages[at]:
        rest[:1] = _continuation(known[at], rest[0])
    return rest


def _is_same(one: Message, other: Message) -> bool:
    return (one.role, one.content) == (other.role, other.content)


def _continuation(known: Message, message: Message) -> list[Message]:
    """The message without the beginning that was known before: pieces of an answer between which
    the user said nothing are one message."""
    if message.role is not MessageRole.ASSISTANT or not message.content.startswith(known.content):
        return [message]
    rest = message.content[len(known.content) :].strip()
    return [replace(message, content=rest)] if rest else []


def _files_since(files: Iterable[Path], since: datetime) -> Iterator[Path]:
    earliest = (since - CLOCK_TOLERANCE).timestamp()
    for path in files:
        try:
            is_new = os.stat(path).st_mtime >= earliest
        except OSError:  # it is gone
            continue
        if is_new:
            yield path
