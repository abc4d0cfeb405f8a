"""What is decided about a turn before anything starts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from clinvk.backend.manifest import Manifest
from clinvk.backend.options import Setting
from clinvk.model.request import Request
from clinvk.model.session import Session
from clinvk.process.command import Command

if TYPE_CHECKING:
    from clinvk.dispatch.answer_schema import AnswerSchema
    from clinvk.knowledge.context import Context


class TurnPlan(Struct, frozen=True):
    """All that is decided before anything starts."""

    request: Request
    manifest: Manifest
    session: Session | None  # None if the run is ephemeral
    resumes: str | None  # the native id to resume
    forks: str | None  # the native id that a new one starts as a copy of
    previous_totals: dict[str, Any]  # the CLI's totals so far in that native session
    settings: dict[str, Setting]
    command: Command
    timeout: float | None  # seconds
    notices: tuple[str, ...]
    home: Path | None = None  # the directory of clinvk
    exit_timeout: float | None = None  # seconds, instead of the manifest's
    native_env: dict[str, str] = {}  # the variables that are stored with the native id
    schema: AnswerSchema | None = None  # that the answer has to match
    template: str | None = None  # of a new session
    metadata: dict[str, Any] = {}  # of a new session
    context: Context | None = None  # what was added before the prompt
