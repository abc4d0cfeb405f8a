"""The sessions stored by the CLIs themselves: a reader for each CLI.

A reader is a module with `BACKEND`, `files(env)`, `native_id(path)` and `read(path)`. These are
programs and not data in the manifests: the files are logs whose later lines undo earlier ones, in a
different way for each CLI.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from msgspec import Struct

from clinvk.errors import UsageError
from clinvk.model.session import Message
from clinvk.model.usage import Usage

READERS = ("claude", "codex", "gemini")  # of all their sessions, for `sessions import`
KNOWN = (*READERS, "qwen", "pi")  # also of what was said in a screen that clinvk has opened


class NativeSession(Struct, kw_only=True):
    """A session as stored by its CLI. `problems` are its unreadable parts."""

    backend: str
    native_id: str
    cwd: str | None  # real path
    title: str | None = None
    model: str | None = None
    messages: list[Message]  # what the user and the model said, without internal messages
    usage: Usage | None = None  # of all its turns
    archived: bool = False
    problems: tuple[str, ...] = ()

    @property
    def created(self) -> datetime:
        return self.messages[0].timestamp

    @property
    def updated(self) -> datetime:
        return max(m.timestamp for m in self.messages)


class NativeReader(Protocol):
    """The interface of the modules in this package."""

    BACKEND: str

    def find_files(self, env: Mapping[str, str]) -> Iterable[Path]:
        """The files that may contain a session, in the CLI's own home."""
        ...

    def find_native_id(self, path: Path) -> str | None:
        """The id of the session in a file, found without reading it all; None without a session.
        Raises `OSError`."""
        ...

    def read_session(self, path: Path) -> NativeSession | None:
        """The session in a file; None if it has no user message. Raises `OSError`."""
        ...


def reader_for(backend: str) -> NativeReader:
    """The reader for a backend. Raises `UsageError` if there is none."""
    if backend not in KNOWN:
        raise UsageError(
            f"the sessions of {backend!r} cannot be imported", f"known: {', '.join(READERS)}"
        )
    module: Any = import_module(f"clinvk.sessions.native.{backend}")
    found: NativeReader = module
    return found
