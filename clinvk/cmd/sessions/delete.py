"""`clinvk sessions delete` and `clean`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from clinvk.cmd.app import CommandModule
from clinvk.cmd.options import request as opt
from clinvk.cmd.options.storage import with_storage_options
from clinvk.cmd.sessions.common import VERSION, open_configured_store
from clinvk.errors import ClinvkError
from clinvk.model.age import parse_age, time_before
from clinvk.model.usage import rfc3339
from clinvk.terminal import printer, questions

if TYPE_CHECKING:
    from clinvk.sessions.lookup import SessionLookup

app = CommandModule()

MAX_NAMED = 5  # sessions, in a message


@app.command("delete")
@with_storage_options
def delete(session_ids: opt.SessionIds, yes: opt.Yes = False, config: opt.Config = None) -> int:
    """Delete sessions of clinvk; the backend's own are kept."""
    # Only this command needs them, and the group is shared.
    from clinvk.api.sessions.deletion import delete_from_store as delete_session
    from clinvk.sessions.lookup import SessionLookup

    loaded = opt.load_config(config)
    home, sessions = loaded.home, SessionLookup(open_configured_store(loaded))
    code = 0
    for text in session_ids:
        try:
            session_id = _find_session_id(sessions, text)
            if not yes and not questions.confirm_deletion(f"Delete session {session_id}?"):
                code = 4
                continue
            delete_session(sessions.store, home, session_id, printer.Printer.for_errors().notice)
            print(f"Session {session_id} deleted.")
        except ClinvkError as error:
            printer.Printer.for_errors().error(error.message, error.hint)
            code = error.exit_code
    return code


@app.command("clean")
@with_storage_options
def clean(
    older_than: Annotated[
        str | None,
        typer.Option(
            "--older-than",
            metavar="AGE",
            help="Not used for this long: 30 or 30d (days), 12h, 2w (default: session.retention_days).",
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="List what would be deleted; delete nothing.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", hidden=True)] = False,
    as_json: opt.Json = False,
    config: opt.Config = None,
) -> None:
    """Delete sessions not used recently (session.retention_days; 0 deletes none)."""
    # Only this command needs it, and the group is shared.
    from clinvk.api.sessions.deletion import clean_store, find_interrupted

    loaded = opt.load_config(config)
    age, words = parse_age(older_than, loaded.config.session.retention_days)
    store = open_configured_store(loaded)
    gone: list[str] = []
    kept: list[str] = []
    if age is not None:
        before = rfc3339(time_before(age))
        gone = clean_store(store, loaded.home, before, dry_run=dry_run)
        kept = find_interrupted(store, before, set(gone))
    if as_json:
        facts = {"version": VERSION, "dry_run": dry_run, "deleted": gone, "interrupted": kept}
        printer.print_json(facts)
        return
    if not gone:
        print("no sessions to clean", file=sys.stderr)
    else:
        for session_id in gone if dry_run else []:
            print(session_id)
        verb = "Would delete" if dry_run else "Deleted"
        print(f"{verb} {len(gone)} session(s) older than {words}.")
    if kept:
        _tell_kept(kept)


def _tell_kept(ids: list[str]) -> None:
    """Name sessions that were not deleted, since what their last turn has started may still run."""
    which = "1 session" if len(ids) == 1 else f"{len(ids):,} sessions"
    named = " ".join([*ids[:MAX_NAMED], *["…"] * (len(ids) > MAX_NAMED)])
    printer.Printer.for_errors().notice(
        f"kept {which} whose last turn was interrupted; delete with: clinvk sessions delete {named}"
    )


def _find_session_id(sessions: SessionLookup, text: str) -> str:
    """The full id, also of a damaged session."""
    if sessions.store.find_ids(text, 1) == [text]:
        return text
    return sessions.lookup(text).id
