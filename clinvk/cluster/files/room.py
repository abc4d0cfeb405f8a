"""Deletes what a worker has of tasks that have ended, the oldest first, until it is small enough."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from clinvk.cluster.files.cache import NODE_REFS, SUFFIX, URL_FILE, lock_cache
from clinvk.cluster.files.checks import remove_abandoned_checks
from clinvk.cluster.files.in_use import name_of_worktree, unless_in_use
from clinvk.disk.empty import remove_abandoned
from clinvk.disk.sizes import folder_size
from clinvk.disk.trees import remove_tree
from clinvk.errors import ClinvkError
from clinvk.worktrees import names
from clinvk.worktrees import record as records
from clinvk.worktrees.create import discard_worktree
from clinvk.worktrees.remove import place_of_orphan, remove_worktree


class _Tree(NamedTuple):
    """A worktree of a task."""

    used: float
    path: Path
    record: records.Record
    size: int


class _Copy(NamedTuple):
    """A cache."""

    used: float
    path: Path
    size: int


def remove_debris(home: Path) -> None:
    """Delete what killed workers have left, and tasks do not need any more."""
    remove_abandoned(home)
    remove_abandoned_checks(home)


def make_room(home: Path, limit: int, env: Mapping[str, str]) -> list[Path]:
    """Delete worktrees that no task uses, then caches without worktrees, until all take at most
    `limit` bytes; what was deleted. What a worktree contains is in a ref before."""
    trees, copies = sorted(_trees(home)), sorted(_copies(home))
    total = sum(tree.size for tree in trees) + sum(copy.size for copy in copies)
    deleted: list[Path] = []
    for tree in trees:
        if total <= limit:
            return deleted
        with suppress(ClinvkError, OSError):
            if _remove_tree(home, tree, env):
                deleted.append(tree.path)
                total -= tree.size
    for copy in copies:
        if total <= limit:
            return deleted
        with suppress(ClinvkError, OSError):
            if _remove_copy(home, copy):
                deleted.append(copy.path)
                total -= copy.size
    return deleted


def _remove_tree(home: Path, tree: _Tree, env: Mapping[str, str]) -> bool:
    run, directory = tree.path.parent.name, tree.path.name
    place = place_of_orphan(home, tree.path, tree.record, env)
    with unless_in_use(home, name_of_worktree(run, directory)) as unused:
        if not unused:
            return False
        try:
            remove_worktree(place)
        except ClinvkError:
            # On a full disk nothing can be saved; what was delivered need not be.
            if place.git.commit_of(f"{NODE_REFS}{run}/{directory}") is None:
                raise
            discard_worktree(place, tree.record)
        return True


def _remove_copy(home: Path, copy: _Copy) -> bool:
    with unless_in_use(home, copy.path.name) as unused, lock_cache(copy.path):
        if not unused or any(tree.record.repository == str(copy.path) for tree in _trees(home)):
            return False
        remove_tree(copy.path)
        return True


def _trees(home: Path) -> Iterator[_Tree]:
    """The worktrees of caches."""
    own = names.caches_of(home)
    for file in names.folder_of(home).glob(f"*/*{records.SUFFIX}"):
        path = file.with_name(file.name.removesuffix(records.SUFFIX))
        record = records.read_record(path)
        if record is None or not Path(record.repository).is_relative_to(own):
            continue
        with suppress(OSError):
            yield _Tree(file.stat().st_mtime, path, record, folder_size(path))


def _copies(home: Path) -> Iterator[_Copy]:
    for path in names.caches_of(home).glob(f"*{SUFFIX}"):
        with suppress(OSError):
            yield _Copy((path / URL_FILE).stat().st_mtime, path, folder_size(path))
