"""`clinvk sessions reindex` and `migrate`: what concerns a store as a whole."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from clinvk.cmd.app import Commands
from clinvk.cmd.options import request as opt
from clinvk.cmd.options.holding import until_end
from clinvk.cmd.options.storage import address, stored
from clinvk.cmd.sessions.common import VERSION, store_of
from clinvk.errors import SessionError, UsageError
from clinvk.store import open_store
from clinvk.terminal import printer as show
from clinvk.text.addresses import without_password

app = Commands()
SHOWN = 5  # ids in a sentence


@app.command("reindex")
@stored
def reindex(as_json: opt.Json = False, config: opt.Config = None) -> None:
    """Make the index anew from the sessions: after an edit by hand, say."""
    count = store_of(config).reindex(show.Progress("indexing sessions"))
    if as_json:
        show.print_json({"version": VERSION, "sessions": count})
    else:
        print(f"Indexed {count:,} session(s).")


@app.command("migrate")
def migrate(
    to: Annotated[
        str, typer.Option("--to", metavar="URL", help="file, sqlite:////path, redis://host …")
    ],
    from_: Annotated[
        str | None, typer.Option("--from", metavar="URL", help="Instead of the configured store.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what it would do.")] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Replace sessions that differ in the other store.")
    ] = False,
    as_json: opt.Json = False,
    config: opt.Config = None,
) -> int:
    """Copy all sessions into another store. The ones copied from stay as they are."""
    # Only this command needs it, and the group is shared.
    from clinvk.store import migrate as migration

    loaded = opt.load(config)
    source_url = address(from_ or loaded.config.session.storage, None, loaded.home)
    target_url = address(to, None, loaded.home)
    if source_url == target_url:
        raise UsageError("both stores are the same", "name another one with --to or --from")
    source = until_end(open_store(source_url, loaded.home, show.Progress("indexing sessions")))
    target = until_end(open_store(target_url, loaded.home))
    plan = migration.plan(source, target, show.Progress("comparing sessions"))
    if plan.different and not force:
        raise _different(plan.different)
    if not dry_run:
        migration.copy(
            source,
            target,
            [*plan.new, *plan.different],
            over=force,
            progress=show.Progress("copying sessions"),
        )
    if as_json:
        show.print_json(_as_json(plan, source_url, target_url, dry_run=dry_run))
    else:
        _tell(plan, target_url, dry_run=dry_run)
    return 4 if plan.damaged or plan.running else 0


def _different(ids: list[str]) -> SessionError:
    more = f" and {len(ids) - SHOWN:,} more" if len(ids) > SHOWN else ""
    return SessionError(
        f"{len(ids):,} session(s) are in the other store and differ: "
        f"{', '.join(ids[:SHOWN])}{more}; nothing was copied",
        "look at both, or replace those of the other store: --force",
    )


def _as_json(plan: Any, source: str, target: str, *, dry_run: bool) -> dict[str, Any]:
    return {
        "version": VERSION,
        "dry_run": dry_run,
        "from": without_password(source),
        "to": without_password(target),
        "copied": plan.new,
        "replaced": plan.different,
        "same": plan.same,
        "running": plan.running,
        "damaged": [d.id for d in plan.damaged],
    }


def _tell(plan: Any, target: str, *, dry_run: bool) -> None:
    verb, place = "Would copy" if dry_run else "Copied", without_password(target)
    print(f"{verb} {len(plan.new):,} session(s) to {place}.")
    if plan.different:
        verb = "Would replace" if dry_run else "Replaced"
        print(f"{verb} {len(plan.different):,} that differed there.")
    if plan.same:
        print(f"{len(plan.same):,} were there already.")
    printer = show.Printer.for_errors()
    for damaged in plan.damaged:
        printer.warning(damaged.problem, "it was left where it is")
    for id_ in plan.running:
        printer.warning(f"session {id_} is running", "copy it when it has ended")
    if not dry_run:
        print(f"To use it: clinvk config set session.storage {place}", file=sys.stderr)
