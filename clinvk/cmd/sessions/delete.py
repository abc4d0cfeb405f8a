"""`clinvk sessions delete` and `clean`."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from clinvk.cmd.app import Commands
from clinvk.cmd.options import request as opt
from clinvk.cmd.options.ages import moment_before, parse_age
from clinvk.cmd.options.holding import until_end
from clinvk.cmd.options.storage import stored
from clinvk.cmd.sessions.common import VERSION, store_of
from clinvk.errors import ClinvkError
from clinvk.model.usage import rfc3339
from clinvk.terminal import printer, questions

app = Commands()


@app.command("delete")
@stored
def delete(ids: opt.SessionIds, yes: opt.Yes = False, config: opt.Config = None) -> int:
    """Delete sessions: ours, not the backend's own."""
    # Only this command needs it, and the group is shared.
    from clinvk.api.sessions import delete as delete_session
    from clinvk.dispatch.dispatcher import Dispatcher

    dispatcher = until_end(Dispatcher(opt.load(config)))
    code = 0
    for text in ids:
        try:
            id_ = _id_of(dispatcher, text)
            if not yes and not questions.agreed(f"Delete session {id_}?"):
                code = 4
                continue
            delete_session(dispatcher.store, id_, printer.Printer.for_errors().notice)
            print(f"Session {id_} deleted.")
        except ClinvkError as error:
            printer.Printer.for_errors().error(error.message, error.hint)
            code = error.exit_code
    return code


@app.command("clean")
@stored
def clean(
    older_than: Annotated[
        str | None,
        typer.Option("--older-than", metavar="AGE", help="30 or 30d (days), 12h, 2w; by last use."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say which.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", hidden=True)] = False,
    as_json: opt.Json = False,
    config: opt.Config = None,
) -> None:
    """Delete sessions that were not used for long (session.retention_days, 0: none)."""
    loaded = opt.load(config)
    age, words = parse_age(older_than, loaded.config.session.retention_days)
    store = store_of(config)
    gone: list[str] = []
    if age is not None:
        gone = store.clean(rfc3339(moment_before(age)), dry_run=dry_run)
    if as_json:
        printer.print_json({"version": VERSION, "dry_run": dry_run, "deleted": gone})
    elif not gone:
        print("no sessions to clean", file=sys.stderr)
    else:
        for id_ in gone if dry_run else []:
            print(id_)
        verb = "Would delete" if dry_run else "Deleted"
        print(f"{verb} {len(gone)} session(s) older than {words}.")


def _id_of(dispatcher: Any, text: str) -> str:
    """The id that is meant, of a damaged session too."""
    if dispatcher.store.matching(text, 1) == [text]:
        return text
    return str(dispatcher.sessions.lookup(text).id)
