"""The options of a turn, each defined once.

From this table come the command line's flags and their help, the keys of the configuration and of
tasks, what a session stores, the checks of all of these, and the reference in the documentation.
A new option is an entry here, and a line in the manifest of each backend that supports it.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

from msgspec import Struct

Group = Literal[
    "Input", "Session", "Context", "Model and options", "Safety", "Checks", "Limits", "Output"
]
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
    help_of_runs: str = ""  # for commands that run many tasks, if it differs
    group: Group = "Model and options"  # the heading in --help
    minimum: float | None = None
    maximum: float | None = None
    off_flag: str | None = None  # that sets a bool to false; without both flags, it is unset
    repeatable: bool = False  # the value is a list
    optional_value: bool = False  # without one, the value is True; one is given as --flag=VALUE
    path: Literal["directory", "file"] | None = None  # what it names; for a file, its text is used
    duration: bool = False  # of a number of seconds: `90s`, `5m` and `2h` are taken, too
    key: str | None = None  # another name in the configuration and task files
    config_name: str | None = None  # another name in the configuration only
    config: tuple[Literal["unified_flags", "backends"], ...] = ()  # sections that have it
    stored: bool = False  # a session keeps it for its later turns
    keepable: bool = False  # `sessions options` may keep it for later prompts
    everywhere: bool = False  # clinvk does it for a backend that cannot be told
    backend_specific: bool = False  # its values mean nothing to another backend
    task_key: bool = True  # a task may have it
    droppable: bool = False  # not an error in a task if the backend lacks it; 0 means unset
    flag_of_runs: bool = False  # commands that run many tasks have the flag, too
    beside: str | None = None  # the parameter that it follows in --help
    ranked: tuple[str, ...] = ()  # the choices by what they permit, the least first
    harmless: bool = False  # no value permits a backend more than another
    strict: bool = False  # never dropped: to run without it is never intended
    own: bool = False  # clinvk does it by itself: no manifest mentions it
    context: bool = False  # adds to the prompt: a turn that only corrects an answer has it already

    @property
    def choices(self) -> tuple[str, ...]:
        return () if isinstance(self.type, type) else get_args(self.type)

    @property
    def config_key(self) -> str:
        return self.config_name or self.key or self.name

    @property
    def task_keys(self) -> tuple[str, ...]:
        """The name of its key in a task."""
        names = (self.name, self.key) if self.key else (self.name,)
        return names if self.task_key else ()


# Options that are passed to the backend, by their names in manifests.
OPTIONS = (
    Option(
        name="model",
        flag="--model",
        short="-m",
        metavar="MODEL",
        help="Model to use, as the backend names it.",
        config=("backends",),
        stored=True,
        keepable=True,
        backend_specific=True,
        flag_of_runs=True,
        beside="backend",
        harmless=True,
    ),
    Option(
        name="approval",
        type=Approval,
        flag="--approval",
        metavar="MODE",
        help="What runs without approval. default: as the CLI decides; auto: edit files without "
        "asking; none: never ask; always: refuse anything that needs approval.",
        group="Safety",
        key="approval_mode",
        config=("unified_flags", "backends"),
        stored=True,
        strict=True,
        flag_of_runs=True,
        ranked=("always", "default", "auto", "none"),
    ),
    Option(
        name="sandbox",
        type=Sandbox,
        flag="--sandbox",
        metavar="MODE",
        help="What the backend may change: default, read-only, workspace or full.",
        group="Safety",
        key="sandbox_mode",
        config=("unified_flags", "backends"),
        stored=True,
        strict=True,
        flag_of_runs=True,
        ranked=("read-only", "default", "workspace", "full"),
    ),
    Option(
        name="system_prompt",
        flag="--system-prompt",
        metavar="TEXT",
        help="Extra system instructions.",
        config=("backends",),
        stored=True,
        harmless=True,
    ),
    Option(
        name="add_dir",
        flag="--add-dir",
        metavar="DIR",
        help="Let the backend work in this directory, too (repeatable).",
        group="Safety",
        repeatable=True,
        path="directory",
        stored=True,
    ),
    Option(
        name="max_turns",
        type=int,
        flag="--max-turns",
        metavar="N",
        help="Limit the model calls of each turn.",
        group="Limits",
        minimum=1,
        config=("unified_flags",),
        droppable=True,
    ),
    Option(
        name="max_tokens",
        type=int,
        flag="--max-tokens",
        metavar="N",
        help="Limit the output tokens of each model call.",
        group="Limits",
        minimum=1,
        config=("unified_flags",),
        droppable=True,
        keepable=True,
    ),
    Option(
        name="temperature",
        type=float,
        flag="--temperature",
        metavar="X",
        help="Randomness of the answer, from 0 to 2.",
        minimum=0,
        maximum=2,
        keepable=True,
        harmless=True,
    ),
    Option(
        name="top_p",
        type=float,
        flag="--top-p",
        metavar="X",
        help="Sample from the most probable tokens with this probability in total, from 0 to 1.",
        minimum=0,
        maximum=1,
        keepable=True,
        harmless=True,
    ),
    Option(
        name="frequency_penalty",
        type=float,
        flag="--frequency-penalty",
        metavar="X",
        help="Penalty for tokens by how often they occurred, from -2 to 2.",
        minimum=-2,
        maximum=2,
        keepable=True,
        harmless=True,
    ),
    Option(
        name="presence_penalty",
        type=float,
        flag="--presence-penalty",
        metavar="X",
        help="Penalty for tokens that occurred at all, from -2 to 2.",
        minimum=-2,
        maximum=2,
        keepable=True,
        harmless=True,
    ),
    Option(
        name="stop",
        help="Text at which the answer ends.",
        keepable=True,
        task_key=False,
        harmless=True,
    ),
    Option(
        name="allowed_tools",
        flag="--allowed-tools",
        metavar="TOOL",
        help="Tool that needs no approval (repeatable).",
        group="Safety",
        repeatable=True,
        config=("backends",),
        stored=True,
        backend_specific=True,
    ),
    Option(
        name="schema",
        flag="--schema",
        metavar="FILE",
        help="JSON schema that the answer has to match; `findings` is built in.",
        group="Output",
        path="file",
    ),
    Option(
        name="schema_retries",
        type=int,
        flag="--schema-retries",
        metavar="N",
        help="Ask at most N more times for an answer that matches the schema (default: 1).",
        group="Output",
        minimum=0,
        config=("unified_flags",),
        harmless=True,
        own=True,
    ),
    Option(
        name="planning",
        type=bool,
        flag="--planning",
        help="Ask for a plan and change nothing: in the CLI's plan mode, or read-only.",
        group="Context",
        flag_of_runs=True,
        strict=True,
        harmless=True,
    ),
    Option(
        name="skill_set",
        flag="--skill-set",
        metavar="NAME",
        help="Use this skill for the prompt (repeatable); see: clinvk skills list.",
        help_of_runs="Use this skill for each task (repeatable); see: clinvk skills list.",
        group="Context",
        repeatable=True,
        flag_of_runs=True,
        harmless=True,
        own=True,
        context=True,
    ),
    Option(
        name="memory",
        type=bool,
        flag="--memory",
        help="Add the stored notes of the directory to the prompt; see: clinvk memory.",
        group="Context",
        flag_of_runs=True,
        harmless=True,
        own=True,
        context=True,
    ),
    Option(
        name="fast_context",
        flag="--fast-context",
        metavar="DIR",
        help="Add the files below this directory to the prompt (repeatable).",
        group="Context",
        repeatable=True,
        path="directory",
        flag_of_runs=True,
        harmless=True,
        own=True,
        context=True,
    ),
    Option(
        name="knowledge",
        flag="--knowledge",
        metavar="DIR",
        help="Add passages that match the prompt: of the documents below DIR, or of earlier sessions.",
        group="Context",
        optional_value=True,
        path="directory",
        flag_of_runs=True,
        harmless=True,
        own=True,
        context=True,
    ),
    Option(
        name="check",
        flag="--check",
        metavar="CMD",
        help="Run this shell command afterwards; if it fails, so does the prompt (repeatable).",
        help_of_runs="Run this shell command after each task; if it fails, so does the task "
        "(repeatable).",
        group="Checks",
        repeatable=True,
        flag_of_runs=True,
        own=True,
    ),
    Option(
        name="rounds",
        type=int,
        flag="--rounds",
        metavar="N",
        help="Have the backend fix what the check reports, at most N times.",
        group="Checks",
        minimum=0,
        flag_of_runs=True,
        config=("unified_flags",),
        harmless=True,
        own=True,
    ),
    Option(
        name="protect",
        flag="--protect",
        metavar="GLOB",
        help="Fail if a matching file was changed, added or removed (repeatable).",
        group="Checks",
        repeatable=True,
        flag_of_runs=True,
        harmless=True,
        own=True,
    ),
    Option(
        name="check_timeout",
        type=float,
        flag="--check-timeout",
        metavar="DURATION",
        help="Stop the check after this long (default: 10m).",
        group="Checks",
        duration=True,
        config_name="check_timeout_secs",
        config=("unified_flags",),
        flag_of_runs=True,
        harmless=True,
        own=True,
    ),
    Option(
        name="expect_change",
        type=bool,
        flag="--expect-change",
        off_flag="--no-expect-change",
        help="Fail if no file was changed, or allow it (the default).",
        group="Checks",
        flag_of_runs=True,
        harmless=True,
        own=True,
    ),
    Option(
        name="stream",
        type=bool,
        flag="--stream",
        off_flag="--no-stream",
        help="Show the answer as it arrives (the default), or each message once it is complete.",
        group="Output",
        keepable=True,
        everywhere=True,
        task_key=False,
        harmless=True,
    ),
)

# What clinvk itself does with a turn: no manifest mentions it.
TURN_OPTIONS = (
    Option(
        name="workdir",
        flag="--workdir",
        short="-w",
        metavar="DIR",
        help="Work in this directory; none: in an empty one.",
        group="Input",
        path="directory",
    ),
    Option(
        name="expand",
        type=bool,
        flag="--expand",
        help="Let the CLI expand @path and /command in the prompt.",
        group="Input",
        task_key=False,
    ),
    Option(
        name="title",
        flag="--title",
        metavar="TITLE",
        help="Title of the session.",
        group="Session",
    ),
    Option(
        name="tags",
        flag="--tag",
        metavar="TAG",
        help="Add a tag to the session (repeatable).",
        help_of_runs="Add a tag to each session (repeatable).",
        group="Session",
        repeatable=True,
    ),
    Option(
        name="ephemeral",
        type=bool,
        flag="--ephemeral",
        help="Do not save a session, in clinvk or in the CLI.",
        group="Session",
        task_key=False,
    ),
    Option(
        name="no_wait",
        type=bool,
        flag="--no-wait",
        help="Fail, with exit code 4, if the session is busy.",
        group="Session",
        task_key=False,
    ),
    Option(
        name="lenient",
        type=bool,
        flag="--lenient",
        help="Drop options that the backend does not support, except --approval and --sandbox.",
    ),
    Option(
        name="verbose",
        type=bool,
        flag="--verbose",
        short="-v",
        help="Show tool calls and thinking on stderr.",
        group="Output",
        config=("unified_flags",),
    ),
    Option(
        name="dry_run",
        type=bool,
        flag="--dry-run",
        help="Print the command and where each setting comes from; run nothing.",
        help_of_runs="Print the tasks; run nothing.",
        group="Safety",
        config=("unified_flags",),
    ),
    Option(
        name="fail_on_denied",
        type=bool,
        flag="--fail-on-denied",
        help="Exit with 1 if a tool was denied.",
        group="Safety",
        task_key=False,
    ),
    Option(
        name="timeout",
        type=float,
        flag="--timeout",
        metavar="DURATION",
        help="Stop after this long: 90, 90s, 5m or 2h.",
        help_of_runs="Stop each task after this long: 90, 90s, 5m or 2h.",
        group="Limits",
        duration=True,
        config_name="command_timeout_secs",
        config=("unified_flags",),
    ),
    Option(
        name="stall_timeout",
        type=float,
        flag="--stall-timeout",
        metavar="DURATION",
        help="Stop after this long without output.",
        help_of_runs="Stop each task after this long without output.",
        group="Limits",
        duration=True,
    ),
    Option(
        name="exit_timeout",
        type=float,
        help="Seconds without an event after which a CLI that has reported its result is ended.",
        group="Limits",
        config_name="exit_timeout_secs",
        config=("unified_flags",),
        task_key=False,
    ),
    Option(
        name="on_limit",
        flag="--on-limit",
        metavar="ACTION",
        help="What to do at a rate limit: fail (the default), wait or switch:BACKEND.",
        group="Limits",
        task_key=False,
        config=("unified_flags",),
    ),
    Option(
        name="max_wait",
        type=float,
        flag="--max-wait",
        metavar="DURATION",
        help="Wait at most this long for a rate limit: 90s, 30m.",
        group="Limits",
        duration=True,
        task_key=False,
        config_name="max_wait_secs",
        config=("unified_flags",),
    ),
    Option(
        name="fallback",
        flag="--fallback",
        metavar="BACKEND",
        help="Continue on this backend at a rate limit: codex or codex,gemini (repeatable).",
        help_of_runs="Use this backend during a rate limit: codex or codex,gemini (repeatable).",
        group="Limits",
        repeatable=True,
        task_key=False,
        config=("unified_flags",),
    ),
    Option(
        name="ignore_limit",
        type=bool,
        flag="--ignore-limit",
        help="Try even if the backend has reported a rate limit.",
        group="Limits",
        task_key=False,
    ),
)

ALL_OPTIONS = OPTIONS + TURN_OPTIONS
BY_NAME = {option.name: option for option in ALL_OPTIONS}
BY_FLAG = {option.flag: option for option in ALL_OPTIONS if option.flag}
OWN_OPTIONS = tuple(option.name for option in OPTIONS if option.own)
CONTEXT_OPTIONS = tuple(option.name for option in OPTIONS if option.context)
FLAGS = {option.name: option.flag for option in OPTIONS if option.flag}
STRICT = tuple(option.name for option in OPTIONS if option.strict)
CHOICES = {option.name: option.choices for option in OPTIONS if option.choices}


def options_in(section: str) -> list[Option]:
    """The options of a backend that have a key in this section of the configuration."""
    return [option for option in OPTIONS if section in option.config]


def turn_options_in(section: str) -> list[Option]:
    """The other options of a turn that have one."""
    return [option for option in TURN_OPTIONS if section in option.config]
