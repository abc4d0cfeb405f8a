"""What is being applied, on disk before anything is changed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from clinvk.disk.atomic import file_error
from clinvk.disk.reading import ANY, read_file
from clinvk.errors import SessionError
from clinvk.worktrees.results.landing.placing import Step

VERSION = 1


class Note(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """What is applied, for a process that finds it unfinished."""

    version: int
    token: str
    about: dict[str, Any]  # what is recorded in the run at the end
    root: str | None
    ref: str | None  # the branch that is changed
    old: str | None  # its commit before
    new: str | None = None  # its commit afterwards, if that is known already
    steps: tuple[Step, ...] = ()


class Recovered(Struct, frozen=True):
    """What became of an apply that was killed."""

    about: dict[str, Any]
    is_complete: bool  # otherwise it was undone
    left: tuple[str, ...] = ()  # files that were changed meanwhile, and left as they are

    @property
    def message(self) -> str:
        run = self.about.get("run", "")
        what = "it was complete" if self.is_complete else "its changes were undone"
        left = f"; changed meanwhile, and left as they are: {', '.join(self.left)}"
        return f"applying run {run} had been interrupted: {what}{left if self.left else ''}"


def read_note(path: Path) -> Note | None:
    """The note of an apply that has not ended. Raises `SessionError` if it is damaged, or newer than
    this clinvk."""
    try:
        data = read_file(path, limit=ANY)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise file_error("read", path, error) from error
    try:
        note = msgspec.json.decode(data, type=Note)
    except msgspec.DecodeError as error:
        raise SessionError(
            f"{path} is damaged: {error}", "check the files with git status, then delete it"
        ) from error
    if note.version > VERSION:
        raise SessionError(f"{path} was written by a newer clinvk", "update clinvk")
    return note
