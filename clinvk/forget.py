"""Take away what a CLI keeps of a run which was to leave nothing."""

from __future__ import annotations

import glob
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from clinvk.command import Command, expand_home

HEAD = 65_536  # bytes; a CLI names the session at the beginning of its file
OWNER = "sessionId"  # what an entry of a list is known by, where the file is of several sessions


def forget(command: Command, native_id: str) -> None:
    """Delete the files of this session, and only those: the name fits and the content names it. Of
    a list that other sessions are in as well, only its entries go."""
    for pattern, containing in command.remove:
        needle = containing.replace("$native_id", native_id).encode()
        for path in glob.glob(expand_home(pattern, command.env), recursive=True):
            with suppress(OSError):
                _forget_in(Path(path), needle, native_id)


def _forget_in(path: Path, needle: bytes, native_id: str) -> None:
    data = path.read_bytes()
    entries = _entries(data)
    if needle not in (data if entries else data[:HEAD]):
        return
    others = [e for e in entries if e[OWNER] != native_id]
    if not others:
        path.unlink()
    elif len(others) < len(entries):  # else another session only speaks of it
        _replace(path, json.dumps(others, indent=2, ensure_ascii=False))


def _entries(data: bytes) -> list[dict[str, Any]]:
    """What is in a list of several sessions' entries; nothing where the file is none."""
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        return []
    is_list = isinstance(found, list) and all(isinstance(e, dict) and OWNER in e for e in found)
    return found if is_list else []


def _replace(path: Path, text: str) -> None:
    """The file's text anew, whole or not at all, as private as it was."""
    from clinvk.store.files import replace_file

    mode = path.stat().st_mode & 0o777
    replace_file(path, text.encode("utf-8", "replace"), durable=False)
    path.chmod(mode)
