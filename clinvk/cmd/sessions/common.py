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
    from clinvk.api.sessions import SessionManager

VERSION = 1  # of the JSON that they print


def about(session: Session | Damaged) -> dict[str, Any]:
    """A session as `--json` shows it."""
    if isinstance(session, Damaged):
        return {"id": session.id, "status": "damaged", "problem": session.problem}
    record = session.to_json()
    record.pop("version")
    record.pop("totals")
    record["messages"] = record.pop("counts")
    record["native_id"] = session.native_id
    return record


def store_of(config: Path | None) -> Store:
    """The store of the configuration; what takes long there is shown on a terminal."""
    loaded = opt.load(config)
    return until_end(
        open_store(
            loaded.config.session.storage, loaded.home, printer.Progress("indexing sessions")
        )
    )


def manager_of(config: Path | None) -> SessionManager:
    """What changes the sessions of the configuration."""
    from clinvk.api.sessions import SessionManager  # a list has no use for it

    loaded = opt.load(config)
    return until_end(SessionManager(store_of(config), loaded.home, config=loaded))


def warn(sessions: list[Session | Damaged]) -> None:
    for session in sessions:
        if isinstance(session, Damaged):
            printer.Printer.for_errors().warning(
                session.problem, f"take it away: clinvk sessions delete {session.id}"
            )


def state_of(session: Session | Damaged, running: Container[str]) -> str:
    """Its status, or that it runs: which is not stored, but seen."""
    if isinstance(session, Damaged):
        return "damaged"
    return "running" if session.id in running else session.status
