"""Delete what a CLI keeps of a run that was to leave nothing."""

from __future__ import annotations

import glob
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from itertools import takewhile
from pathlib import Path
from typing import Any

from clinvk.backend.command_line import home_of
from clinvk.disk.reading import read_file
from clinvk.process.command import Command


def delete_native_session(command: Command, native_id: str) -> None:
    """Delete the files of this session, and only those: the path matches, and the file itself says
    that it belongs to the session. Of a list with entries of several sessions, only its own go.

    The caller has checked that the id is one of the CLI's."""
    for pattern, owner in command.removals if native_id else ():
        for path in _paths(pattern, command.env):
            with suppress(OSError):
                _delete_entries(path, owner, native_id)


def _paths(pattern: str, env: Mapping[str, str]) -> Iterator[Path]:
    """The files that match, without those that a symbolic link puts out of the directory that the
    pattern begins with."""
    root = ""
    if pattern.startswith("~/"):
        root, pattern = home_of(env), pattern[2:]
    fixed = takewhile(lambda part: not glob.has_magic(part), pattern.split("/")[:-1])
    base = os.path.realpath(os.path.join(root, "/".join(fixed)))
    for name in glob.glob(pattern, root_dir=root or None, recursive=True):
        path = Path(root, name)
        if Path(os.path.realpath(path.parent)).is_relative_to(base):
            yield path


def _delete_entries(path: Path, owner: str, native_id: str) -> None:
    entries, is_list = _read_entries(read_file(path, follow=False))
    owners = [entry.get(owner) if isinstance(entry, dict) else None for entry in entries]
    if native_id not in owners:
        return
    others = [e for e, its in zip(entries, owners, strict=True) if its != native_id]
    if all(isinstance(its, str) for its in owners):  # each entry says whose it is
        if not others:
            path.unlink()
        elif is_list:
            _replace_file(path, json.dumps(others, indent=2, ensure_ascii=False))
        else:
            _replace_file(path, "".join(json.dumps(e, ensure_ascii=False) + "\n" for e in others))
    elif not is_list and owners[0] == native_id and {*owners} <= {native_id, None}:
        path.unlink()  # the first line speaks for the lines behind it


def _read_entries(data: bytes) -> tuple[list[Any], bool]:
    """What a file holds, and whether it is a list: one object is like one line of JSON lines. A
    line that is not JSON is None."""
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        return [_line(line) for line in data.split(b"\n") if line.strip()], False
    return (found, True) if isinstance(found, list) else ([found], False)


def _line(line: bytes) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _replace_file(path: Path, text: str) -> None:
    """Replace the file's text, whole or not at all; it stays as private as it was."""
    # Only for an ephemeral turn of some backends.
    from clinvk.disk.atomic import replace_file

    replace_file(path, text.encode("utf-8", "replace"), durable=False)
