"""The directory that a turn runs in."""

from __future__ import annotations

import os
from pathlib import Path

from clinvk.disk import empty
from clinvk.disk.reading import directory_problem
from clinvk.errors import UsageError
from clinvk.model.request import Request
from clinvk.model.session import Session
from clinvk.sessions.lookup import real_path


def working_directory(request: Request, session: Session | None, home: Path) -> Path:
    """The directory of the program: the requested one, else that of its session, else the current
    one. An empty one of its own may not exist yet."""
    if request.own_directory:
        return empty.new_path(home)
    if request.cwd is None and session is not None and session.cwd:
        path = session.cwd
    else:
        path = real_path(request.cwd)
    if not empty.is_empty_directory(home, path) and (problem := directory_problem(path)):
        whose = f"session {session.id} ran in it; " if session and request.cwd is None else ""
        raise UsageError(f"{path}: {problem}", f"{whose}choose another one with -w")
    return Path(path)


def without_worktree(
    request: Request, session: Session | None, home: Path
) -> tuple[Request, list[str]]:
    """The request as it continues a session whose worktree no longer exists: from the transcript, in
    the directory that it was started in."""
    if session is None or session.started_in is None or request.cwd is not None:
        return request, []
    if not session.cwd or os.path.isdir(session.cwd):
        return request, []
    if request.own_directory or empty.is_empty_directory(home, session.cwd):  # it gets another one
        return request, []
    told = (
        f"the worktree of session {session.id} no longer exists: the conversation continues in "
        f"{session.started_in}, from its transcript"
    )
    cwd = Path(session.started_in)
    return request.replace(cwd=cwd, replay=bool(session.native_ids)), [told]


def started_in(request: Request, session: Session | None, cwd: Path) -> str | None:
    """The directory of the user that a worktree, or an empty directory, belongs to; None elsewhere."""
    if request.started_in is not None:
        return str(request.started_in)
    if session is None or session.started_in is None or str(cwd) != session.cwd:
        return None
    return session.started_in
