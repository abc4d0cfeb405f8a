"""`clinvk help [COMMAND ...]`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from clinvk.cmd.app import new_app
from clinvk.cmd.options.completions import complete_commands
from clinvk.errors import UsageError

app = new_app()


@app.command()
def help_(
    ctx: typer.Context,
    command: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[COMMAND]...", help="Command and subcommand.", autocompletion=complete_commands
        ),
    ] = None,
) -> None:
    """Show the help of a command."""
    parent = ctx.parent
    found: Any = parent.command if parent else ctx.command
    path = parent.command_path if parent else "clinvk"
    for word in command or []:
        inner = found.get_command(ctx, word) if hasattr(found, "get_command") else None
        if inner is None:
            raise UsageError(f"{word!r} is not a command of {path}", f"see: {path} --help")
        found, path = inner, f"{path} {word}"
    with found.make_context(path, [], resilient_parsing=True) as inner_ctx:
        print(found.get_help(inner_ctx))
