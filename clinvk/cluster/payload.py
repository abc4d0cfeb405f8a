"""Requests, events and results as JSON, for Redis.

A request names the variables that a task needs, and never has their values: each worker takes those
from its own environment.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from msgspec import UNSET, Struct, to_builtins
from msgspec.structs import replace

from clinvk.disk.jsonl import decode_line, encode
from clinvk.errors import ConfigError, UsageError
from clinvk.model.checks.check import CheckResult
from clinvk.model.checks.progress import CheckProgress
from clinvk.model.conversion import convert
from clinvk.model.events import EVENT_TYPES, Event, event_from_json
from clinvk.model.plan import TaskWorktree
from clinvk.model.request import Request
from clinvk.model.result import Denial, Failure, Result, WorktreeResult
from clinvk.model.session_ref import NewSession, SessionById
from clinvk.model.usage import Usage
from clinvk.text.redact import everywhere, replace_secrets

PROTOCOL = 1  # workers only take requests of their own
MAX_REQUEST = 8 * 1024 * 1024  # bytes
MAX_EVENT = 1024 * 1024
MAX_RESULT = 64 * 1024 * 1024
LEFT_OUT = "[left out: too large for the cluster]"


class _Request(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """The fields of a `Request` that a run sets."""

    version: int
    prompt: str
    new: str | None = None  # the id of a new session
    session: str | None = None  # the session to continue
    backend: str | None = None
    to: str | None = None
    options: dict[str, Any] = {}
    args: tuple[str, ...] = ()
    cwd: str | None = None
    own_directory: bool = False
    ephemeral: bool = False
    timeout: float | None = None
    stall_timeout: float | None = None
    env: dict[str, str] = {}  # as written, with `${NAME}`
    title: str | None = None
    tags: tuple[str, ...] = ()
    ignore_limit: bool = False
    labels: tuple[str, ...] = ()
    task: str | None = None
    lenient: bool = False
    worktree: TaskWorktree | None = None
    checked: bool = False  # it has a directory for what its checks print
    progress: dict[str, Any] | None = None


class _Result(Struct, frozen=True, kw_only=True):
    """A `Result` with types that can be read."""

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
    structured: Any = None
    structured_attempts: int | None = None
    error: Failure | None = None
    backend_exit_code: int | None = None
    unrecognized_lines: int = 0
    worktree: WorktreeResult | None = None
    check: CheckResult | None = None


class _Progress(Struct, frozen=True, kw_only=True):
    round: int = 0
    result: dict[str, Any] | None = None
    check: CheckResult | None = None
    failures: tuple[str, ...] = ()
    changed: bool = False
    in_round: bool = False


SAME = tuple(
    name
    for name in _Request.__struct_fields__
    if name not in ("version", "new", "session", "cwd", "env", "checked", "progress")
)


def request_to_json(request: Request) -> bytes:
    """Raises `UsageError` if the request cannot be sent, `ConfigError` if it contains a secret."""
    ref = request.session_ref
    if not isinstance(ref, (NewSession, SessionById)):
        raise UsageError("a task of a cluster needs a session of its own")
    progress = request.check_progress
    made = _Request(
        version=PROTOCOL,
        new=ref.id if isinstance(ref, NewSession) else None,
        session=ref.text if isinstance(ref, SessionById) else None,
        cwd=str(request.cwd) if request.cwd else None, env=dict(request.env),
        checked=request.check_dir is not None, progress=_plain(progress) if progress else None,
        **{name: getattr(request, name) for name in SAME},
    )  # fmt: skip
    data = encode(_plain(made))
    if len(data) > MAX_REQUEST:
        raise UsageError(
            f"the task is too large for the cluster: {len(data):,} bytes",
            f"at most {MAX_REQUEST:,}; put long texts into files",
        )
    if request.secrets and _contains(decode_line(data), request.secrets):
        raise ConfigError(
            "the task contains the value of a variable in env, and secrets are not sent to Redis",
            "leave the value out of the prompt and the options",
        )
    return data


def _contains(data: Any, secrets: Sequence[str]) -> bool:
    """Whether a secret is in any text; JSON itself escapes some characters of it."""
    return bool(everywhere(data, lambda text: replace_secrets(text, secrets)) != data)


def request_from_json(data: bytes) -> Request:
    """The request; its `env` is as written. Raises `ValueError` for anything else."""
    if len(data) > MAX_REQUEST:
        raise ValueError(f"too large: {len(data):,} bytes")
    found = convert(decode_line(data), _Request)
    if found.version != PROTOCOL:
        raise ValueError(f"version {found.version}, not {PROTOCOL}")
    return Request(
        session=SessionById(found.session) if found.session else NewSession(found.new),
        cwd=Path(found.cwd) if found.cwd else None, env=found.env,
        # The run decides what to do at a rate limit.
        on_limit="fail", fallback=(),
        check_dir=Path() if found.checked else None,  # the worker has its own
        check_progress=_progress(found.progress) if found.progress else None,
        **{name: getattr(found, name) for name in SAME},
    )  # fmt: skip


def result_to_json(result: Result) -> bytes:
    """The result. An answer that is too large is replaced, and the task has failed then."""
    data = encode(_plain(result))
    if len(data) <= MAX_RESULT:
        return data
    failure = Failure("error", f"the result is too large for the cluster: {len(data):,} bytes")
    return encode(_plain(replace(
        result, ok=False, text="", structured=None, denied=(), check=None, error=failure, exit_code=1,
    )))  # fmt: skip


def result_from_json(data: bytes) -> Result:
    """Raises `ValueError`."""
    return _result(decode_line(data))


def event_to_json(event: Event) -> bytes:
    """The event. What is too large is left out."""
    line = {"type": event.type, **_plain(event)}
    data = encode(line)
    if len(data) <= MAX_EVENT:
        return data
    return encode({**line, "raw": None, **{
        name: LEFT_OUT for name in ("text", "input", "output", "structured", "message") if name in line
    }})  # fmt: skip


def event_from_json_line(data: bytes) -> Event | None:
    """The event; None for one of a newer clinvk. Raises `ValueError` for anything else."""
    line = decode_line(data)
    if line is None:
        raise ValueError("not an event")
    if line.get("type") not in EVENT_TYPES:
        return None
    if isinstance(line.get("result"), Mapping):
        line["result"] = _result(line["result"])
    return event_from_json(line)


def _plain(value: Struct) -> dict[str, Any]:
    found: dict[str, Any] = to_builtins(value, enc_hook=str)
    return {name: part for name, part in found.items() if part is not UNSET}


def _result(data: Any) -> Result:
    found = convert(data, _Result)
    return Result(**{name: getattr(found, name) for name in _Result.__struct_fields__})


def _progress(data: dict[str, Any]) -> CheckProgress:
    found = convert(data, _Progress)
    fields = {name: getattr(found, name) for name in _Progress.__struct_fields__}
    result = None if found.result is None else _result(found.result)
    return CheckProgress(**{**fields, "result": result})
