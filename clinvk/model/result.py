"""The result of a request, and the exit codes of failures."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

from msgspec import Struct, to_builtins

from clinvk.errors import ClinvkError
from clinvk.model.candidates.ranking import Ranking
from clinvk.model.usage import Usage, rfc3339

if TYPE_CHECKING:
    from clinvk.model.checks.check import CheckResult

VERSION = 1  # of the JSON objects below

# A failure's kind decides the exit code; kinds that are not here take the backend's own code.
EXIT_CODES = {
    "error": 1,
    "usage": 1,
    "server": 1,
    "denied": 1,
    "schema": 1,
    "not_installed": 2,
    "config": 3,
    "session": 4,
    "timeout": 6,
    "cancelled": 7,
    "check": 65,
    "loop": 65,
    "limit": 75,
}
NOT_NEEDED = "not_needed"  # the kind of steps that a loop does not need: no failure
FIRST_PASSED_ON_CODE = 8  # a backend's own exit code is passed on from here
RESERVED_CODES = (EXIT_CODES["check"], EXIT_CODES["limit"])  # but these, which are clinvk's


class Denial(Struct, frozen=True):
    """A tool that the model requested and was denied."""

    name: str
    input: Any = None
    reason: str | None = None
    hint: str | None = None  # how to allow it, if the CLI has a way of its own

    def to_json(self) -> dict[str, Any]:
        about = {"name": self.name, "input": self.input, "reason": self.reason}
        return about | {"hint": self.hint} if self.hint else about


class Failure(Struct, frozen=True):
    """Why a run did not succeed. `kind` is one word: see `EXIT_CODES`, or `backend`, `auth`,
    `incomplete` (the stream ended without saying how, or before the model was done)."""

    kind: str
    message: str
    hint: str | None = None
    retry_at: datetime | None = None
    status: int | None = None  # HTTP, if the backend reported it
    wait_factor: float = 1.0  # how much longer than usual to wait before a retry
    window: str | None = None  # of a rate limit: which one, if the CLI named it
    model: str | None = None  # of a rate limit: the only model that it applies to

    def to_json(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "message": self.message,
            "hint": self.hint,
            "retry_at": rfc3339(self.retry_at) if self.retry_at else None,
        }


class WorktreeResult(Struct, frozen=True, kw_only=True):
    """The result of an attempt in a worktree. If nothing was changed, `commit` is `base`."""

    path: str  # of the worktree
    ref: str
    commit: str
    base: str  # the commit that it began with
    files: int = 0  # that differ from the base
    insertions: int = 0
    deletions: int = 0

    @property
    def run(self) -> str:
        """The id of its run."""
        return self.ref.split("/")[2]

    @property
    def slug(self) -> str:
        """The name of its task, as git allows it in a ref."""
        return self.ref.split("/")[3]

    @property
    def is_changed(self) -> bool:
        return self.files > 0 or self.commit != self.base

    def to_json(self) -> dict[str, Any]:
        data: dict[str, Any] = to_builtins(self)
        return data


class Result(Struct, frozen=True, kw_only=True):
    """The result of a request. `exit_code` is clinvk's; `backend_exit_code` the program's own."""

    ok: bool
    text: str
    backend: str
    exit_code: int
    session_id: str | None = None
    native_id: str | None = None
    model: str | None = None
    usage: Usage | None = None
    cost: float | None = None
    seconds: float = 0.0
    denied: tuple[Denial, ...] = ()
    structured: Any = None  # the answer to a schema, if it matches
    structured_attempts: int | None = None  # answers that were asked for; None without a schema
    error: Failure | None = None
    backend_exit_code: int | None = None
    unrecognized_lines: int = 0  # of the program's output, which the manifest does not describe
    worktree: WorktreeResult | None = None  # what was changed, if it ran in one
    check: CheckResult | None = (
        None  # of its work; None if none was requested, or the turn failed first
    )
    decision: Ranking | None = None  # of several candidates, if it is the result of the best one

    @property
    def has_answer(self) -> bool:
        return bool(self.text.strip()) or self.structured is not None

    def to_json(self) -> dict[str, Any]:
        """The object of `-o json`."""
        cost = None if self.cost is None else {"usd": self.cost, "source": "reported"}
        return {
            "version": VERSION,
            "backend": self.backend,
            "session_id": self.session_id,
            "native_id": self.native_id,
            "model": self.model,
            "content": self.text,
            "structured": self.structured,
            "structured_attempts": self.structured_attempts,
            "usage": plain(self.usage),
            "cost": cost,
            "duration_seconds": round(self.seconds, 3),
            "exit_code": self.exit_code,
            "backend_exit_code": self.backend_exit_code,
            "unrecognized_lines": self.unrecognized_lines,
            "denied": [plain(d) for d in self.denied],
            "check": plain(self.check),
            "error": plain(self.error),
            **({"worktree": self.worktree.to_json()} if self.worktree else {}),
            **({"decision": self.decision.to_json()} if self.decision else {}),
        }


class TurnError(ClinvkError):
    """A turn that failed, where the caller expects nothing but an answer. `result` is all of it."""

    def __init__(self, result: Result, error: Failure) -> None:
        super().__init__(describe_failure(result.backend, error.message), error.hint)
        self.result = result
        self.kind = error.kind
        self.exit_code = result.exit_code


def describe_failure(backend: str, message: str) -> str:
    """The message, which says of which backend it is."""
    return message if message.startswith(f"{backend} ") else f"{backend}: {message}"


def raise_failure(result: Result) -> None:
    """Raise `TurnError` unless the turn succeeded."""
    if result.error is not None:
        raise TurnError(result, result.error)


def exit_code(kind: str, backend_code: int | None) -> int:
    """The published exit code of a failure of this kind, of a program that ended with this code."""
    if kind in EXIT_CODES:
        return EXIT_CODES[kind]
    if backend_code is None or backend_code in RESERVED_CODES:
        return 1
    if backend_code < 0:
        return 128 - backend_code
    return backend_code if backend_code >= FIRST_PASSED_ON_CODE else 1


def plain(value: Any) -> Any:
    """The data in JSON types."""
    if isinstance(value, datetime):
        return rfc3339(value)
    if hasattr(value, "to_json"):
        return value.to_json()
    return value
