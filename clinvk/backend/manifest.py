"""The manifest of a backend: how to call one CLI and how to read its output.

`docs/manifests.md` describes every key; those in `backends/` are the examples.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from msgspec import Struct, field, to_builtins
from msgspec.structs import replace

from clinvk.backend.versions.number import is_older, parse_version
from clinvk.errors import ConfigError
from clinvk.model.option_table import CHOICES
from clinvk.text import values, yaml
from clinvk.text.typed import ShapeError, build_struct, format_path

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


def parse_manifest(text: str | bytes, source: Path) -> Manifest:
    """The manifest in `text`. Raises `ConfigError` that names manifest, place and reason."""
    try:
        data = yaml.load(text)
    except yaml.YamlError as error:
        raise ConfigError(f"{source}: {error}") from error
    name = data.get("name") if isinstance(data, dict) else None
    try:
        known = {**data, "source": str(source)} if isinstance(data, dict) else data
        manifest = build_struct(Manifest, known)
        options = dict(_option_effects(manifest.options))
    except ShapeError as error:
        raise ConfigError(f"{name or source.stem}: {error}", f"the file is {source}") from error
    _check(manifest)
    _check_values(manifest, data)
    return replace(manifest, options=options)


def for_version(manifest: Manifest, version: str) -> Manifest:
    """The manifest as it applies to this version of the CLI. Raises `ConfigError`."""
    for i, change in enumerate(manifest.by_version):
        if change.applies_to(version):
            manifest = for_change(manifest, change, i, version)
    return manifest


def for_change(
    manifest: Manifest, change: VersionChange, number: int = 0, version: str = ""
) -> Manifest:
    """The manifest with one of its changes, whose number is for messages. Raises
    `ConfigError`."""
    path = ("by_version", number)
    since = f"since {change.below}" if change.below else f"before {change.since}"
    reason = f"{manifest.name} has it {since}, and this is {version}"
    options, missing = _changed_options(manifest, change.options, reason, path)
    try:
        prompt = prompt_after(manifest, change, (*path, "prompt"))
    except ShapeError as error:
        raise _manifest_error(manifest, str(error)) from error
    argv = {k: v for k, v in {**manifest.argv, **change.argv}.items() if v is not None}
    env = {**manifest.env, **change.env}
    changed = replace(
        manifest, argv=argv, env=env, options=options, prompt=prompt, missing=missing,
        ephemeral=change.ephemeral or manifest.ephemeral,
        new_id_on_resume=(
            manifest.new_id_on_resume if change.new_id_on_resume is None else change.new_id_on_resume
        ),
        sums_per_run=(
            manifest.sums_per_run if change.sums_per_run is None else change.sums_per_run
        ),
    )  # fmt: skip
    _check(changed)
    return changed


def prompt_after(
    manifest: Manifest, change: VersionChange, path: tuple[str | int, ...] = ()
) -> PromptSpec:
    """How prompts are passed with this change. Raises `ShapeError`, which cannot happen for a
    manifest that was read from a file."""
    if not change.prompt:
        return manifest.prompt
    return _prompt_after(Same(manifest.prompt), Same(change), path)


class Same:
    """An object as a key: equal only to itself, and kept alive, so that its address is not reused."""

    __slots__ = ("it",)

    def __init__(self, it: Any) -> None:
        self.it = it

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Same) and self.it is other.it

    def __hash__(self) -> int:
        return id(self.it)


@lru_cache(64)  # each prompt asks
def _prompt_after(prompt: Same, change: Same, path: tuple[str | int, ...]) -> PromptSpec:
    return build_struct(PromptSpec, {**to_builtins(prompt.it), **change.it.prompt}, path)


def for_screen(manifest: Manifest) -> Manifest:
    """The manifest as it applies to the CLI's own screen: `run` starts it, and `resume` opens it on
    a session. Unchanged without `interactive`. Raises `ConfigError`."""
    screen = manifest.interactive
    if screen is None:
        return manifest
    options, missing = _changed_options(
        manifest, screen.options, "its own screen lacks it", ("interactive",)
    )
    argv = {"run": screen.start or [], "resume": screen.resume}
    return replace(
        manifest, argv={k: v for k, v in argv.items() if v is not None}, options=options,
        missing=missing, by_version=[replace(c, argv={}) for c in manifest.by_version],
    )  # fmt: skip


def _changed_options(
    manifest: Manifest,
    changes: Mapping[str, Any],
    reason: str,
    path: tuple[str | int, ...],
) -> tuple[dict[str, Any], dict[str, str]]:
    """The options with these changes, and the ones that are then missing, each with the reason.
    Raises `ConfigError`."""
    options, missing = dict(manifest.options), dict(manifest.missing)
    try:
        for name, value in changes.items():
            if name in CHOICES and isinstance(value, Mapping):
                mine = {k: v for k, v in value.items() if v is not None}
                lost = [k for k, v in value.items() if v is None]
                new = dict(_option_effects({name: mine}, path))[name]
                kept = {k: v for k, v in options.get(name, {}).items() if k not in lost}
                options[name] = kept | new
                missing |= {f"{name}.{k}": reason for k in lost}
            elif value is None:
                options.pop(name, None)
                missing[name] = reason
            else:
                options[name] = dict(_option_effects({name: value}, path))[name]
    except ShapeError as error:
        raise _manifest_error(manifest, str(error)) from error
    return options, missing


def check_expressions(manifest: Manifest) -> None:
    """Compile every rule, so that an error is found here and not in the middle of a run."""
    for_screen(manifest)
    for i, change in enumerate(manifest.by_version):
        for_change(manifest, change, i)
    from clinvk.backend.expression import (  # jmespath: see design note
        ExpressionError,
        compile_expression,
    )

    for place, text in _expressions(manifest.events, ("events",)):
        try:
            compile_expression(text)
        except ExpressionError as error:
            raise _manifest_error(manifest, f"{format_path(place)}: {error}") from error


def _option_effects(
    options: Mapping[str, Any], where: tuple[str | int, ...] = ()
) -> Iterator[tuple[str, Any]]:
    """The effect of each option; those with fixed values have one per value."""
    for name, value in options.items():
        path = (*where, "options", name)
        if name in CHOICES:
            if not isinstance(value, Mapping):
                raise ShapeError(path, f"expected some of: {', '.join(CHOICES[name])}")
            for choice in value:
                if choice not in CHOICES[name]:
                    raise ShapeError((*path, choice), f"not one of: {', '.join(CHOICES[name])}")
            yield name, {k: _effect(v, (*path, k)) for k, v in value.items()}
        else:
            yield name, _effect(value, path)


def _effect(value: Any, path: tuple[str | int, ...]) -> OptionEffect:
    return build_struct(OptionEffect, {"argv": value} if isinstance(value, list) else value, path)


def _check(manifest: Manifest) -> None:
    if "run" not in manifest.argv:
        raise _manifest_error(manifest, "argv: missing key 'run'")
    for shape, words in manifest.argv.items():
        if shape not in ARGV:
            raise _manifest_error(manifest, f"argv.{shape}: not one of: {', '.join(ARGV)}")
        if problem := _argv_problem(manifest, shape, words):
            raise _manifest_error(manifest, f"argv.{shape}{problem}")
    for place, rule in _rules(manifest.events, ("events",)):
        if rule.emit is not None and rule.emit not in EVENTS:
            raise _manifest_error(
                manifest, f"{format_path(place)}.emit: not one of: {', '.join(EVENTS)}"
            )
        if rule.emit is None and not rule.events:
            raise _manifest_error(manifest, f"{format_path(place)}: neither 'emit' nor 'events'")
    if manifest.ephemeral and manifest.ephemeral.remove and not manifest.native_id:
        raise _manifest_error(
            manifest,
            "ephemeral.remove: missing key 'native_id': the pattern that an id has to match",
        )
    if problem := _versions_problem(manifest):
        raise _manifest_error(manifest, problem)
    if problem := _state_problem(manifest) or _screen_problem(manifest):
        raise _manifest_error(manifest, problem)
    patterns = [("native_id", manifest.native_id), ("stderr_message", manifest.stderr_message)]
    if manifest.native_id_in:
        patterns += [
            ("native_id_in.stderr", manifest.native_id_in.stderr),
            ("native_id_in.match", manifest.native_id_in.match),
        ]
    patterns += [(f"noise[{i}]", pattern) for i, pattern in enumerate(manifest.noise)]
    patterns += [(f"errors[{i}].match", rule.match) for i, rule in enumerate(manifest.errors)]
    patterns += [(f"errors[{i}].model", rule.model) for i, rule in enumerate(manifest.errors)]
    patterns += [
        (f"prompt.escape[{i}].match", e.match) for i, e in enumerate(manifest.prompt.escape)
    ]
    for where, pattern in patterns:
        try:
            re.compile(pattern or "")
        except (re.error, RecursionError, OverflowError) as error:
            raise _manifest_error(manifest, f"{where}: {error}") from error


def _versions_problem(manifest: Manifest) -> str | None:
    """What is wrong with the versions."""
    given = [("versions.oldest", manifest.versions.oldest)]
    given.append(("versions.newest", manifest.versions.newest))
    for i, change in enumerate(manifest.by_version):
        if change.below is None and change.since is None:
            return f"by_version[{i}]: missing key 'below' or 'since'"
        given += [
            (f"by_version[{i}].below", change.below),
            (f"by_version[{i}].since", change.since),
        ]
    for where, version in given:
        try:
            parse_version(version or "0")
        except ValueError as error:
            return f"{where}: {error}"
    return None


def _state_problem(manifest: Manifest) -> str | None:
    """What is wrong with where a session is kept."""
    where = manifest.native_id_in
    if where and (where.stderr is None) == (where.file is None):
        return "native_id_in: expected one of 'stderr' and 'file'"
    if where and where.file and not where.file.startswith("$scratch/"):
        return (
            "native_id_in.file: expected $scratch/NAME: a file elsewhere may be of another run; "
            "pass it with a flag or a variable of the CLI"
        )
    if manifest.state is None:
        return None
    if not re.fullmatch(r"[\w-][\w.-]{0,63}", manifest.state):
        return f"state: {manifest.state!r} is not the name of a file"
    if manifest.native_id is not None or where:
        return "state: the session is that file, so it has no native id to read"
    return None


def _screen_problem(manifest: Manifest) -> str | None:
    """What is wrong with the command lines of its own screen."""
    screen = manifest.interactive
    if screen is None:
        return None
    if screen.start is None and screen.resume is None:
        return "interactive: neither 'start' nor 'resume'"
    for shape, words in (("start", screen.start), ("resume", screen.resume)):
        if problem := _argv_problem(manifest, shape, words or []):
            return f"interactive.{shape}{problem}"
        if "$prompt" in " ".join(words or []):
            return f"interactive.{shape}: $prompt is typed into the screen; leave it out"
    return None


def _argv_problem(manifest: Manifest, shape: str, words: list[str]) -> str | None:
    """What is wrong with the placeholders of a command line, after its name."""
    after_dashes = words.index("--") if "--" in words else len(words)
    for i, word in enumerate(words):
        if "$prompt" in word and word.startswith("$prompt") and i < after_dashes:
            return (
                f"[{i}]: {word!r} could be taken for an option; attach it to one, such as "
                "--prompt=$prompt, or put it after '--'"
            )
        if word == "$options" and i > after_dashes:
            return f"[{i}]: $options comes after '--', so they would be part of the prompt"
        if "$new_id" in word and shape == "resume":
            return f"[{i}]: $new_id names a new session, and this resumes one; use $native_id"
        if "$state" in word and manifest.state is None:
            return f"[{i}]: $state needs the key 'state': the name of the file"
    return None


def _check_values(manifest: Manifest, data: Any) -> None:
    """Raise an error for a text that cannot be a word, a variable or a path."""
    for place, text in values.texts(data):
        problem = values.text_problem(text)
        if len(place) > 1 and place[-2] in ("env", "literal") and place[-1] == text:
            problem = values.name_problem(text)
        if problem:
            raise _manifest_error(manifest, f"{format_path(place)}: {problem}")


def all_rules(rules: list[EventRule]) -> Iterator[EventRule]:
    """The rules, and those inside them."""
    return (rule for _, rule in _rules(rules, ()))


def _rules(
    rules: list[EventRule], path: tuple[str | int, ...]
) -> Iterator[tuple[tuple[str | int, ...], EventRule]]:
    for i, rule in enumerate(rules):
        yield (*path, i), rule
        yield from _rules(rule.events, (*path, i, "events"))


def _expressions(
    rules: list[EventRule], path: tuple[str | int, ...]
) -> Iterator[tuple[tuple[str | int, ...], str]]:
    for place, rule in _rules(rules, path):
        for key in ("when", "each"):
            if text := getattr(rule, key):
                yield (*place, key), text
        for key, text in rule.set.items():
            yield (*place, "set", key), text


def _manifest_error(manifest: Manifest, problem: str) -> ConfigError:
    return ConfigError(f"{manifest.name}: {problem}", f"the file is {manifest.source}")


def capabilities(manifest: Manifest) -> list[str]:
    """What the backend supports, derived from its manifest."""
    found = [shape for shape in ("resume", "fork") if shape in manifest.argv]
    return [*found, *(["ephemeral"] if manifest.ephemeral or manifest.state else [])]
