"""`clinvk sessions stats`."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

import typer

from clinvk.cmd.app import CommandModule
from clinvk.cmd.options import request as opt
from clinvk.cmd.options.storage import with_storage_options
from clinvk.cmd.sessions.common import VERSION, find_id, open_manager
from clinvk.model.usage import rfc3339
from clinvk.terminal import printer
from clinvk.text import duration

app = CommandModule()


@app.command("stats")
@with_storage_options
def stats(
    session_id: opt.OneSession,
    topics: Annotated[
        bool, typer.Option("--topics", help="Also show topics and sentiment (English only).")
    ] = False,
    as_json: opt.Json = False,
    config: opt.Config = None,
) -> None:
    """Show session statistics."""
    sessions = open_manager(config)
    session_id = find_id(sessions, session_id)
    figures = sessions.get_session_stats(session_id)
    flow = sessions.analyze_conversation_flow(session_id) if topics else {}
    if as_json:
        printer.print_json({"version": VERSION, "id": session_id, **_to_json_data(figures | flow)})
        return
    fields = _fields(session_id, figures)
    if flow:
        fields["Topics"] = ", ".join(flow["topics"]) or "-"
        fields["Sentiment"] = _or_dash(flow["average_sentiment"], "{:+.2f} (from -1 to 1)")
    printer.print_fields(fields)


def _fields(session_id: str, f: dict[str, Any]) -> dict[str, str]:
    users, agents, others = f["user_messages"], f["assistant_messages"], f["system_messages"]
    system = f", system {others}" if others else ""
    return {
        "ID": session_id,
        "Messages": f"{f['message_count']} (user {users}, assistant {agents}{system})",
        "Turns": str(f["turns"]),
        "Tokens": _or_dash(f["total_tokens"], "{:,}"),
        "Cost": _or_dash(f["cost"], "${:.4f} as reported"),
        "Words": f"{f['words']:,}",
        "Average Length": _or_dash(f["avg_message_length"], "{:,.0f} characters"),
        "User/Agent": _or_dash(f["user_assistant_ratio"], "{:.2f}"),
        "Average Response": _or_dash(f["avg_response_time"], "{:,.1f} s"),
        "Longest Response": _or_dash(f["max_response_time"], "{:,.1f} s"),
        "First Message": _format_time(f["first_message_at"]),
        "Last Message": _format_time(f["last_message_at"]),
    }


def _format_time(moment: datetime | None) -> str:
    return f"{moment:%Y-%m-%dT%H:%M:%SZ} ({duration.format_age(moment)})" if moment else "-"


def _or_dash(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)


def _to_json_data(value: Any) -> Any:
    """The same with times as text, and only significant digits."""
    if isinstance(value, dict):
        return {k: v if k == "cost" else _to_json_data(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_to_json_data(v) for v in value]
    if isinstance(value, float):
        return round(value, 3)
    return rfc3339(value) if isinstance(value, datetime) else value
