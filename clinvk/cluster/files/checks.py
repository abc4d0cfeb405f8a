"""What checks print on a worker: needed until the attempt has ended, since its result has the end of it.

~/.clinvk/cluster/checks/RUN/…
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path

from clinvk.disk.trees import remove_tree

KEPT = 7 * 24 * 3600.0  # seconds for which what a killed worker has left is kept


def new_folder(home: Path, run: str | None) -> Path:
    """The directory of an attempt, which is created once something is written to it."""
    return folder_of(home) / (run or "ephemeral") / os.urandom(4).hex()


def folder_of(home: Path) -> Path:
    return home / "cluster" / "checks"


def remove_checks(folder: Path) -> None:
    """Delete the directory of an attempt that has ended."""
    with suppress(OSError):
        remove_tree(folder)
    with suppress(OSError):  # the last one of the run
        folder.parent.rmdir()


def remove_abandoned_checks(home: Path, older_than: float = KEPT) -> None:
    """Delete those of attempts that ended without that."""
    before = time.time() - older_than
    for folder in folder_of(home).glob("*/*"):
        with suppress(OSError):
            if folder.stat().st_mtime < before:
                remove_checks(folder)
