"""The sessions that the CLIs keep by themselves: a reader for each of them.

A reader is a module with `BACKEND`, `files(env)`, `native_id(path)` and `read(path)`. Three small
programs, and no data in the manifests: the files are logs, whose later lines take back earlier ones
in ways that each CLI has invented for itself.
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

READERS = ("claude", "codex", "gemini")


class NativeSession(Struct, kw_only=True):
    """A session as its CLI has it. `problems` are what could not be read of it."""

    backend: str
    native_id: str
    cwd: str | None  # real path
    title: str | None = None
    model: str | None = None
    messages: list[Message]  # what the user and the model said, without all the plumbing
    usage: Usage | None = None  # of all its turns
    problems: tuple[str, ...] = ()

    @property
    def created(self) -> datetime:
        return self.messages[0].timestamp

    @property
    def updated(self) -> datetime:
        return max(m.timestamp for m in self.messages)


class NativeReader(Protocol):
    """What a module of this package is."""

    BACKEND: str

    def find_files(self, env: Mapping[str, str]) -> Iterable[Path]:
        """The files that may hold a session, in the CLI's own home."""
        ...

    def find_native_id(self, path: Path) -> str | None:
        """The id of the session in a file, found without reading it all; nothing where it holds
        none. Raises `OSError`."""
        ...

    def read_session(self, path: Path) -> NativeSession | None:
        """The session in a file; nothing where no user said anything in it. Raises `OSError`."""
        ...


def reader_for(backend: str) -> NativeReader:
    """The reader for a backend. Raises `UsageError` where there is none."""
    if backend not in READERS:
        raise UsageError(
            f"the sessions of {backend!r} cannot be imported", f"known: {', '.join(READERS)}"
        )
    module: Any = import_module(f"clinvk.sessions.native.{backend}")
    found: NativeReader = module
    return found
