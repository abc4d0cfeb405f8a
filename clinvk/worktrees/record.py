"""What clinvk knows of a worktree: a file beside it, so that it survives whatever happens to it.

    ~/.clinvk/worktrees/RUN/SLUG.json

`creating`: no program has worked in it yet, so the rest of it can be removed. `ready`: it may contain
work. `removing`: all of it is in refs.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Literal

import msgspec
from msgspec import Struct

from clinvk.disk.atomic import file_error, make_folder, replace_own
from clinvk.disk.reading import read_file
from clinvk.worktrees import names

State = Literal["creating", "ready", "removing"]
SUFFIX = ".json"


class Submodule(Struct, frozen=True):
    """A submodule that is checked out in a worktree, as a worktree of its own repository."""

    path: str  # below the root of the worktree
    repository: str  # its git directory
    commit: str  # that the worktree began with


class Record(Struct, frozen=True, kw_only=True):
    state: State
    path: str  # of the worktree when this was written; a home may be moved
    repository: str  # the git directory that all worktrees of the repository share
    admin: str = ""  # the git directory of this worktree
    commit: str = ""  # that it began with
    submodules: tuple[Submodule, ...] = ()
    tip: str = ""  # of a chain: the result of the last step
    bases: dict[str, str] = {}  # of a chain: the commit that each step began with, by its slug
    version: int = 1


def record_path(worktree: Path) -> Path:
    return worktree.with_name(worktree.name + SUFFIX)


def read_record(worktree: Path) -> Record | None:
    """The record of a worktree; None if there is none, or if it is damaged."""
    with suppress(OSError, msgspec.MsgspecError):
        return msgspec.json.decode(read_file(record_path(worktree)), type=Record)
    return None


def is_of_worker(record: Record, home: Path) -> bool:
    """Whether a worker of a cluster on this machine has made the worktree, in its copy of the
    repository."""
    return Path(record.repository).is_relative_to(names.caches_of(home))


def write_record(worktree: Path, record: Record) -> None:
    """On disk when this returns, unless it says that the worktree contains nothing yet. Raises
    `SessionError`."""
    path = record_path(worktree)
    try:
        make_folder(path.parent)
        replace_own(path, msgspec.json.encode(record) + b"\n", durable=record.state != "creating")
    except OSError as error:
        raise file_error("write", path, error) from error


def delete_record(worktree: Path) -> None:
    with suppress(OSError):
        record_path(worktree).unlink()
    with suppress(OSError):  # the last one of the run
        worktree.parent.rmdir()
