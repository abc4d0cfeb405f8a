"""`clinvk sessions options`."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from clinvk.cmd.app import CommandModule
from clinvk.cmd.options import request as opt
from clinvk.cmd.options.storage import with_storage_options
from clinvk.cmd.sessions.common import VERSION, open_lookup
from clinvk.model.session_ref import LAST
from clinvk.terminal import printer

app = CommandModule()


@app.command("options")
@with_storage_options
def options(
    session: Annotated[
        str,
        typer.Option(
            "--session",
            metavar="ID",
            autocompletion=opt.complete_sessions,
            help="Whose; the one of this folder that was used last, by default.",
        ),
    ] = LAST,
    as_json: opt.Json = False,
    config: opt.Config = None,
) -> None:
    """Show the options that a session keeps for its later turns."""
    sessions = open_lookup(config)
    found = sessions.find_last() if session == LAST else sessions.lookup(session)
    if as_json:
        printer.print_json({"version": VERSION, "id": found.id, "options": found.options})
    elif found.options:
        rows = [[k, _format_value(v)] for k, v in found.options.items()]
        printer.print_table(["OPTION", "VALUE"], rows, shrinks=["VALUE"])
    else:
        print(f"session {found.id} keeps no options", file=sys.stderr)


def _format_value(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
