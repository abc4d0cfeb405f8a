"""`clinvk sessions list`."""

from __future__ import annotations

import os
import sys
from pathlib import Path
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
from clinvk.errors import ClinvkError, UsageError
from clinvk.model.session import STATUSES, Session
from clinvk.model.usage import format_count
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
    here: Annotated[bool, typer.Option("--here", help="Only sessions in this directory.")] = False,
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
    all_: Annotated[
        bool, typer.Option("--all", help="On a terminal: show all, and each task of a run.")
    ] = False,
    wide: Annotated[
        bool, typer.Option("--wide", help="Add row number, message count and directory.")
    ] = False,
    as_json: opt.Json = False,
    config: opt.Config = None,
) -> None:
    """List sessions, most recently used first.

    A terminal shows 20, and the tasks of a run as one."""
    if status is not None and status not in FILTERS:
        raise UsageError(f"invalid status filter {status!r}", f"valid: {', '.join(FILTERS)}")
    on_screen = sys.stdout.isatty() and not (as_json or all_)
    loaded = opt.load_config(config)
    store = open_configured_store(loaded)
    query = Query(
        backend=backend,
        status=None if status == "running" else status,
        cwd=os.path.realpath(os.getcwd()) if here else None,
        tag=tag,
        metadata=opt.parse_pairs(metadata or [], "--metadata"),
        limit=None if on_screen else limit,  # on screen, rows are counted
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
        counted = limit is not None and (wide or as_json)  # counting takes time
        total = store.count(query) if counted else len(sessions)
    shown = sessions if on_screen else sessions[:limit]
    found = [(s, display_status(s, running)) for s in shown]
    print_warnings(sessions)
    if on_screen and found:
        _print_for_screen(found, limit or printer.LISTED, loaded.home, wide=wide)
        return
    if as_json:
        rows = [{**session_data(s), "status": state} for s, state in found]
        printer.print_json({"version": VERSION, "total": total, "sessions": rows})
        return
    if not found:
        print("no sessions", file=sys.stderr)
        return
    _print_table([_cells(*one) for one in found], wide=wide)
    if wide:
        print(f"Total: {total} session{'s' * (total != 1)}")


Shown = tuple[Session | Damaged, str]  # with its status
Cells = tuple[list[str], list[str]]  # of a row, and those that only a wide table has


def _print_for_screen(found: list[Shown], most: int, home: Path, *, wide: bool) -> None:
    """The first rows; a run with many tasks is one row."""
    rows: dict[str, list[Shown]] = {}
    for session, state in found:
        run = session.task if isinstance(session, Session) else None
        rows.setdefault(run or f"session {session.id}", []).append((session, state))
    shown = [*rows.values()][:most]
    cells = [_cells(*g[0]) if len(g) == 1 else _run_cells(g, home) for g in shown]
    _print_table(cells, wide=wide)
    if len(rows) > most:
        print(f"… and {len(rows) - most:,} more (--all)")
    elif len(rows) < len(found):
        printer.print_wrapped(
            "Runs are one row each; see their tasks with --all, or: clinvk runs show RUN"
        )


def _print_table(found: list[Cells], *, wide: bool) -> None:
    headers = ["ID", "BACKEND", "STATUS", "LAST USED", "TOKENS", "TITLE/PROMPT"]
    if wide:
        headers = ["#", *headers[:5], "MESSAGES", "DIRECTORY", headers[5]]
    rows = []
    for i, (cells, extra) in enumerate(found, 1):
        rows.append([str(i), *cells[:5], *extra, cells[5]] if wide else cells)
    printer.print_table(
        headers, rows, right=["TOKENS", "MESSAGES"], shrinks=[*headers[-1:], *["DIRECTORY"] * wide],
        spared=["MESSAGES", "TOKENS", "#", "BACKEND", "DIRECTORY", "LAST USED", "STATUS", headers[-1]],
        state="STATUS", ends=["DIRECTORY"], least=20,
    )  # fmt: skip


def _cells(s: Session | Damaged, state: str) -> Cells:
    if isinstance(s, Damaged):
        return [s.id, "-", state, "-", "-", s.problem], ["-", "-"]
    tokens = format_count(s.usage.total) if s.usage else "-"
    age = duration.format_age(s.updated_at)
    cells = [s.id, s.backend or "-", state, age, tokens, s.label or "-"]
    return cells, [str(sum(s.counts.values())), printer.short_path(s.cwd or "-")]


def _run_cells(group: list[Shown], home: Path) -> Cells:
    """Those of a run, for its tasks, of which the first was used last."""
    sessions = [s for s, _ in group if isinstance(s, Session)]
    states = [state for _, state in group]
    newest = sessions[0]
    state, source = _run_state(str(newest.task), home)
    if state is None:
        state = next((s for s in ("running", "error") if s in states), states[0])
    first = min(sessions, key=lambda s: s.created_at)
    backends = dict.fromkeys(s.backend or "-" for s in sessions)
    tokens = sum(s.usage.counted for s in sessions if s.usage)
    cells = [
        str(newest.task),
        ", ".join(backends) if len(backends) < 3 else f"{len(backends)} backends",
        state,
        duration.format_age(newest.updated_at),
        f"{tokens:,}" if tokens else "-",
        f"{len(sessions)} tasks: {source or first.label or '-'}",
    ]
    messages = sum(sum(s.counts.values()) for s in sessions)
    return cells, [str(messages), printer.short_path(newest.cwd or "-")]


def _run_state(run_id: str, home: Path) -> tuple[str | None, str | None]:
    """The state of a run and what it came from, as `runs list` shows them; nothing if its folder
    cannot be read, or is on another machine."""
    from clinvk.runs.folder import RunStore  # only for the row of a run

    try:
        about = RunStore(home).find(run_id).summary()
    except (ClinvkError, OSError):
        return None, None
    source: str = about["source"] or ""
    return about["state"], os.path.basename(source) if os.path.isabs(source) else source
