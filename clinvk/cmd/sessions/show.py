"""`clinvk sessions show`."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from clinvk.cmd.app import CommandModule
from clinvk.cmd.options import request as opt
from clinvk.cmd.options.storage import with_storage_options
from clinvk.cmd.sessions.common import VERSION, display_status, open_lookup, session_data
from clinvk.disk.sizes import format_size
from clinvk.model.session import Message, Session
from clinvk.model.usage import format_count
from clinvk.terminal import pager, printer
from clinvk.text import duration

app = CommandModule()


@app.command("show")
@with_storage_options
def show_(
    session_id: opt.OneSession,
    messages: Annotated[
        int | None,
        typer.Option("--messages", min=0, metavar="N", help="Show only the last N messages."),
    ] = None,
    plain: opt.Plain = False,
    as_json: opt.Json = False,
    config: opt.Config = None,
) -> None:
    """Show a session and its conversation, through $PAGER on a terminal.

    With --json, the messages are left out unless --messages is given."""
    sessions = open_lookup(config)
    session = sessions.lookup_or_last(session_id)
    store = sessions.store
    state = display_status(
        session, [session.id] if store.running_turn(session.id) is not None else []
    )
    if as_json:
        data = session_data(session) | {
            "version": VERSION,
            "status": state,
            "size": store.size(session.id),
        }
        if messages:
            recent = store.messages(session.id)[-messages:]
            data["recent"] = [m.to_json() for m in recent]
        printer.print_json(data)
        return
    fields = _fields(session, state, store.size(session.id))
    if sys.stdout.isatty():
        fields = {name: value for name, value in fields.items() if value not in ("-", "[]")}
    lines = printer.field_lines(fields, state="Status")
    shown = [] if messages == 0 else store.messages(session.id)[-(messages or 0) :]
    for message in shown:
        lines += ["", _message_header(message), *printer.markdown_lines(message.content)]
    pager.show_lines(lines)


def _message_header(message: Message) -> str:
    when = printer.local_time(message.timestamp)
    return printer.for_output().paint(f"── {message.speaker} · {when} ──", printer.BOLD)


def _fields(s: Session, state: str, size: int) -> dict[str, Any]:
    usage = s.usage
    counts = s.counts
    tokens = "-"
    if usage:
        tokens = (
            f"Input {format_count(usage.input)}, Output {format_count(usage.output)}, "
            f"Cached {format_count(usage.cached)}, Total {format_count(usage.total)}"
        )
    users, agents = counts.get("user", 0), counts.get("assistant", 0)
    return {
        "ID": s.id,
        "Backend": s.backend or "-",
        "Model": s.model or "-",
        "Status": state,
        "Created": printer.local_time(s.created_at),
        "Last Used": f"{printer.local_time(s.updated_at)} ({duration.format_age(s.updated_at)})",
        "Working Directory": printer.short_path(s.cwd or "-"),
        **({"Started In": printer.short_path(s.started_in)} if s.started_in else {}),
        "Backend Session": ", ".join(f"{v} ({k})" for k, v in s.native_ids.items()) or "-",
        "Turns": s.turns,
        "Token Usage": tokens,
        "Cost": f"${s.cost:.4f} as reported" if s.cost is not None else "-",
        "Tags": f"[{', '.join(s.tags)}]",
        "Title": s.label or "-",
        "Parents": ", ".join(s.parents) or "-",
        "Messages": f"{sum(counts.values())} (user {users}, assistant {agents})",
        "Storage Size": format_size(size),
        "Last Error": f"{s.error['kind']}: {s.error['message']}" if s.error else "-",
    }
