"""`clinvk sessions options`."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from clinvk.cmd import options as opt
from clinvk.cmd import show
from clinvk.cmd.holding import until_end
from clinvk.cmd.lazy import Commands
from clinvk.cmd.sessions_common import VERSION
from clinvk.cmd.storage import stored

app = Commands()


@app.command("options")
@stored
def options(
    session: Annotated[
        str,
        typer.Option(
            "--session",
            metavar="ID",
            autocompletion=opt.complete_sessions,
            help="Whose; the one of this folder that was used last, by default.",
        ),
    ] = "last",
    as_json: opt.Json = False,
    config: opt.Config = None,
) -> None:
    """Show the options that a session keeps for its later turns."""
    from clinvk.dispatcher import Dispatcher
    from clinvk.messages import Request

    dispatcher = until_end(Dispatcher(opt.load(config)))
    found = dispatcher.sessions.find(Request(prompt="", session=session))
    assert found is not None  # noqa: S101 - a session was named
    if as_json:
        show.print_json({"version": VERSION, "id": found.id, "options": found.options})
    elif found.options:
        rows = [[k, _text(v)] for k, v in found.options.items()]
        show.print_table(["OPTION", "VALUE"], rows, shrinks=["VALUE"])
    else:
        print(f"session {found.id} keeps no options", file=sys.stderr)


def _text(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
