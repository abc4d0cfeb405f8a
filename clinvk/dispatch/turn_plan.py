"""What is decided about a turn before anything starts."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from clinvk.backend.manifest import Manifest
from clinvk.backend.options import Setting
from clinvk.model.request import Request
from clinvk.model.session import Session
from clinvk.process.command import Command


class TurnPlan(Struct, frozen=True):
    """All that is decided before anything starts."""

    request: Request
    manifest: Manifest
    session: Session | None  # none where the run is ephemeral
    resumes: str | None  # the native id that goes on
    forks: str | None  # the native id that a new one begins as a copy of
    previous_totals: dict[str, Any]  # what the CLI had counted so far in that native session
    settings: dict[str, Setting]
    command: Command
    timeout: float | None  # seconds
    notices: tuple[str, ...]
