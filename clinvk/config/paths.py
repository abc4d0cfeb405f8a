"""Where manifests lie."""

from __future__ import annotations

from functools import cache
from pathlib import Path


@cache
def built_in_manifests() -> Path:
    """The folder of our own manifests: inside the package, or beside it in a checkout."""
    here = Path(__file__).parent.parent
    inside = here / "backends"
    return inside if inside.is_dir() else here.parent / "backends"


def backend_names(home: Path) -> list[str]:
    """Every backend's name: ours first, then those of the user's that are no repair of ours."""
    ours = sorted(p.stem for p in built_in_manifests().glob("*.yaml"))
    theirs = sorted(p.stem for p in (home / "backends").glob("*.yaml"))
    return ours + [name for name in theirs if name not in ours]
