"""How large files are, and how that is written."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


def format_size(count: int) -> str:
    """A number of bytes in the unit that leaves few digits."""
    value = float(count)
    for unit in ("B", "KB", "MB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} GB"


def folder_size(folder: str | Path) -> int:
    """The bytes that a directory takes on the disk; a file with several names counts once. What
    cannot be read counts nothing."""
    total, seen, pending = 0, set(), [os.fspath(folder)]
    while pending:
        with suppress(OSError), os.scandir(pending.pop()) as entries:
            for entry in entries:
                with suppress(OSError):
                    found = entry.stat(follow_symlinks=False)
                    if entry.is_dir(follow_symlinks=False):
                        pending.append(entry.path)
                    if found.st_nlink == 1 or (found.st_dev, found.st_ino) not in seen:
                        seen.add((found.st_dev, found.st_ino))
                        total += found.st_blocks * 512
    return total
