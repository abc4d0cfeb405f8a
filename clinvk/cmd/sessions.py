"""`clinvk sessions`: list, show, delete, clean."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Container
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import typer

from clinvk.clean import clean as clean_text
from clinvk.clean import one_line
from clinvk.cmd import options as opt
from clinvk.cmd import show
from clinvk.cmd.lazy import new_app
from clinvk.errors import ClinvkError, SessionError, UsageError
from clinvk.session import STATUSES, MessageRole, Session
from clinvk.store import Damaged, Query
from clinvk.usage import rfc3339

app = new_app(no_args_is_help=True, help="List, show, delete and clean up sessions.")
VERSION = 1  # of the JSON below
_AGE = re.compile(r"(\d+)([dhwm]?)")
_UNITS = {"": "days", "d": "days", "h": "hours", "w": "weeks", "m": "minutes"}


@app.command("list")
def list_(
    backend: opt.Backend = None,
    status: Annotated[str | None, typer.Option("--status", help="Only with this status.")] = None,
    here: Annotated[bool, typer.Option("--here", help="Only sessions of this folder.")] = False,
    tag: Annotated[str | None, typer.Option("--tag", help="Only with this tag.")] = None,
    metadata: Annotated[
        list[str] | None, typer.Option("--metadata", metavar="KEY=VALUE", help="Only with this.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", "-n", min=1, help="That many at most.")
    ] = None,
    wide: Annotated[bool, typer.Option("--wide", help="With number, messages and folder.")] = False,
    as_json: opt.Json = False,
    config: opt.Config = None,
) -> None:
    """List sessions, the one used last first."""
    if status is not None and status not in (*STATUSES, "running", "damaged"):
        raise UsageError(
            f"invalid status filter {status!r}",
            f"valid: {', '.join((*STATUSES, 'running', 'damaged'))}",
        )
    store = _store(config)
    query = Query(
        backend=backend,
        status=None if status == "running" else status,
        cwd=os.path.realpath(os.getcwd()) if here else None,
        tag=tag,
        metadata=opt.pairs(metadata or [], "--metadata"),
        limit=limit,
    )
    running = set(store.all_running())
    if status == "running":
        sessions = [store.get(id_) for id_ in running]
        sessions = sorted(filter(query.fits, sessions), key=lambda s: s.updated_at, reverse=True)
        total = len(sessions)
    else:
        sessions = store.select(query)
        total = store.count(query) if limit is not None else len(sessions)
    found = [(s, _state(s, running)) for s in sessions[:limit]]
    _warn(sessions)
    if as_json:
        rows = [{**about(s), "status": state} for s, state in found]
        show.print_json({"version": VERSION, "total": total, "sessions": rows})
        return
    if not found:
        print("no sessions", file=sys.stderr)
        return
    _print_table(found, wide=wide)
    if wide:
        print(f"Total: {total} session{'s' * (total != 1)}")


@app.command("show")
def show_(
    id: Annotated[  # noqa: A002 - the field's name
        str, typer.Argument(metavar="ID", autocompletion=opt.complete_sessions)
    ],
    messages: Annotated[
        int, typer.Option("--messages", min=0, metavar="N", help="The last N messages, too.")
    ] = 0,
    as_json: opt.Json = False,
    config: opt.Config = None,
) -> None:
    """Show a session."""
    from clinvk.dispatcher import Dispatcher

    dispatcher = Dispatcher(opt.load(config))
    session = dispatcher.lookup(id)
    store = dispatcher.store
    said = store.messages(session.id)[-messages:] if messages else []
    state = _state(session, [session.id] if store.running(session.id) is not None else [])
    if as_json:
        data = about(session) | {
            "version": VERSION,
            "status": state,
            "size": store.size(session.id),
        }
        if messages:
            data["recent"] = [m.to_json() for m in said]
        show.print_json(data)
        return
    show.print_fields(_fields(session, state, store.size(session.id)))
    for message in said:
        who = "You" if message.role is MessageRole.USER else message.role.value.capitalize()
        when = message.timestamp.strftime("%Y-%m-%d %H:%M:%SZ")
        print(f"\n[{who}, {when}]\n{clean_text(message.content).rstrip()}")


@app.command()
def delete(ids: opt.SessionIds, yes: opt.Yes = False, config: opt.Config = None) -> int:
    """Delete sessions: ours, not the backend's own."""
    from clinvk.dispatcher import Dispatcher

    dispatcher = Dispatcher(opt.load(config))
    code = 0
    for text in ids:
        try:
            id_ = _id_of(dispatcher, text)
            if not yes and not _agreed(f"Delete session {id_}?"):
                code = 4
                continue
            dispatcher.store.delete(id_)
            print(f"Session {id_} deleted.")
        except ClinvkError as error:
            show.Printer.for_errors().error(error.message, error.hint)
            code = error.exit_code
    return code


