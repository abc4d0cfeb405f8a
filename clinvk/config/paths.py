"""The paths of manifests."""

from __future__ import annotations

import os
import stat
from functools import cache
from pathlib import Path


@cache
def built_in_manifests() -> Path:
    """The directory of built-in manifests: inside the package, or beside it in a checkout."""
    here = Path(__file__).parent.parent
    inside = here / "backends"
    return inside if inside.is_dir() else here.parent / "backends"


def backend_names(home: Path) -> list[str]:
    """The names of all backends: built-in ones first, then the user's that do not replace those."""
    ours = sorted(p.stem for p in built_in_manifests().glob("*.yaml"))
    theirs = sorted(p.stem for p in (home / "backends").glob("*.yaml"))
    return ours + [name for name in theirs if name not in ours]


def home_problem(home: Path) -> str | None:
    """Why other users can change files in the home directory of clinvk; None if they cannot."""
    try:
        mode = os.stat(home).st_mode
    except OSError:
        return None  # it does not exist yet, and is created private
    if not mode & stat.S_IWOTH:
        return None
    return f"{home} can be written by every user of this machine (mode {mode & 0o7777:04o})"


def private_hint(home: Path) -> str:
    import shlex  # only for a warning

    return f"its backends are programs that you run; make it private: chmod 700 {shlex.quote(str(home))}"
