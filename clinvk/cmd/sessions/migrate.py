"""`clinvk sessions reindex` and `migrate`: commands about a store as a whole."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from clinvk.cmd.app import CommandModule
from clinvk.cmd.options import request as opt
from clinvk.cmd.options.holding import until_end
from clinvk.cmd.options.storage import build_storage_url, with_storage_options
from clinvk.cmd.sessions.common import VERSION, open_configured_store
from clinvk.errors import SessionError, UsageError
from clinvk.store import open_store
from clinvk.terminal import printer as show
from clinvk.text.addresses import mask_password

app = CommandModule()
MAX_IDS_SHOWN = 5  # ids in a sentence


@app.command("reindex")
@with_storage_options
def reindex(as_json: opt.Json = False, config: opt.Config = None) -> None:
    """Rebuild the index, for example after editing files by hand."""
    store = open_configured_store(opt.load_config(config))
    count = store.reindex(show.ProgressBar("indexing sessions"))
    if as_json:
        show.print_json({"version": VERSION, "sessions": count})
    else:
        print(f"Indexed {count:,} session(s).")


@app.command("migrate")
def migrate(
    to: Annotated[
        str,
        typer.Option(
            "--to", metavar="URL", help="Store to copy to: file, sqlite:////PATH or redis://HOST."
        ),
    ],
    from_: Annotated[
        str | None,
        typer.Option(
            "--from", metavar="URL", help="Store to copy from (default: the configured one)."
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would be copied; copy nothing.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Overwrite sessions that differ in the other store.")
    ] = False,
    as_json: opt.Json = False,
    config: opt.Config = None,
) -> int:
    """Copy all sessions to another store. The originals are not changed."""
    # Only this command needs it, and the group is shared.
    from clinvk.store import migrate as migration

    loaded = opt.load_config(config)
    source_url = build_storage_url(from_ or loaded.config.session.storage, None, loaded.home)
    target_url = build_storage_url(to, None, loaded.home)
    if source_url == target_url:
        raise UsageError("both stores are the same", "choose another one with --to or --from")
    source = until_end(open_store(source_url, loaded.home, show.ProgressBar("indexing sessions")))
    target = until_end(open_store(target_url, loaded.home))
    plan = migration.plan_migration(source, target, show.ProgressBar("comparing sessions"))
    if plan.different and not force:
        raise _different_error(plan.different)
    if not dry_run:
        migration.copy_sessions(
            source,
            target,
            [*plan.new, *plan.different],
            overwrite=force,
            progress=show.ProgressBar("copying sessions"),
        )
    if as_json:
        show.print_json(_migration_data(plan, source_url, target_url, dry_run=dry_run))
    else:
        _print_migration(plan, target_url, dry_run=dry_run)
    return 4 if plan.damaged or plan.running else 0


def _different_error(session_ids: list[str]) -> SessionError:
    more = (
        f" and {len(session_ids) - MAX_IDS_SHOWN:,} more"
        if len(session_ids) > MAX_IDS_SHOWN
        else ""
    )
    return SessionError(
        f"{len(session_ids):,} session(s) are in the other store and differ: "
        f"{', '.join(session_ids[:MAX_IDS_SHOWN])}{more}; nothing was copied",
        "compare them, or overwrite those in the other store with --force",
    )


def _migration_data(plan: Any, source: str, target: str, *, dry_run: bool) -> dict[str, Any]:
    return {
        "version": VERSION,
        "dry_run": dry_run,
        "from": mask_password(source),
        "to": mask_password(target),
        "copied": plan.new,
        "replaced": plan.different,
        "same": plan.same,
        "running": plan.running,
        "damaged": [d.id for d in plan.damaged],
    }


def _print_migration(plan: Any, target: str, *, dry_run: bool) -> None:
    verb, place = "Would copy" if dry_run else "Copied", mask_password(target)
    print(f"{verb} {len(plan.new):,} session(s) to {place}.")
    if plan.different:
        verb = "Would replace" if dry_run else "Replaced"
        print(f"{verb} {len(plan.different):,} that differed in the other store.")
    if plan.same:
        print(f"{len(plan.same):,} were already there.")
    printer = show.Printer.for_errors()
    for damaged in plan.damaged:
        printer.warning(damaged.problem, "it was not copied")
    for session_id in plan.running:
        printer.warning(f"session {session_id} is running", "copy it after it has stopped")
    if not dry_run:
        hidden = "" if place == target else "  (with the password filled in)"
        print(f"To use it: clinvk config set session.storage {place}{hidden}", file=sys.stderr)
