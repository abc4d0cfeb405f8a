"""`clinvk sessions list`."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from clinvk.cmd.app import CommandModule
from clinvk.cmd.options import request as opt
from clinvk.cmd.options.storage import with_storage_options
from clinvk.cmd.sessions.common import (
    VERSION,
    display_status,
    open_configured_store,
    print_warnings,
    session_data,
)
from clinvk.errors import UsageError
from clinvk.model.session import STATUSES, Session
from clinvk.store.base import Damaged, Query
from clinvk.terminal import printer
from clinvk.text import duration

FILTERS = (*STATUSES, "running", "damaged")
app = CommandModule()


@app.command("list")
@with_storage_options
def list_(
    backend: opt.Backend = None,
    status: Annotated[
        str | None,
        typer.Option(
            "--status",
            metavar="STATUS",
            help="Only sessions with this status.",
            autocompletion=opt.complete_words(FILTERS),
        ),
    ] = None,
    here: Annotated[bool, typer.Option("--here", help="Only sessions of this directory.")] = False,
    tag: Annotated[
        str | None,
        typer.Option(
            "--tag",
            metavar="TAG",
            help="Only sessions with this tag.",
            autocompletion=opt.complete_tags,
        ),
    ] = None,
    metadata: Annotated[
        list[str] | None,
        typer.Option("--metadata", metavar="KEY=VALUE", help="Only sessions with this metadata."),
    ] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", "-n", min=1, metavar="N", help="Show at most N.")
    ] = None,
    wide: Annotated[
        bool, typer.Option("--wide", help="Add row number, message count and directory.")
    ] = False,
    as_json: opt.Json = False,
    config: opt.Config = None,
) -> None:
    """List sessions, most recently used first."""
    if status is not None and status not in FILTERS:
        raise UsageError(f"invalid status filter {status!r}", f"valid: {', '.join(FILTERS)}")
    store = open_configured_store(opt.load_config(config))
    query = Query(
        backend=backend,
        status=None if status == "running" else status,
        cwd=os.path.realpath(os.getcwd()) if here else None,
        tag=tag,
        metadata=opt.parse_pairs(metadata or [], "--metadata"),
        limit=limit,
    )
    running = set(store.running_ids())
    sessions: list[Session | Damaged]
    if status == "running":
        fitting: list[Session] = [s for s in map(store.get, running) if query.matches(s)]
        fitting.sort(key=lambda s: s.updated_at, reverse=True)
        sessions = [*fitting]
        total = len(sessions)
    else:
        sessions = store.select(query)
        counted = limit is not None and (wide or as_json)  # who shows no total pays for none
        total = store.count(query) if counted else len(sessions)
    found = [(s, display_status(s, running)) for s in sessions[:limit]]
    print_warnings(sessions)
    if as_json:
        rows = [{**session_data(s), "status": state} for s, state in found]
        printer.print_json({"version": VERSION, "total": total, "sessions": rows})
        return
    if not found:
        print("no sessions", file=sys.stderr)
        return
    _print_table(found, wide=wide)
    if wide:
        print(f"Total: {total} session{'s' * (total != 1)}")


def _print_table(found: list[tuple[Session | Damaged, str]], *, wide: bool) -> None:
    headers = ["ID", "BACKEND", "STATUS", "LAST USED", "TOKENS", "TITLE/PROMPT"]
    if wide:
        headers = ["#", *headers[:5], "MESSAGES", "FOLDER", headers[5]]
    rows = []
    for i, (s, state) in enumerate(found, 1):
        if isinstance(s, Damaged):
            cells = [s.id, "-", state, "-", "-", s.problem]
            extra = ["-", "-"]
        else:
            tokens = f"{s.usage.total:,}" if s.usage else "-"
            cells = [
                s.id,
                s.backend or "-",
                state,
                duration.format_age(s.updated_at),
                tokens,
                s.label or "-",
            ]
            extra = [str(sum(s.counts.values())), s.cwd or "-"]
        rows.append([str(i), *cells[:5], *extra, cells[5]] if wide else cells)
    printer.print_table(
        headers, rows, right=["TOKENS", "MESSAGES"], shrinks=[*headers[-1:], *["FOLDER"] * wide],
        spared=["MESSAGES", "TOKENS", "#", "BACKEND", "FOLDER", "LAST USED", "STATUS", headers[-1]],
    )  # fmt: skip
