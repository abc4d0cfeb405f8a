"""Which detached runs were submitted from this machine: an empty file for each, `~/.clinvk/cluster/submitted/ID`."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from clinvk.cluster.log.run import RedisRun
from clinvk.disk.atomic import make_folder
from clinvk.runs.log import RunLog

MOST = 1000  # runs that are remembered


def remember(home: Path, run_id: str) -> None:
    """Only `last` needs it, so a disk that is full or read-only is no error."""
    folder = _folder(home)
    with suppress(OSError):
        make_folder(folder)
        (folder / run_id).touch(mode=0o600)
        known = sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime_ns)
        for path in known[:-MOST]:
            path.unlink(missing_ok=True)


def is_own(run: RunLog) -> bool:
    """Whether it is recorded on this machine, or was submitted from it."""
    return not isinstance(run, RedisRun) or (_folder(run.home) / run.id).exists()


def _folder(home: Path) -> Path:
    return home / "cluster" / "submitted"
