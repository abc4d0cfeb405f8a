"""What goes in (`Request`), what happens (`Event`), and what came of it (`Result`)."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, ClassVar

from msgspec import Struct

from clinvk.model.usage import Usage, rfc3339

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
    "limit": 75,
}
PASSED_ON = 8  # a backend's own exit code is passed on from here


class Request(Struct, frozen=True, kw_only=True):
    """What somebody wants. `cwd=None` is the session's folder, else the current one."""

    prompt: str
    backend: str | None = None
    session: str | None = None  # an id, a unique prefix, a native id, or "last"
    name: str | None = None  # the session of exactly this name, created at its first use
    begins: str | None = None  # the id of a new session, of a task: who asks settles it (`Store`)
    to: str | None = None  # a backend that the conversation is handed over to
    replay: bool = False  # begin the native session anew, from the transcript
    history: int = 0  # that many earlier sessions of the folder go before the prompt
    options: Mapping[str, Any] = {}
    args: tuple[str, ...] = ()  # handed to the backend as they are
    cwd: Path | None = None
    ephemeral: bool = False
    timeout: float | None = None  # seconds
    stall_timeout: float | None = None  # seconds without a sign of life
    env: Mapping[str, str] = {}  # for the program, beside ours
    secrets: tuple[str, ...] = ()  # texts that are in nothing that is kept
    title: str | None = None
    tags: tuple[str, ...] = ()
    lenient: bool = False  # drop options that the backend lacks, with a notice
    expand: bool = False  # let the CLI expand @path and /command
    anywhere: bool = False  # "last" may be a session of another folder
    wait: bool = True  # for another turn of the same session
    fail_on_denied: bool = False
    new: bool = False  # start a session though session.auto_resume is on
    task: str | None = None  # the run that it is a task of


class Denial(Struct, frozen=True):
    """A tool that the model wanted and did not get."""

    name: str
    input: Any = None
    reason: str | None = None

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "input": self.input, "reason": self.reason}


class Failure(Struct, frozen=True):
    """Why a run did not succeed. `kind` is one word: see `EXIT_CODES`, or `backend`, `auth`,
    `incomplete` (the stream ended without saying how)."""

    kind: str
    message: str
    hint: str | None = None
    retry_at: datetime | None = None
    status: int | None = None  # HTTP, where the backend said it

    def to_json(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "message": self.message,
            "hint": self.hint,
            "retry_at": rfc3339(self.retry_at) if self.retry_at else None,
        }


class Event(Struct, frozen=True, kw_only=True):
    """Something that happened in a run. `raw` is what the backend printed, where it printed it."""

    type: ClassVar[str] = ""
    raw: Any = None

    def __repr__(self) -> str:
        said = (
            f"{name}={getattr(self, name)!r}" for name in self.__struct_fields__ if name != "raw"
        )
        return f"{type(self).__name__}({', '.join(said)})"

    def to_json(self, *, raw: bool = False) -> dict[str, Any]:
        """One line of `-o stream-json`."""
        line: dict[str, Any] = {"version": VERSION, "type": self.type}
        for name in self.__struct_fields__:
            if name != "raw":
                line[name] = plain(getattr(self, name))
        if raw:
            line["raw"] = self.raw
        return line


class Started(Event, frozen=True, kw_only=True):
    type: ClassVar[str] = "started"
    native_id: str | None = None
    model: str | None = None


class Delta(Event, frozen=True, kw_only=True):
    """A piece of an answer. The `Text` that follows, if one does, holds the whole of it."""

    type: ClassVar[str] = "delta"
    text: str = ""


class Text(Event, frozen=True, kw_only=True):
    type: ClassVar[str] = "text"
    text: str = ""


class Thinking(Event, frozen=True, kw_only=True):
    type: ClassVar[str] = "thinking"
    text: str = ""


class Tool(Event, frozen=True, kw_only=True):
    type: ClassVar[str] = "tool"
    id: str | None = None
    name: str = ""
    input: Any = None


class ToolResult(Event, frozen=True, kw_only=True):
    type: ClassVar[str] = "tool_result"
    id: str | None = None
    ok: bool | None = None
    output: Any = None


class Denied(Event, frozen=True, kw_only=True):
    """A tool that was refused. One that is known by its `id` alone gets the rest from its `Tool`."""

    type: ClassVar[str] = "denied"
    id: str | None = None
    name: str = ""
    input: Any = None
    reason: str | None = None


class Notice(Event, frozen=True, kw_only=True):
    """Something worth knowing that is no failure: shown on stderr."""

    type: ClassVar[str] = "notice"
    message: str = ""


class Finished(Event, frozen=True, kw_only=True):
    type: ClassVar[str] = "finished"
    text: str | None = None
    usage: Usage | None = None
    cost: float | None = None  # US dollars, as the backend reported them
    structured: Any = None  # the answer to a schema


class Failed(Event, frozen=True, kw_only=True):
    type: ClassVar[str] = "failed"
    kind: str = "backend"
    message: str = ""
    hint: str | None = None
    retry_at: datetime | None = None
    status: int | None = None
    usage: Usage | None = None
    cost: float | None = None


class Result(Struct, frozen=True, kw_only=True):
    """What came of a request. `exit_code` is clinvk's; `backend_exit_code` the program's own."""

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
    error: Failure | None = None
    backend_exit_code: int | None = None

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
            "usage": plain(self.usage),
            "cost": cost,
            "duration_seconds": round(self.seconds, 3),
            "exit_code": self.exit_code,
            "backend_exit_code": self.backend_exit_code,
            "denied": [plain(d) for d in self.denied],
            "error": plain(self.error),
        }


def exit_code(kind: str, backend_code: int | None) -> int:
    """The published exit code of a failure of this kind, of a program that ended with this code."""
    if kind in EXIT_CODES:
        return EXIT_CODES[kind]
    if backend_code is None or backend_code == EXIT_CODES["limit"]:
        return 1
    if backend_code < 0:
        return 128 - backend_code
    return backend_code if backend_code >= PASSED_ON else 1


def plain(value: Any) -> Any:
    """The same in what JSON knows."""
    if isinstance(value, datetime):
        return rfc3339(value)
    if hasattr(value, "to_json"):
        return value.to_json()
    return value
