"""The keys of a task file: its own, and those of a task."""

from __future__ import annotations

from typing import Any, Literal

from msgspec import UNSET, Struct, UnsetType, defstruct
from msgspec.structs import asdict, fields

from clinvk.model import option_table
from clinvk.model.option_table import Option
from clinvk.model.plan import Budget, Dirty
from clinvk.text.yaml.rules import JSON, PROSE, TEXT, Rules

# The option that each key of a task sets.
OPTIONS = {key: option for option in option_table.OPTIONS for key in option.task_keys}

# The published format has these for every backend, whether or not its CLI supports them.
ALL_TASKS_ONLY = [key for key, option in OPTIONS.items() if option.droppable]

# Keys with the same meaning: if a task sets one, the other is not taken from the defaults.
ALTERNATIVES = {"prompt": "prompt_file"}
ALTERNATIVES |= {option.name: option.key for option in OPTIONS.values() if option.key}
ALTERNATIVES |= {b: a for a, b in ALTERNATIVES.items()}

FRACTIONS = [key for key, option in OPTIONS.items() if option.type is float]
NUMBERS = [*(key for key, option in OPTIONS.items() if option.type is int), *FRACTIONS, "retries"]
LISTS = [*(key for key, option in OPTIONS.items() if option.repeatable), "tags", "needs", "labels"]

Scalar = str | int | float | bool

# What stays in a file as it is written: `3.10` in a matrix is not the number 3.1.
_DURATIONS = {key: TEXT for key, option in OPTIONS.items() if option.duration}
_DURATIONS |= {o.name: TEXT for o in option_table.TURN_OPTIONS if o.duration and o.task_key}
_MATRIX = {"*": {"[]": TEXT}}
_LOOP: Rules = {
    "steps": {"[]": TEXT},
    "until": PROSE,
    "keep_session": {"[]": TEXT},
}
_COMMANDS: Rules = {"check": {"[]": PROSE}, "protect": {"[]": PROSE}}
OF_CANDIDATES = ("score", "score_order", "judge")  # keys that mean nothing without candidates
WRITTEN_TASK: Rules = {
    **dict.fromkeys(("prompt", "again", "system_prompt", "append_system_prompt", "title"), PROSE),
    "name": TEXT,
    "id": TEXT,
    "tags": {"[]": PROSE},
    "labels": {"[]": TEXT},
    "needs": {"[]": PROSE},
    "matrix": _MATRIX,
    "env": {"*": TEXT},
    "meta": JSON,
    "score": PROSE,
    "worktree": {"base": TEXT, "copy": {"[]": TEXT}, "setup": PROSE},
    **_COMMANDS,
    **_DURATIONS,
}
WRITTEN: Rules = {
    "[]": WRITTEN_TASK,  # the file is a list
    "name": PROSE,
    "description": PROSE,
    "defaults": WRITTEN_TASK,
    "tasks": {"[]": WRITTEN_TASK},
    "steps": {"[]": WRITTEN_TASK},
    "repeat": {"[]": _LOOP, **_LOOP},
    "matrix": _MATRIX,
    "worktree": WRITTEN_TASK["worktree"],
    **dict.fromkeys(
        ("retry_delay", "limit_wait", "max_wait", "stall_timeout", "check_timeout"), TEXT
    ),
    **_COMMANDS,
}
# Keys of a task that a file may set for all tasks, beside its `defaults`.
FILE_LEVEL = ("check", "check_timeout", "rounds", "protect", "expect_change", "worktree")
SHARED = "x-"  # keys that begin with it hold parts that anchors share; they are ignored


def read_number(key: str, text: str) -> float | str:
    """The number of a key that is written as text; the text if it is not one."""
    word = text.strip()
    if key not in FRACTIONS:
        return int(word) if word.isdecimal() and word.isascii() else text
    try:
        return float(word)
    except ValueError:
        return text


def _option_type(option: Option) -> Any:
    """The type of the key in a task. A choice is checked later, when the place has a better
    name."""
    if option.optional_value:
        return bool | str | None
    if option.duration:
        return Scalar | None
    if option.choices:
        return Scalar | None
    if option.repeatable:
        return option.type | list[option.type] | None  # type: ignore[name-defined]
    return option.type | None


def _turn_field(option: Option) -> tuple[str, Any, Any]:
    if option.type is bool:
        return option.name, bool, False
    if option.repeatable:
        return option.name, list[option.type], []  # type: ignore[name-defined]
    return option.name, _option_type(option), None


_option_fields: Any = defstruct(
    "OptionFields",
    [
        *((key, _option_type(option), None) for key, option in OPTIONS.items()),
        *(_turn_field(option) for option in option_table.TURN_OPTIONS if option.task_key),
    ],
    frozen=True,
    kw_only=True,
    module=__name__,
)


class WorktreeEntry(Struct, frozen=True, kw_only=True):
    """The keys of `worktree`."""

    base: Scalar | None = None
    dirty: Dirty = "tell"
    copy: str | list[str] = []
    setup: str | None = None
    keep: bool = False


class TaskEntry(_option_fields, Struct, frozen=True, kw_only=True):  # type: ignore[misc]
    """A task as written, with its matrix expanded."""

    prompt: str | None = None
    prompt_file: str | None = None
    again: str | None = None  # the prompt of the later rounds of a loop
    backend: str | None = None
    name: Scalar | None = None
    id: Scalar | None = None
    options: dict[str, Any] = {}
    extra: list[str] = []  # passed to the backend unchanged
    args: list[str] = []
    retries: int | None = None
    needs: str | list[str] = []
    env: dict[str, Scalar] = {}
    idempotent: bool = False
    labels: str | list[str] = []
    stored_options: bool = False
    worktree: bool | dict[str, Any] | None = None
    candidates: int | str | list[Any] | None = None
    score: str | None = None
    score_order: Literal["higher", "lower"] | None = None
    judge: str | None = None
    meta: Any = None
    output_format: str | None = None  # of the published format; clinvk reads what a task prints


_default_fields: Any = defstruct(
    "DefaultFields",
    [(field.name, field.type | UnsetType, UNSET) for field in fields(TaskEntry)],
    frozen=True,
    kw_only=True,
    module=__name__,
)


class TaskDefaults(_default_fields, Struct, frozen=True, kw_only=True):  # type: ignore[misc]
    """Keys of a task that are set for all tasks outside their file: by flags, or by the arguments
    of a function. Values are checked with each task, which may override them."""

    def set_keys(self) -> dict[str, Any]:
        """The keys that are set, with their values."""
        return {key: value for key, value in asdict(self).items() if value is not UNSET}


class TaskFile(Struct, frozen=True, kw_only=True):
    """A task file, without its tasks."""

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
    fallback: str | list[str] = []
    ignore_limit: bool = False
    limit_wait: Scalar | None = None
    max_wait: Scalar | None = None
    budget: Budget | None = None
    stall_timeout: Scalar | None = None
    ephemeral: bool = False
    output_dir: str | None = None
    worktree: bool | dict[str, Any] | None = None  # a default of the tasks
    check: str | list[str] | None = None
    check_timeout: Scalar | None = None
    rounds: int | None = None
    protect: str | list[str] | None = None
    expect_change: bool | None = None
    stop_on_failure: bool = True
    pass_working_dir: bool = False
    pass_session: bool = False
    repeat: Any = None
