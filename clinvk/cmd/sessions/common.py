"""What the subcommands of `sessions` share."""

from __future__ import annotations

from collections.abc import Container
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clinvk.cmd.options import request as opt
from clinvk.cmd.options.holding import until_end
from clinvk.model.session import Session
from clinvk.store import open_store
from clinvk.store.base import Damaged, Store
from clinvk.terminal import printer

if TYPE_CHECKING:
    from clinvk.api.sessions.manager import SessionManager
    from clinvk.config.schema import Loaded
    from clinvk.sessions.lookup import SessionLookup

VERSION = 1  # of the JSON that they print


def session_data(session: Session | Damaged) -> dict[str, Any]:
    """A session as `--json` shows it."""
    if isinstance(session, Damaged):
        return {"id": session.id, "status": "damaged", "problem": session.problem}
    record = session.to_json()
    record.pop("version")
    record.pop("totals")
    record["messages"] = record.pop("counts")
    record["native_id"] = session.native_id
    return record


def open_configured_store(loaded: Loaded) -> Store:
    """The configured store; on a terminal, slow work in it shows progress."""
    return until_end(
        open_store(
            loaded.config.session.storage, loaded.home, printer.ProgressBar("indexing sessions")
        )
    )


def open_manager(config: Path | None) -> SessionManager:
    """The manager of the configured sessions."""
    from clinvk.api.sessions.manager import SessionManager  # not needed to list sessions

    loaded = opt.load_config(config)
    return until_end(SessionManager(open_configured_store(loaded), loaded.home, config=loaded))


def open_lookup(config: Path | Loaded | None) -> SessionLookup:
    """The lookup in the configured sessions."""
    from clinvk.sessions.lookup import SessionLookup  # not needed to list sessions

    loaded = opt.load_config(config) if config is None or isinstance(config, Path) else config
    return SessionLookup(open_configured_store(loaded))


def find_id(sessions: SessionManager, text: str) -> str:
    """The id of the session that is meant; "last" is the one used last. Raises `SessionError`."""
    from clinvk.sessions.lookup import SessionLookup  # a list has no use for it

    return SessionLookup(sessions.store).lookup_or_last(text).id


def print_warnings(sessions: list[Session | Damaged]) -> None:
    for session in sessions:
        if isinstance(session, Damaged):
            printer.Printer.for_errors().warning(
                session.problem, f"delete it with: clinvk sessions delete {session.id}"
            )


def display_status(session: Session | Damaged, running: Container[str]) -> str:
    """The session's status, or running, which is not stored but detected."""
    if isinstance(session, Damaged):
        return "damaged"
    return "running" if session.id in running else session.status
