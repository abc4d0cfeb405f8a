"""Turns in an empty directory of their own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clinvk.disk import empty
from clinvk.model.session_ref import DefaultSession, NewSession, SessionById
from clinvk.process.threads import in_thread
from clinvk.sessions.lookup import real_path

if TYPE_CHECKING:
    from clinvk.model.request import Request
    from clinvk.model.session import Session


@asynccontextmanager
async def in_own_directory(
    request: Request,
    find: Callable[[Request], Awaitable[Session | None]],
    home: Path,
    notify: Callable[[str], None],
) -> AsyncIterator[Request]:
    """The request in an empty directory, which is deleted at the end of the block; in that of its session
    if it has one. `find` returns the session that a request continues. Raises `ClinvkError`."""
    if isinstance(request.session_ref, DefaultSession):
        request = request.with_session(NewSession())  # no session was in that directory before
    session = None if request.ephemeral else await find(request)
    if session is not None:  # the last one of the directory is looked for in that of the user
        request = request.with_session(SessionById(session.id))
    if session is not None and session.cwd and empty.is_empty_directory(home, session.cwd):
        yield request.replace(own_directory=False, cwd=None)
        return
    changes: dict[str, Any] = {"own_directory": False, "started_in": Path(real_path(request.cwd))}
    if session is not None and session.native_ids:
        changes["replay"] = True
        notify(
            f"session {session.id} continues in an empty directory, from its transcript: its own "
            "conversation belongs to another directory"
        )
    path = empty.new_path(home)
    async with hold_directory(home, path):
        yield request.replace(cwd=path, **changes)


@asynccontextmanager
async def hold_directory(home: Path, path: Path) -> AsyncIterator[None]:
    """An empty directory, which is deleted at the end, unless it was there before."""
    # 45 ms, and needed only once something runs.
    import anyio

    with empty.hold(home, path) as delete:
        try:
            yield
        finally:
            if delete is not None:
                with anyio.CancelScope(shield=True):
                    await in_thread(delete)
