"""Notes of directories, which `--memory` adds to a prompt.

Each directory has a file of JSON lines. Its name is a hash of the directory's real path.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from msgspec import Struct

from clinvk.disk.atomic import append_file, file_error, make_folder, replace_own
from clinvk.disk.jsonl import decode_lines, encode
from clinvk.disk.lockfile import hold_lock
from clinvk.disk.reading import read_file
from clinvk.errors import SessionError, UsageError
from clinvk.model.usage import rfc3339

LONGEST = 20_000  # bytes of one note: it always fits into a prompt
LARGEST = 64_000_000  # bytes of the notes of one directory
SHORTEST_ID = 2  # characters of the beginning of an id


class Note(Struct, frozen=True):
    id: str
    text: str
    created_at: datetime
    directory: str  # real path

    def to_json(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "text": self.text,
            "created_at": rfc3339(self.created_at),
            "directory": self.directory,
        }


class Notes:
    """The notes of all directories, in the home of clinvk. Methods raise `SessionError` for a file
    that cannot be read or written."""

    def __init__(self, home: Path) -> None:
        self.folder = home / "memory"

    def add(self, directory: str, text: str) -> Note:
        """Store a note. Raises `UsageError` for one that is empty or too long."""
        text = text.strip()
        size = len(text.encode("utf-8", "replace"))
        if not text:
            raise UsageError("the note is empty", 'try: clinvk memory add "tests need redis"')
        if size > LONGEST:
            raise UsageError(
                f"the note has {size:,} bytes; the maximum is {LONGEST:,}",
                "keep long texts in files, and add them with --knowledge=PATH",
            )
        if "\0" in text:
            raise UsageError("the note has a NUL character", "remove it")
        note = Note(os.urandom(4).hex(), text, datetime.now(UTC), directory)
        path = self._path(directory)
        line = encode(note.to_json()) + b"\n"
        try:
            make_folder(self.folder)
            with hold_lock(self.folder / "lock"):
                if path.exists() and path.stat().st_size + len(line) > LARGEST:
                    raise SessionError(
                        f"{path}: the notes of {directory} have {LARGEST:,} bytes, the maximum",
                        "forget some: clinvk memory list; clinvk memory forget ID",
                    )
                append_file(path, line)
        except OSError as error:
            raise file_error("write", path, error) from error
        return note

    def of(self, directory: str) -> list[Note]:
        """The notes of a directory, oldest first. Damaged lines are skipped."""
        return _read(self._path(directory))

    def list_all(self) -> list[Note]:
        """The notes of all directories, oldest first."""
        found = [note for path in self.folder.glob("*.jsonl") for note in _read(path)]
        return sorted(found, key=lambda note: note.created_at)

    def find(self, directory: str, texts: Iterable[str]) -> list[Note]:
        """The notes with these ids, or unique beginnings of ids. Raises `SessionError`."""
        known = self.of(directory)
        return list({note.id: note for note in (_choose(known, t) for t in texts)}.values())

    def forget(self, directory: str, notes: Iterable[Note]) -> None:
        """Delete these notes of the directory."""
        path, ids = self._path(directory), {note.id for note in notes}
        try:
            with hold_lock(self.folder / "lock"):
                kept = [note for note in self.of(directory) if note.id not in ids]
                if kept:
                    data = b"".join(encode(note.to_json()) + b"\n" for note in kept)
                    replace_own(path, data, durable=True)
                else:
                    path.unlink(missing_ok=True)
        except OSError as error:
            raise file_error("write", path, error) from error

    def _path(self, directory: str) -> Path:
        return self.folder / f"{hashlib.sha256(os.fsencode(directory)).hexdigest()[:32]}.jsonl"


def _read(path: Path) -> list[Note]:
    try:
        data = read_file(path, limit=2 * LARGEST, follow=False)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise file_error("read", path, error) from error
    found = (_parse(line) for line in decode_lines(data))
    return [note for note in found if note is not None]


def _parse(line: dict[str, Any]) -> Note | None:
    fields = [line.get(name) for name in ("id", "text", "created_at", "directory")]
    if not all(isinstance(field, str) for field in fields):
        return None
    note_id, text, created_at, directory = map(str, fields)
    try:
        at = datetime.fromisoformat(created_at)
    except ValueError:
        return None
    return Note(note_id, text, at if at.tzinfo else at.replace(tzinfo=UTC), directory)


def _choose(known: list[Note], text: str) -> Note:
    found = [note for note in known if note.id == text]
    if not found and len(text) >= SHORTEST_ID:
        found = [note for note in known if note.id.startswith(text)]
    if len(found) == 1:
        return found[0]
    problem = "is the beginning of several notes" if found else "is not a note of this directory"
    raise SessionError(f"{text[:100]!r} {problem}", "see them all: clinvk memory list")
