"""The flags of a prompt, typed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from msgspec import Struct

# A command's parameter `options: TurnOptions = FROM_TABLE` stands for all of them.
TurnOptions = Mapping[str, Any]
FROM_TABLE: TurnOptions = MappingProxyType({})


class PromptFlags(Struct, frozen=True, kw_only=True):
    """The flags of `ask` and `resume`, except those that choose the session. A flag that was not
    given is None or False."""

    backend: str | None
    to: str | None
    replay: bool
    workdir: Path | None
    output_format: str | None
    raw: bool
    dry_run: bool
    ephemeral: bool
    timeout: str | None  # a duration
    stall_timeout: str | None  # a duration
    options: TurnOptions  # of the option table, by name
    option: list[str] | None  # KEY=VALUE
    fail_on_denied: bool
    lenient: bool
    expand: bool
    no_wait: bool
    verbose: bool
    on_limit: str | None = None
    max_wait: str | None = None  # a duration
    fallback: list[str] | None = None
    ignore_limit: bool = False
    as_json: bool = False
    quiet: bool = False
    title: str | None = None
    tag: list[str] | None = None
    worktree: bool = False
    base: str | None = None  # a revision
    dirty: str | None = None
    setup: str | None = None  # a shell command
