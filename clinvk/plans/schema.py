"""What a file of tasks may say: its own keys, and those of a task."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from clinvk.model.plan import Budget

# What a task calls by another name than a request does.
OPTIONS = {
    "model": "model", "approval": "approval", "approval_mode": "approval", "sandbox": "sandbox",
    "sandbox_mode": "sandbox", "max_turns": "max_turns", "max_tokens": "max_tokens",
    "system_prompt": "system_prompt", "add_dir": "add_dir", "allowed_tools": "allowed_tools",
}  # fmt: skip

# The published format has these for every backend, whether or not its CLI knows them.
ALL_TASKS_ONLY = ("max_turns", "max_tokens")

# Keys that say the same: where a task says one of them, the other is not taken from the defaults.
ALTERNATIVES = {"approval": "approval_mode", "sandbox": "sandbox_mode", "prompt": "prompt_file"}
ALTERNATIVES |= {b: a for a, b in ALTERNATIVES.items()}

NUMBERS = ("max_turns", "max_tokens", "retries")

Scalar = str | int | float | bool


class TaskEntry(Struct, frozen=True, kw_only=True):
    """A task as it is written. Its matrix has been multiplied out."""

    prompt: str | None = None
    prompt_file: str | None = None
    backend: str | None = None
    model: str | None = None
    workdir: str | None = None
    name: Scalar | None = None
    id: Scalar | None = None
    title: str | None = None
    tags: list[str] = []
    approval: str | None = None
    approval_mode: str | None = None
    sandbox: str | None = None
    sandbox_mode: str | None = None
    max_turns: int | None = None
    max_tokens: int | None = None
    system_prompt: str | None = None
    add_dir: str | list[str] | None = None
    allowed_tools: str | list[str] | None = None
    schema: str | None = None  # the path of a file
    options: dict[str, Any] = {}
    extra: list[str] = []  # handed to the backend as they are
    args: list[str] = []
    timeout: Scalar | None = None
    stall_timeout: Scalar | None = None
    retries: int | None = None
    needs: str | list[str] = []
    env: dict[str, Scalar] = {}
    idempotent: bool = False
    lenient: bool = False
    dry_run: bool = False
    meta: Any = None
    output_format: str | None = None  # of the published format; what a task prints is read by us
    verbose: bool = False  # the same


class TaskFile(Struct, frozen=True, kw_only=True):
    """A file, but for its tasks."""

    tasks: list[Any] = []
    steps: list[Any] = []
    name: str | None = None
    description: str | None = None
    defaults: dict[str, Any] = {}
    matrix: dict[str, list[Scalar]] = {}
    max_parallel: int | None = None
    max_parallel_per_backend: dict[str, int] = {}
    fail_fast: bool | None = None
    halt: str | None = None
    retries: int | None = None
    retry_delay: Scalar | None = None
    on_limit: str | None = None
    limit_wait: Scalar | None = None
    max_wait: Scalar | None = None
    budget: Budget | None = None
    stall_timeout: Scalar | None = None
    ephemeral: bool = False
    output_dir: str | None = None
    stop_on_failure: bool = True
    pass_working_dir: bool = False
    pass_session: bool = False
