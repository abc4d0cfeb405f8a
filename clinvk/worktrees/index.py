"""All that is not ignored in a working tree, as a tree of git: in an index of its own, so that the
user's or the agent's index stays as it is."""

from __future__ import annotations

import math
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from clinvk.worktrees.git import Git, GitError, hint_of

# A directory in which an agent has run `git init`, and nothing else.
_UNBORN = re.compile(r"'(.+?)/?' does not have a commit checked out")
MAX_UNBORN = 100
PREFIX = "clinvk-index-"
TICK = 0.05  # seconds by which the clock of a file system may be behind
ABANDONED = 3600.0  # seconds after which such an index was left by a killed process


@contextmanager
def temporary_index(index: Path) -> Iterator[Path]:
    """A copy of an index: what git knows of the files makes adding them again fast."""
    _remove_old(index.parent)
    copy = index.with_name(f"{PREFIX}{os.urandom(6).hex()}")
    try:
        try:
            found = index.stat()
            shutil.copyfile(index, copy)
            # Git compares the times of files with that of the index: of one that was changed right
            # after it was checked out, the time alone does not tell.
            os.utime(copy, ns=(found.st_atime_ns, found.st_mtime_ns))
        except FileNotFoundError:  # nothing has been added yet
            pass
        except OSError as error:
            raise GitError(f"cannot copy {index}: {error.strerror}", hint_of(str(error))) from error
        yield copy
    finally:
        for path in (copy, copy.with_name(copy.name + ".lock")):
            with suppress(OSError):
                path.unlink()


def make_index_newer(index: Path) -> None:
    """Make an index newer than the files that were just checked out, before anything may have changed
    them. Git, which compares whole seconds, would read those of the last second each time: large files
    take minutes."""
    next_second = math.floor(index.stat().st_mtime) + 1
    time.sleep(max(0.0, min(1.0, next_second - time.time())) + TICK)
    os.utime(index)


def _remove_old(folder: Path) -> None:
    for path in folder.glob(f"{PREFIX}*"):
        with suppress(OSError):
            if time.time() - path.stat().st_mtime > ABANDONED:
                path.unlink()


def add_all(git: Git, index: Path) -> list[str]:
    """Add everything that is not ignored to this index. Returns the directories that were left out:
    repositories without a commit. Raises `GitError`."""
    left_out: list[str] = []
    while True:
        pathspecs = [".", *(f":(exclude,literal){path}" for path in left_out)]
        try:
            git.run("add", "--all", "--", *pathspecs, index=index)
        except GitError as error:
            found = _UNBORN.search(error.output)
            if found is None or found.group(1) in left_out or len(left_out) >= MAX_UNBORN:
                raise
            left_out.append(found.group(1))
            continue
        return left_out


def tree_of(git: Git, index: Path) -> str:
    """The tree of all that is not ignored. Raises `GitError`."""
    with temporary_index(index) as copy:
        add_all(git, copy)
        return git.text("write-tree", index=copy)
