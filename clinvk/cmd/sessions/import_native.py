"""`clinvk sessions import`."""

from __future__ import annotations

import os
import sys
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from clinvk.backend.inherited import expand_homes
from clinvk.cmd.app import CommandModule
from clinvk.cmd.options import request as opt
from clinvk.cmd.options.storage import with_storage_options
from clinvk.cmd.sessions.common import VERSION, open_configured_store, session_data
from clinvk.config.schema import Loaded, SessionConfig
from clinvk.errors import ClinvkError, UsageError
from clinvk.model.age import parse_age, time_before
from clinvk.model.session import Session
from clinvk.sessions import importer
from clinvk.sessions.native import READERS, reader_for
from clinvk.store.base import Store
from clinvk.terminal import printer, questions
from clinvk.text import duration

app = CommandModule()
EXIT_INCOMPLETE = 4


@app.command("import")
@with_storage_options
def import_(
    backend: opt.Backend = None,
    here: Annotated[bool, typer.Option("--here", help="Only sessions in this directory.")] = False,
    since: Annotated[
        str | None,
        typer.Option(
            "--since",
            metavar="AGE|DATE",
            help="Only sessions used since then: 7d, 12h, 2w or 2026-01-31.",
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="List what would be imported; import nothing.")
    ] = False,
    yes: opt.Yes = False,
    as_json: opt.Json = False,
    config: opt.Config = None,
) -> int:
    """Import sessions that claude, codex and gemini already have.

    Their own files are not changed, and sessions that were imported before are skipped."""
    loaded = opt.load_config(config)
    store = open_configured_store(loaded)
    findings = importer.find_native_sessions(
        store,
        {name: _backend_env(loaded, name) for name in _select_backends(backend)},
        loaded.config.session,
        cwd=os.path.realpath(os.getcwd()) if here else None,
        since=_parse_time(since) if since is not None else None,
        progress=printer.ProgressBar("reading sessions"),
    )
    for problem in findings.problems:
        printer.Printer.for_errors().warning(problem)
    found = [c.session for c in findings.new]
    if not as_json:
        _print_candidates(found, findings.known)
    if found and not dry_run:
        if not yes and not _confirm_import(len(found)):
            return EXIT_INCOMPLETE
        found = _import_candidates(store, findings.new, loaded.config.session)
    if as_json:
        data = {"version": VERSION, "dry_run": dry_run, "known": findings.known}
        printer.print_json(
            {**data, "problems": findings.problems, "sessions": list(map(session_data, found))}
        )
    elif found and not dry_run:
        printer.print_wrapped(
            f"Imported {len(found)} session(s). Resume one with: clinvk resume {found[0].id}"
        )
    return 0


def _import_candidates(
    store: Store, candidates: list[importer.Candidate], settings: SessionConfig
) -> list[Session]:
    """The imported sessions. Warns of each whose file can no longer be read."""
    progress = printer.ProgressBar("importing sessions")
    sessions = []
    for done, candidate in enumerate(candidates):
        progress(done, len(candidates))
        try:
            session = importer.import_session(store, candidate, settings)
        except OSError as error:
            printer.Printer.for_errors().warning(f"{candidate.path}: {error.strerror}")
            continue
        except ClinvkError:
            raise
        except Exception as error:  # noqa: BLE001 - it was changed since it was looked at
            printer.Printer.for_errors().warning(f"{candidate.path}: damaged: {error}")
            continue
        if session is not None:
            sessions.append(session)
    progress(len(candidates), len(candidates))
    return sessions


def _select_backends(only: str | None) -> tuple[str, ...]:
    if only is None:
        return READERS
    reader_for(only)  # raises an error if there is none
    return (only,)


def _backend_env(loaded: Loaded, name: str) -> dict[str, str]:
    """The environment that the CLI sees, which decides where it keeps its files."""
    given = loaded.config.backends.get(name, loaded.backend(name)).env
    return dict(os.environ) | expand_homes(given, dict(os.environ) | given)


def _parse_time(text: str) -> datetime:
    """The time that --since means. Raises `UsageError`."""
    try:
        return datetime.fromisoformat(text).astimezone()
    except ValueError:
        pass
    try:
        age, _ = parse_age(text, 0)
    except UsageError:
        raise UsageError(
            f"--since: {text!r} is neither an age nor a date", "use e.g. 7d, 12h, 2w or 2026-01-31"
        ) from None
    return time_before(age) if age is not None else datetime.min.replace(tzinfo=UTC)


def _print_candidates(sessions: list[Session], known: int) -> None:
    if sessions:
        headers = ["ID", "BACKEND", "LAST USED", "MESSAGES", "DIRECTORY", "TITLE/PROMPT"]
        printer.print_table(
            headers, map(_row, sessions), right=["MESSAGES"], shrinks=["TITLE/PROMPT", "DIRECTORY"],
            spared=["MESSAGES", "BACKEND", "DIRECTORY", "LAST USED", "TITLE/PROMPT"],
        )  # fmt: skip
    else:
        print("nothing to import", file=sys.stderr)
    sys.stdout.flush()  # a question on stderr may follow
    if known:
        print(f"{known} more session(s) were imported before.", file=sys.stderr)


def _row(s: Session) -> list[Any]:
    messages = str(sum(s.counts.values()))
    return [
        s.id,
        s.backend,
        duration.format_age(s.updated_at),
        messages,
        s.cwd or "-",
        s.label or "-",
    ]


def _confirm_import(count: int) -> bool:
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise UsageError(
            "refusing to import without confirmation", "pass --yes, or look first with --dry-run"
        )
    return questions.confirm(f"Import {count} session(s)?")
