"""`clinvk sessions start`, `create`, `edit` and `archive`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from clinvk.cmd.app import CommandModule
from clinvk.cmd.options import request as opt
from clinvk.cmd.options.storage import with_storage_options
from clinvk.cmd.options.turn import FROM_TABLE, TurnOptions, with_turn_options
from clinvk.cmd.sessions.common import VERSION, find_id, open_manager, session_data
from clinvk.errors import ClinvkError, UsageError
from clinvk.model.option_table import BY_NAME
from clinvk.terminal import printer
from clinvk.text import json_input

app = CommandModule()

Metadata = Annotated[
    str | None,
    typer.Option("--metadata", metavar="JSON", help='Metadata, as a JSON object: {"ticket": 7}.'),
]


@app.command("create")
@app.command("start")
@with_storage_options
@with_turn_options([BY_NAME["model"]])
def start(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="Name of the session (default: a new id).")
    ] = None,
    title: opt.Title = None,
    template: Annotated[
        str | None,
        typer.Option("--template", metavar="NAME", help="Start from a template; see: clinvk templates list.",
                     autocompletion=opt.complete_templates),
    ] = None,
    metadata: Metadata = None,
    tag: opt.Tag = None,
    backend: opt.Backend = None,
    options: TurnOptions = FROM_TABLE,
    as_json: opt.Json = False,
    config: opt.Config = None,
) -> None:  # fmt: skip
    """Create an empty session and print its id. Send its first prompt with: clinvk --session
    NAME."""
    sessions = open_manager(config)
    if backend is not None:
        _check_backend(sessions.home, backend)
    session_id = sessions.create_session(
        title,
        template,
        _parse_object(metadata),
        name=name,
        backend=backend,
        model=options["model"],
        tags=tag or (),
    )
    if as_json:
        printer.print_json({"version": VERSION, **session_data(sessions.store.get(session_id))})
    else:
        print(session_id)


@app.command("edit")
@with_storage_options
def edit(
    session_id: opt.OneSession,
    title: Annotated[
        str | None, typer.Option("--title", metavar="TITLE", help='Title; "" clears it.')
    ] = None,
    tag: Annotated[
        list[str] | None, typer.Option("--tag", metavar="TAG", help="Add this tag (repeatable).")
    ] = None,
    untag: Annotated[
        list[str] | None,
        typer.Option("--untag", metavar="TAG", help="Remove this tag (repeatable)."),
    ] = None,
    status: Annotated[
        str | None,
        typer.Option(
            "--status",
            metavar="STATUS",
            help="Set the status: active, completed, paused or archived.",
            autocompletion=opt.complete_words(("active", "completed", "paused", "archived")),
        ),
    ] = None,
    metadata: Metadata = None,
    as_json: opt.Json = False,
    config: opt.Config = None,
) -> None:
    """Change the title, tags, status or metadata of a session.

    Metadata is merged: other keys keep their values."""
    if all(given is None for given in (title, tag, untag, status, metadata)):
        raise UsageError("no change given", "see: clinvk sessions edit --help")
    sessions = open_manager(config)
    session = sessions.edit_session(
        find_id(sessions, session_id),
        title=title,
        tags=tag or (),
        untag=untag or (),
        status=status,
        metadata=_parse_object(metadata),
    )
    if as_json:
        printer.print_json({"version": VERSION, **session_data(session)})
    else:
        print(f"Session {session.id} changed.")


@app.command("rename")
@with_storage_options
def rename(
    session_id: opt.OneSession,
    title: Annotated[str, typer.Argument(metavar="TITLE", help='New title; "" clears it.')],
    as_json: opt.Json = False,
    config: opt.Config = None,
) -> None:
    """Change the title of a session."""
    edit(session_id, title=title, as_json=as_json, config=config)


@app.command("archive")
@with_storage_options
def archive(session_ids: opt.SessionIds, config: opt.Config = None) -> int:
    """Archive sessions: kept, listed and searched, but no longer resumable."""
    sessions = open_manager(config)
    code = 0
    for text in session_ids:
        try:
            done = sessions.edit_session(find_id(sessions, text), status="archived")
            print(f"Session {done.id} archived.")
        except ClinvkError as error:
            printer.Printer.for_errors().error(error.message, error.hint)
            code = error.exit_code
    return code


def _parse_object(text: str | None) -> dict[str, Any]:
    if text is None:
        return {}
    try:
        found = json_input.load(text)
    except json_input.JsonError as error:
        raise UsageError(f"--metadata: {error}", """use e.g. '{"ticket": 7}'""") from None
    if not isinstance(found, dict):
        raise UsageError("--metadata: not an object", """use e.g. '{"ticket": 7}'""")
    return found


def _check_backend(home: Any, name: str) -> None:
    # Only this command needs it, and the group is shared.
    from clinvk.backend.catalog import Catalog
    from clinvk.errors import NotInstalledError

    catalog = Catalog(home)
    if catalog.find(name) is None:
        raise NotInstalledError(f"unknown backend {name!r}", f"known: {', '.join(catalog.names())}")
