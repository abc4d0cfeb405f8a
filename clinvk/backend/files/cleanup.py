"""Delete the files of a CLI about an ephemeral run."""

from __future__ import annotations

import errno
import glob
import json
import os
import stat
from collections.abc import Iterator, Mapping
from itertools import takewhile
from pathlib import Path
from typing import Any

from clinvk.backend.command.environment import home_of
from clinvk.disk.reading import open_regular, read_stream
from clinvk.process.command import Command

RETRIES = 3  # for a file that another process changes at the same time

# Identifies the state of a file, to detect that another process has written it meanwhile.
State = tuple[int, int, int]


def delete_native_session(command: Command, native_id: str) -> list[str]:
    """Delete the files of this session, and only those: the path matches, and the file itself says
    that it belongs to the session. From a list with entries of several sessions, only its own are
    removed.

    The caller has checked that the id is valid for the CLI. Returns notices about files that could
    not be examined or changed."""
    problems: list[str] = []
    for pattern, owner in command.removals if native_id else ():
        for path in _paths(pattern, command.env):
            try:
                if stat.S_ISREG(os.lstat(path).st_mode):
                    _delete_entries(path, owner, native_id)
            except FileNotFoundError:
                pass
            except OSError as error:
                problems.append(f"{path}: {error.strerror or error}")
    if not problems:
        return []
    others = f" (and {len(problems) - 1} more files)" if len(problems) > 1 else ""
    told = f"could not look for this conversation in {problems[0]}{others}"
    return [f"{told}; delete it yourself if it is there: {native_id}"]


def _paths(pattern: str, env: Mapping[str, str]) -> Iterator[Path]:
    """The files that match, except those that a symbolic link places outside the directory that the
    pattern starts with."""
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
    """Raises `OSError`, also if other processes keep writing the file."""
    for _ in range(RETRIES):
        if _try_delete_entries(path, owner, native_id):
            return
    raise OSError(errno.EBUSY, "another process keeps changing it", str(path))


def _try_delete_entries(path: Path, owner: str, native_id: str) -> bool:
    """False if another process has changed the file meanwhile; then it was left unchanged."""
    with open_regular(path, follow=False) as file:
        before = _state(os.fstat(file.fileno()))
        data = read_stream(file, str(path))
    if not _may_contain(data, native_id):  # most files: they need not be parsed
        return True
    entries, is_list = _read_entries(data)
    owners = [entry.get(owner) if isinstance(entry, dict) else None for entry in entries]
    if native_id not in owners:
        return True
    others = [e for e, its in zip(entries, owners, strict=True) if its != native_id]
    if all(isinstance(its, str) for its in owners):  # each entry says whose it is
        if not others:
            text = None
        elif is_list:
            text = json.dumps(others, indent=2, ensure_ascii=False)
        else:
            text = "".join(json.dumps(e, ensure_ascii=False) + "\n" for e in others)
    elif not is_list and owners[0] == native_id and all(i in (native_id, None) for i in owners):
        text = None  # the first line applies to the lines after it
    else:
        return True
    if _state(os.lstat(path)) != before:
        return False
    if text is None:
        path.unlink()
    else:
        _replace_file(path, text)
    return True


def _state(found: os.stat_result) -> State:
    return found.st_ino, found.st_size, found.st_mtime_ns


def _may_contain(data: bytes, native_id: str) -> bool:
    """Whether a JSON text can contain the id: literally, or with escapes."""
    return native_id.encode("utf-8", "replace") in data or not (
        native_id.isascii() and native_id.replace("-", "").replace("_", "").isalnum()
    )


def _read_entries(data: bytes) -> tuple[list[Any], bool]:
    """The data in a file, and whether it is a list: one object is like one line of JSON lines. A
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
    """Replace the file's text atomically, keeping its mode."""
    # Only for an ephemeral turn of some backends.
    from clinvk.disk.atomic import replace_file

    replace_file(path, text.encode("utf-8", "replace"), durable=False)
