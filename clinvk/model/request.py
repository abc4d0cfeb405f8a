"""What somebody asks for: a `Request`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from msgspec import Struct


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
    spelled: Mapping[str, str] = {}  # what the user typed for an option, for messages
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
