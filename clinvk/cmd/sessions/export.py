"""`clinvk sessions export`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from clinvk.cmd.app import CommandModule
from clinvk.cmd.options import request as opt
from clinvk.cmd.options.plan import Force
from clinvk.cmd.options.storage import with_storage_options
from clinvk.cmd.sessions.common import find_id, open_manager
from clinvk.disk.output_file import HTML, MARKDOWN, check_overwriting, format_of
from clinvk.errors import ClinvkError
from clinvk.terminal import printer

app = CommandModule()
ENDINGS = {**MARKDOWN, **HTML, ".json": "json"}


@app.command("export")
@with_storage_options
def export(
    session_id: opt.OneSession,
    format: Annotated[  # noqa: A002 - the option's name
        str | None,
        typer.Option("--format", metavar="FORMAT",
                     help="markdown, json, html, or a template in ~/.clinvk/export/NAME.j2 "
                     "(default: by the ending of --output, or markdown).",
                     autocompletion=opt.complete_words(("markdown", "json", "html"))),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", metavar="FILE", help="Write to FILE instead of stdout."),
    ] = None,
    force: Force = False,
    metadata: Annotated[
        bool | None,
        typer.Option("--include-metadata/--no-metadata", help="Include metadata (default: in JSON)."),
    ] = None,
    tokens: Annotated[
        bool | None,
        typer.Option("--include-tokens/--no-tokens", help="Include token counts (default: in JSON)."),
    ] = None,
    timestamps: Annotated[
        bool | None,
        typer.Option("--include-timestamps/--no-timestamps", help="Include times (default: in JSON and HTML)."),
    ] = None,
    theme: Annotated[
        str, typer.Option("--theme", metavar="THEME", help="Colors of the HTML page: auto, light or dark.",
                          autocompletion=opt.complete_words(("auto", "light", "dark")))
    ] = "auto",
    config: opt.Config = None,
) -> None:  # fmt: skip
    """Export a session as Markdown, JSON or HTML."""
    if output is not None:
        format = format or format_of(output, ENDINGS, "export")  # noqa: A001 - the option's name
        check_overwriting(output, force=force)
    sessions = open_manager(config)
    text = sessions.export_session(
        find_id(sessions, session_id),
        format or "markdown",
        include_metadata=metadata,
        include_tokens=tokens,
        include_timestamps=timestamps,
        theme=theme,
    )
    if output is None:
        sys.stdout.write(printer.safe(text) if sys.stdout.isatty() else text)
    else:
        _write(output, text)


def _write(path: Path, text: str) -> None:
    # Only with --output.
    from clinvk.disk.atomic import write_for_user

    try:
        write_for_user(path, text.encode("utf-8", "replace"))
    except OSError as error:
        raise ClinvkError(f"--output: {path}: {error.strerror}") from error
    printer.Printer.for_errors().notice(f"session written to {path}")
