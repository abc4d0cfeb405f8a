"""Take away the files that a CLI keeps of a run which was to leave none."""

from __future__ import annotations

import glob
import os
from contextlib import suppress

from clinvk.command import Command, expand_home

HEAD = 65_536  # bytes; a CLI names the session at the beginning of its file


def forget(command: Command, native_id: str) -> None:
    """Delete the files of this session, and only those: the name fits and the content names it."""
    for pattern, containing in command.remove:
        needle = containing.replace("$native_id", native_id).encode()
        for path in glob.glob(expand_home(pattern, command.env), recursive=True):
            with suppress(OSError):
                if _holds(path, needle):
                    os.unlink(path)


def _holds(path: str, needle: bytes) -> bool:
    with open(path, "rb") as file:
        return needle in file.read(HEAD)
