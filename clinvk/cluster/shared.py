"""Where the files of a task come from: a directory that all machines share."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from clinvk.model.request import Request


class SharedDirectories:
    """Directories that have the same path on all machines."""

    def __init__(self, shared: Sequence[str], allowed: Sequence[str] = ()) -> None:
        """`allowed` are those in which tasks may run; empty: all shared ones."""
        self.shared = shared
        self.allowed = allowed

    def problem(self, request: Request) -> str | None:
        """Why this node cannot run the request in its directory; None if it can."""
        if request.cwd is None:
            return "it has no directory"
        folders = [request.cwd]
        if request.worktree is not None:
            folders += [
                Path(request.worktree.wanted.root),
                Path(request.worktree.wanted.repository),
            ]
        for folder in folders:
            if problem := self.problem_of(folder):
                return problem
        return None

    def problem_of(self, folder: Path) -> str | None:
        """Why tasks may not use this directory; None if they may."""
        if not is_below(folder, self.shared):
            return f"{folder} is not in a directory of cluster.shared"
        if not folder.is_dir():
            return f"{folder} does not exist"
        if self.allowed and not is_below(folder, self.allowed):
            return f"{folder} is not in a directory of worker.allow.directories"
        return None


def is_below(path: Path | str, directories: Sequence[str]) -> bool:
    """Whether it is one of these directories, or in one."""
    real = os.path.realpath(path)
    for each in directories:
        top = os.path.realpath(os.path.expanduser(each))
        if real == top or real.startswith(top.rstrip("/") + "/"):
            return True
    return False
