"""Where the files of a task come from: a directory that all machines share."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from clinvk.model.request import Request
from clinvk.model.result import Result


class Files(Protocol):
    """The files of an attempt on the node that runs it."""

    def problem(self, request: Request) -> str | None:
        """Why this node cannot have the files of the request; None if it can."""
        ...

    async def prepare(self, request: Request) -> Request:
        """The request for this node. Raises `ClinvkError`; nothing has started then."""
        ...

    async def deliver(self, request: Request, result: Result) -> Result:
        """The result, after its files have reached the submitter."""
        ...


class SharedDirectories:
    """Directories that have the same path on all machines."""

    def __init__(self, shared: Sequence[str], allowed: Sequence[str] = ()) -> None:
        """`allowed` are those in which tasks may run; empty: all shared ones."""
        self.shared = shared
        self.allowed = allowed

    def problem(self, request: Request) -> str | None:
        if request.cwd is None:
            return "it has no directory"
        if not is_below(request.cwd, self.shared):
            return f"{request.cwd} is not in a directory of cluster.shared"
        if self.allowed and not is_below(request.cwd, self.allowed):
            return f"{request.cwd} is not in a directory of worker.allow.directories"
        if not request.cwd.is_dir():
            return f"{request.cwd} does not exist"
        return None

    async def prepare(self, request: Request) -> Request:
        return request

    async def deliver(self, request: Request, result: Result) -> Result:  # noqa: ARG002 - the protocol
        return result


def is_below(path: Path | str, directories: Sequence[str]) -> bool:
    """Whether it is one of these directories, or in one."""
    real = os.path.realpath(path)
    for each in directories:
        top = os.path.realpath(os.path.expanduser(each))
        if real == top or real.startswith(top.rstrip("/") + "/"):
            return True
    return False
