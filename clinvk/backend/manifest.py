"""The manifest of a backend: how to call one CLI and how to read its output.

Here is what one holds; how it is read, checked, and changed for a version of the CLI is in `reading`.
`docs/manifests.md` describes every key; those in `backends/` are the examples.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

from msgspec import Struct, field

from clinvk.backend.versions.number import is_older
from clinvk.errors import ConfigError

EVENTS = (
    "started", "delta", "text", "thinking", "tool", "tool_result",
    "denied", "notice", "rate_limit", "finished", "failed", "unfinished", "background", "nothing",
)  # fmt: skip


ARGV = ("run", "resume", "fork", "ephemeral")  # the command lines of a manifest


class OptionEffect(Struct, frozen=True):
    """The effect of an option on the command. `implies` sets other options that were not given."""

    argv: list[str] = []
    when_false: list[str] = []  # arguments if its value is false
    env: dict[str, str] = {}
    implies: dict[str, str] = {}
    overrides: list[str] = []  # options whose variables this one may replace; it comes after them
    once: bool = False  # the CLI takes it in the first turn of a session, and keeps it from then on


class EventRule(Struct, frozen=True):
    """For a line in which `when` is true: emit an event, or apply `events` to the line, or to each
    element that `each` finds in it."""

    when: str | None = None
    emit: str | None = None
    set: dict[str, str] = {}
    each: str | None = None
    events: list[EventRule] = []


class ErrorRule(Struct, frozen=True):
    """Classifies a failure by its HTTP status, by words in its message, by the exit code, or, if
    the CLI has reported no failure, by words on stderr."""

    kind: Literal["auth", "limit", "server", "session", "backend", "config", "denied", "incomplete"]
    status: list[int] = []
    exit_code: list[int] = []
    match: str | None = None  # a regular expression, case ignored
    hint: str | None = None
    model: str | None = None  # a pattern whose group is the only model that a limit applies to
    wait_factor: float = 1.0  # how much longer than usual to wait before a retry


class EscapeRule(Struct, frozen=True):
    """Text that the CLI would expand, and how to escape it."""

    match: str
    replace: str
    what: str = "text that the CLI would expand"
    notice: bool = False  # the model sees the difference, so the user is told


class PromptSpec(Struct, frozen=True):
    """How prompts are passed, by default on stdin. Above a limit they are refused, never
    truncated."""

    limit_chars: int | None = None
    limit_bytes: int | None = None
    escape: list[EscapeRule] = []
    literal: dict[str, str] = {}  # environment that keeps the CLI from expanding anything


class FileRemoval(Struct, frozen=True):
    """Files of the CLI that contain a conversation, if it has no option not to save it. `owner` is
    the JSON key with the session that a file, or an entry of a list in it, belongs to."""

    glob: str
    owner: str


class EphemeralSpec(Struct, frozen=True):
    argv: list[str] = []
    env: dict[str, str] = {}
    remove: list[FileRemoval] = []


class LoginSpec(Struct, frozen=True):
    """How to tell without a paid call whether the CLI has credentials: one of these exists."""

    env: list[str] = []
    files: list[str] = []
    hint: str | None = None
    account: list[str] = []  # `$NAME`, or `PATH#EXPRESSION`: what tells accounts apart
    files_caveat: str | None = None  # why one of the files may not be enough; `doctor` shows it
    fresh_minutes: float | None = (
        None  # for this long after a renewal, no run renews it again; see login_lock.py
    )


class VersionRange(Struct, frozen=True):
    """The versions of the CLI that the manifest was tested with."""

    oldest: str | None = None
    newest: str | None = None


class VersionChange(Struct, frozen=True):
    """What is different in some versions. Keys replace those of the manifest; null removes one."""

    below: str | None = None  # in versions before this one
    since: str | None = None  # in this version and later ones
    why: str | None = None
    argv: dict[str, list[str] | None] = {}
    env: dict[str, str | None] = {}
    prompt: dict[str, Any] = {}
    options: dict[str, Any] = {}
    ephemeral: EphemeralSpec | None = None
    new_id_on_resume: bool | None = None
    sums_per_run: bool | None = None

    def applies_to(self, version: str) -> bool:
        is_before = self.below is None or is_older(version, self.below)
        return is_before and (self.since is None or not is_older(version, self.since))


class NativeIdSource(Struct, frozen=True):
    """Where the CLI leaves the id of its session, if not in an event: on stderr, or in a file."""

    stderr: str | None = None  # a pattern; its group, or all of it, is the id
    file: str | None = None  # in $scratch, since any other may be of another run
    match: str | None = None  # a pattern in that file; without it, all of its text


class TrustSpec(Struct, frozen=True):
    """Where the CLI notes the directories that the user trusts: a JSON object of paths and levels. In
    a worktree of a trusted directory, it gets the variables of `env`."""

    files: list[str]  # the first one of which all `${NAME}` are set
    trusted: list[str]  # the levels that mean trust in a directory and all below it
    trusted_parent: list[str] = []  # those that mean trust in the directory above
    env: dict[str, str] = {}


class WorktreeSpec(Struct, frozen=True):
    """What the CLI needs in a git worktree. `copy` are patterns, as in .gitignore, of its settings:
    files that git ignores are copied."""

    copy: list[str] = []
    trust: TrustSpec | None = None


class ScreenSpec(Struct, frozen=True):
    """The CLI's own screen: the arguments that start it, and those that resume a session in it.
    `options` replace those of the manifest; null removes one that the screen lacks."""

    start: list[str] | None = None
    resume: list[str] | None = None
    options: dict[str, Any] = {}


class Manifest(Struct, frozen=True):
    name: str
    command: str
    argv: dict[str, list[str]]
    title: str = ""
    install: str | None = None
    version: list[str] = field(default_factory=lambda: ["--version"])
    versions: VersionRange = field(default_factory=VersionRange)
    by_version: list[VersionChange] = []
    env: dict[str, str | None] = {}
    session_env: list[str] = []  # the variables that decide where the CLI keeps its sessions
    prompt: PromptSpec = field(default_factory=PromptSpec)
    options: dict[str, Any] = {}
    ephemeral: EphemeralSpec | None = None
    interactive: ScreenSpec | None = None
    output: Literal["events", "json", "text"] = "events"
    native_id: str | None = None  # a pattern; ids that do not match are never passed to the CLI
    native_id_in: NativeIdSource | None = None
    default_model: list[str] = []  # the first one known, if no line names it; `$NAME`: a variable
    noise: list[str] = []  # patterns of lines that say nothing about a failure
    stderr_message: str | None = None  # a pattern; its group, or all of it, is the error message
    state: str | None = None  # a file or directory that clinvk keeps for each session, `$state`
    new_id_on_resume: bool = False  # by design, a resumed session continues under a new id
    sums_per_run: bool = False  # `usage_first` and `cost_first` are of the run, not of the session
    lost_after_error: bool = False  # a first turn that the provider rejected leaves no session
    stop: Literal["SIGINT", "SIGTERM"] = "SIGTERM"
    exit_timeout: float = 15.0  # seconds of silence after its result, after which it is ended
    background_timeout: float = 660.0  # the same while it works in the background
    events: list[EventRule] = []
    errors: list[ErrorRule] = []
    login: LoginSpec = field(default_factory=LoginSpec)
    worktree: WorktreeSpec = field(default_factory=WorktreeSpec)
    notes: list[str] = []
    source: str = ""  # the file
    # Options that the installed version lacks, each with the reason; see `for_version`.
    missing: dict[str, str] = {}

    @property
    def resumes(self) -> bool:
        return "resume" in self.argv

    def all_rules(self) -> Iterator[tuple[tuple[str | int, ...], EventRule]]:
        """The rules for lines, those inside others too, each with its place."""
        return _rules(self.events, ("events",))


def manifest_error(manifest: Manifest, problem: str) -> ConfigError:
    """An error about a manifest, with its file."""
    return ConfigError(f"{manifest.name}: {problem}", f"the file is {manifest.source}")


def capabilities(manifest: Manifest) -> list[str]:
    """What the backend supports, derived from its manifest."""
    found = [shape for shape in ("resume", "fork") if shape in manifest.argv]
    return [*found, *(["ephemeral"] if manifest.ephemeral or manifest.state else [])]


def all_rules(rules: list[EventRule]) -> Iterator[EventRule]:
    """The rules, and those inside them."""
    return (rule for _, rule in _rules(rules, ()))


def _rules(
    rules: list[EventRule], path: tuple[str | int, ...]
) -> Iterator[tuple[tuple[str | int, ...], EventRule]]:
    for i, rule in enumerate(rules):
        yield (*path, i), rule
        yield from _rules(rule.events, (*path, i, "events"))


class Same:
    """An object as a key: equal only to itself, and kept alive, so that its address is not reused."""

    __slots__ = ("it",)

    def __init__(self, it: Any) -> None:
        self.it = it

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Same) and self.it is other.it

    def __hash__(self) -> int:
        return id(self.it)