@app.command()
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
    store = _store(config)
    gone: list[str] = []
    if age is not None:
        gone = store.clean(rfc3339(datetime.now(UTC) - age), dry_run=dry_run)
    if as_json:
        show.print_json({"version": VERSION, "dry_run": dry_run, "deleted": gone})
    elif not gone:
        print("no sessions to clean", file=sys.stderr)
    else:
        for id_ in gone if dry_run else []:
            print(id_)
        verb = "Would delete" if dry_run else "Deleted"
        print(f"{verb} {len(gone)} session(s) older than {words}.")


def parse_age(text: str | None, retention_days: int) -> tuple[timedelta | None, str]:
    """An age and how to say it; nothing where nothing is ever old enough. Raises `UsageError`."""
    if text is None:
        if retention_days <= 0:
            return None, "never"
        text = str(retention_days)
    found = _AGE.fullmatch(text.strip())
    if not found or found.group(2) == "m":
        raise UsageError(f"--older-than: {text!r} is no age", "say 30 or 30d (days), 12h, or 2w")
    count, unit = int(found.group(1)), _UNITS[found.group(2)]
    try:
        return timedelta(**{unit: count}), f"{count} {unit if count != 1 else unit[:-1]}"
    except OverflowError:
        raise UsageError(f"--older-than: {text!r} is too long an age") from None


def about(session: Session | Damaged) -> dict[str, Any]:
    """A session as `--json` shows it."""
    if isinstance(session, Damaged):
        return {"id": session.id, "status": "damaged", "problem": session.problem}
    record = session.to_json()
    record.pop("version")
    record.pop("totals")
    record["native_id"] = session.native_id
    return record


def _store(config: Any) -> Any:
    from clinvk.store import open_store

    loaded = opt.load(config)
    return open_store(loaded.config.session.storage, loaded.home)


def _warn(sessions: list[Session | Damaged]) -> None:
    for session in sessions:
        if isinstance(session, Damaged):
            show.Printer.for_errors().warning(
                session.problem, f"take it away: clinvk sessions delete {session.id}"
            )


def _state(session: Session | Damaged, running: Container[str]) -> str:
    """Its status, or that it runs: which is not stored, but seen."""
    if isinstance(session, Damaged):
        return "damaged"
    return "running" if session.id in running else session.status


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
            cells = [s.id, s.backend or "-", state, show.ago(s.updated_at), tokens, _short(s.label)]
            extra = [str(sum(s.messages.values())), s.cwd or "-"]
        rows.append([str(i), *cells[:5], *extra, cells[5]] if wide else cells)
    show.print_table(headers, rows, right=[5, 6] if wide else [4])


def _short(label: str) -> str:
    label = one_line(label) or "-"
    return label if len(label) <= 60 else label[:59] + "…"


def _fields(s: Session, state: str, size: int) -> dict[str, Any]:
    usage = s.usage
    messages = s.messages
    tokens = "-"
    if usage:
        tokens = (
            f"Input {usage.input:,}, Output {usage.output:,}, Cached {usage.cached:,}, "
            f"Total {usage.total:,}"
        )
    users, agents = messages.get("user", 0), messages.get("assistant", 0)
    return {
        "ID": s.id,
        "Backend": s.backend or "-",
        "Model": s.model or "-",
        "Status": state,
        "Created": _rfc3339(s.created_at),
        "Last Used": f"{_rfc3339(s.updated_at)} ({show.ago(s.updated_at)})",
        "Working Directory": s.cwd or "-",
        "Backend Session": ", ".join(f"{v} ({k})" for k, v in s.native_ids.items()) or "-",
        "Turns": s.turns,
        "Token Usage": tokens,
        "Cost": f"${s.cost:.4f} as reported" if s.cost is not None else "-",
        "Tags": f"[{', '.join(s.tags)}]",
        "Title": s.title or s.prompt or "-",
        "Parents": ", ".join(s.parents) or "-",
        "Messages": f"{sum(messages.values())} (user {users}, agent {agents})",
        "Storage Size": show.size(size),
        "Last Error": f"{s.error['kind']}: {s.error['message']}" if s.error else "-",
    }


def _rfc3339(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _id_of(dispatcher: Any, text: str) -> str:
    """The id that is meant, of a damaged session too."""
    if dispatcher.store.matching(text, 1) == [text]:
        return text
    return str(dispatcher.lookup(text).id)


def _agreed(question: str) -> bool:
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise SessionError("deleting asks first, and there is no terminal", "add --yes")
    return show.confirm(question)
