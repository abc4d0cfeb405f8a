"""The options of a turn, each defined once.

From this table come the command line's flags, the keys of the configuration and of tasks, what a
session stores, and the checks of all of these. A new option is an entry here, and a line in the
manifest of each backend that supports it.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

from msgspec import Struct

Approval = Literal["default", "auto", "none", "always"]
Sandbox = Literal["default", "read-only", "workspace", "full"]


class Option(Struct, frozen=True, kw_only=True):
    """One option, by the name that manifests and `Request.options` have for it."""

    name: str
    type: Any = str  # of one value; a `Literal` lists its choices
    flag: str | None = None
    short: str | None = None
    metavar: str | None = None
    help: str = ""
    minimum: int | None = None
    repeatable: bool = False  # the value is a list
    path: Literal["directory", "file"] | None = None  # what it names; of a file, its text counts
    key: str | None = None  # another name that the configuration and files of tasks have for it
    config: tuple[Literal["unified_flags", "backends"], ...] = ()  # sections that have it
    stored: bool = False  # a session keeps it for its later turns
    backend_specific: bool = False  # its values mean nothing to another backend
    task_key: bool = True  # a task may have it
    droppable: bool = False  # a backend that lacks it is no mistake of a task; and 0 means unset
    flag_of_runs: bool = False  # commands that run many tasks have the flag, too
    beside: str | None = None  # the parameter that it follows in --help
    ranked: tuple[str, ...] = ()  # the choices by what they permit, the least first
    harmless: bool = False  # no value permits a backend more than another

    @property
    def choices(self) -> tuple[str, ...]:
        return () if isinstance(self.type, type) else get_args(self.type)

    @property
    def config_key(self) -> str:
        return self.key or self.name

    @property
    def task_keys(self) -> tuple[str, ...]:
        """What a task may call it."""
        names = (self.name, self.key) if self.key else (self.name,)
        return names if self.task_key else ()


OPTIONS = (
    Option(
        name="model",
        flag="--model",
        short="-m",
        help="The backend's name for it.",
        config=("backends",),
        stored=True,
        backend_specific=True,
        flag_of_runs=True,
        beside="backend",
        harmless=True,
    ),
    Option(
        name="approval",
        type=Approval,
        flag="--approval",
        help="auto edits unasked; none asks nothing; always refuses what it would ask.",
        key="approval_mode",
        config=("unified_flags", "backends"),
        stored=True,
        flag_of_runs=True,
        ranked=("always", "default", "auto", "none"),
    ),
    Option(
        name="sandbox",
        type=Sandbox,
        flag="--sandbox",
        help="What it may change.",
        key="sandbox_mode",
        config=("unified_flags", "backends"),
        stored=True,
        flag_of_runs=True,
        ranked=("read-only", "default", "workspace", "full"),
    ),
    Option(
        name="system_prompt",
        flag="--system-prompt",
        help="Instructions.",
        config=("backends",),
        stored=True,
        harmless=True,
    ),
    Option(
        name="add_dir",
        flag="--add-dir",
        metavar="DIR",
        help="One more folder to work in (repeatable).",
        repeatable=True,
        path="directory",
        stored=True,
    ),
    Option(
        name="max_turns",
        type=int,
        flag="--max-turns",
        help="Model calls at most.",
        minimum=1,
        config=("unified_flags",),
        droppable=True,
    ),
    Option(
        name="max_tokens",
        type=int,
        flag="--max-tokens",
        help="Limit the output tokens of each model call.",
        minimum=1,
        config=("unified_flags",),
        droppable=True,
    ),
    Option(
        name="allowed_tools",
        flag="--allowed-tools",
        help="Tools that need no approval (repeatable).",
        repeatable=True,
        config=("backends",),
        stored=True,
        backend_specific=True,
    ),
    Option(
        name="schema",
        flag="--schema",
        metavar="FILE",
        help="A JSON schema that the answer has to fit.",
        path="file",
    ),
)

BY_NAME = {option.name: option for option in OPTIONS}
FLAGS = {option.name: option.flag for option in OPTIONS if option.flag}
CHOICES = {option.name: option.choices for option in OPTIONS if option.choices}


def options_in(section: str) -> list[Option]:
    """The options that have a key in this section of the configuration."""
    return [option for option in OPTIONS if section in option.config]
