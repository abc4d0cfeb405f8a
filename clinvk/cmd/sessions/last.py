"""`clinvk last`."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from clinvk.cmd.app import new_app
from clinvk.cmd.options import request as opt
from clinvk.cmd.options.storage import with_storage_options
from clinvk.cmd.sessions.common import VERSION, open_lookup
from clinvk.errors import SessionError
from clinvk.model.session import MessageRole, Session
from clinvk.sessions.lookup import SessionLookup
from clinvk.store.base import Query
from clinvk.terminal import pager, printer

app = new_app()


@app.command()
@with_storage_options
def last(
    here: Annotated[
        bool, typer.Option("--here", help="Only sessions of the current directory.")
    ] = False,
    plain: opt.Plain = False,
    as_json: opt.Json = False,
    config: opt.Config = None,
) -> None:
    """Print the last answer of the session used last.

    Sessions of tasks are not considered; for those: clinvk runs show --answers"""
    sessions = open_lookup(config)
    session = _newest(sessions, here=here)
    for message in reversed(sessions.store.messages(session.id)):
        if message.role is MessageRole.ASSISTANT and message.content.strip():
            if as_json:
                data = {"version": VERSION, "id": session.id, **message.to_json()}
                printer.print_json(data)
            else:
                pager.show_lines(printer.markdown_lines(message.content))
            return
    raise SessionError(
        f"session {session.id} has no answer yet", f"see: clinvk sessions show {session.id}"
    )


def _newest(sessions: SessionLookup, *, here: bool) -> Session:
    cwd = os.path.realpath(os.getcwd()) if here else None
    found = sessions.store.select(Query(cwd=cwd, tasks=False, limit=1))
    for session in found:
        if isinstance(session, Session):
            return session
    if not sessions.store.find_ids("", 1):
        raise SessionError("there are no sessions yet", 'start one: clinvk "your prompt"')
    where = "in this directory" if here else "of your own prompts"
    raise SessionError(f"there is no session {where}", sessions.other_sessions_hint())
