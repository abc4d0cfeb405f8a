"""`clinvk sessions options`."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from clinvk.cmd.app import CommandModule
from clinvk.cmd.options import request as opt
from clinvk.cmd.options.storage import with_storage_options
from clinvk.cmd.sessions.common import VERSION, open_lookup
from clinvk.errors import UsageError
from clinvk.model.session_ref import LAST
from clinvk.terminal import printer

app = CommandModule()


@app.command("options")
@with_storage_options
def options(
    session_id: opt.SessionId = None,
    session: Annotated[
        str | None,
        typer.Option(
            "--session",
            metavar="ID",
            autocompletion=opt.complete_sessions,
            help="Same as the ID argument.",
        ),
    ] = None,
    as_json: opt.Json = False,
    config: opt.Config = None,
) -> None:
    """Show the options that a session keeps for its later turns; without ID, those of the session
    last used in this directory."""
    if session_id and session and session_id != session:
        raise UsageError(
            f"{session_id} and --session {session} cannot be used together", "leave out one of them"
        )
    wanted = session_id or session or LAST
    sessions = open_lookup(config)
    found = sessions.find_last() if wanted == LAST else sessions.lookup(wanted)
    if as_json:
        printer.print_json({"version": VERSION, "id": found.id, "options": found.options})
    elif found.options:
        rows = [[k, _format_value(v)] for k, v in found.options.items()]
        printer.print_table(["OPTION", "VALUE"], rows, shrinks=["VALUE"])
    else:
        print(f"session {found.id} has no stored options", file=sys.stderr)


def _format_value(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
