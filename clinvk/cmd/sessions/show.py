"""`clinvk sessions show`."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from clinvk.cmd.app import CommandModule
from clinvk.cmd.options import request as opt
from clinvk.cmd.options.storage import with_storage_options
from clinvk.cmd.sessions.common import VERSION, display_status, open_lookup, session_data
from clinvk.model.session import MessageRole, Session
from clinvk.terminal import printer
from clinvk.text import duration

app = CommandModule()


@app.command("show")
@with_storage_options
def show_(
    session_id: opt.OneSession,
    messages: Annotated[
        int, typer.Option("--messages", min=0, metavar="N", help="Also show the last N messages.")
    ] = 0,
    as_json: opt.Json = False,
    config: opt.Config = None,
) -> None:
    """Show a session."""
    sessions = open_lookup(config)
    session = sessions.lookup(session_id)
    store = sessions.store
    said = store.messages(session.id)[-messages:] if messages else []
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
            data["recent"] = [m.to_json() for m in said]
        printer.print_json(data)
        return
    printer.print_fields(_fields(session, state, store.size(session.id)))
    for message in said:
        who = "You" if message.role is MessageRole.USER else message.role.value.capitalize()
        when = message.timestamp.strftime("%Y-%m-%d %H:%M:%SZ")
        print(f"\n[{who}, {when}]\n{printer.safe(message.content).rstrip()}")


def _fields(s: Session, state: str, size: int) -> dict[str, Any]:
    usage = s.usage
    counts = s.counts
    tokens = "-"
    if usage:
        tokens = (
            f"Input {usage.input:,}, Output {usage.output:,}, Cached {usage.cached:,}, "
            f"Total {usage.total:,}"
        )
    users, agents = counts.get("user", 0), counts.get("assistant", 0)
    return {
        "ID": s.id,
        "Backend": s.backend or "-",
        "Model": s.model or "-",
        "Status": state,
        "Created": _rfc3339(s.created_at),
        "Last Used": f"{_rfc3339(s.updated_at)} ({duration.format_age(s.updated_at)})",
        "Working Directory": s.cwd or "-",
        "Backend Session": ", ".join(f"{v} ({k})" for k, v in s.native_ids.items()) or "-",
        "Turns": s.turns,
        "Token Usage": tokens,
        "Cost": f"${s.cost:.4f} as reported" if s.cost is not None else "-",
        "Tags": f"[{', '.join(s.tags)}]",
        "Title": s.title or s.prompt or "-",
        "Parents": ", ".join(s.parents) or "-",
        "Messages": f"{sum(counts.values())} (user {users}, agent {agents})",
        "Storage Size": printer.format_size(size),
        "Last Error": f"{s.error['kind']}: {s.error['message']}" if s.error else "-",
    }


def _rfc3339(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
