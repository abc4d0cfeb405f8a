"""Build a command from a manifest and the settings of a turn."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from clinvk.backend.manifest import EphemeralSpec, Manifest, OptionEffect, PromptSpec
from clinvk.backend.native import state_path
from clinvk.backend.patterns import Patterns
from clinvk.backend.permissions import PLANNING, planning_problem
from clinvk.errors import ConfigError, SessionError, UsageError
from clinvk.model.option_table import CHOICES, OPTIONS, OWN_OPTIONS
from clinvk.process.command import Command
from clinvk.text.values import os_problem, sound

EVERYWHERE = tuple(option.name for option in OPTIONS if option.everywhere or option.own)

BESIDE = (*EVERYWHERE, PLANNING)  # options that a manifest may lack

ARGUMENT_BYTES = 131_071  # Linux: MAX_ARG_STRLEN, 32 pages less the final NUL

PLACEHOLDER = re.compile(r"\$(?:file|json|native_id|new_id|prompt|scratch|state|value)(?!\w)")

# For a backend whose manifest has no `ephemeral`.
KEEPS_HINT = (
    "leave out --ephemeral, since the CLI would save the conversation; if it has a flag against "
    "that, set it in the manifest: ephemeral: {argv: [--no-session]}"
)


def build_command(
    manifest: Manifest,
    program: str,
    *,
    prompt: str,
    options: Mapping[str, Any],
    cwd: Path,
    env: Mapping[str, str],
    temp_dir: Path,
    home: Path | None = None,
    native_id: str | None = None,
    fork: bool = False,
    ephemeral: bool = False,
    expand: bool = False,
    args: Iterable[str] = (),
) -> Command:
    """The command of one turn: of a new native session, of the one that `native_id` names, or of a
    `fork` of that one. Raises `UsageError` for a prompt that the CLI would refuse or truncate and
    for text that cannot be passed to a program, `SessionError` for an invalid native id."""
    check_native_id(manifest, native_id)
    text, notices = _prompt_text(manifest, prompt, expand=expand)
    check_arguments(manifest, options)
    shape = argv_shape(manifest, native_id=native_id, fork=fork, ephemeral=ephemeral)
    new_id = new_native_id() if manifest.state or uses(shape, "$new_id") else None
    if native_id and not fork:
        new_id = None
    args, env = [sound(word) for word in args], {k: sound(v) for k, v in env.items()}
    filler = _TemplateFiller(temp_dir)
    state = None
    if manifest.state and home and not ephemeral:
        state = state_path(home, manifest, new_id or native_id or "")
    if manifest.state:
        filler.used = state is None
        filler.own["$state"] = str(state or temp_dir / manifest.state)
    effects = option_effects(manifest, options)
    flags = [
        word
        for effect, value in effects
        for word in filler.fill_words(effect.when_false if value is False else effect.argv, value)
    ]
    changes = manifest_env(manifest, env, lambda v: filler.fill(v, {}) if "$" in v else v)
    if not expand:
        changes |= manifest.prompt.literal
    for effect, value in effects:
        changes |= {k: filler.fill_word(v, value) for k, v in effect.env.items()}
    removals: tuple[tuple[str, str], ...] = ()
    if ephemeral:
        forget = _ephemeral(manifest)
        flags += [filler.fill(word, {}) for word in forget.argv]
        changes |= {k: filler.fill_word(v, "") for k, v in forget.env.items()}
        removals = tuple((r.glob, r.owner) for r in forget.remove)
    words = {"$native_id": native_id, "$new_id": new_id, "$prompt": text}
    if "$options" not in shape and (lost := [*flags, *args]):
        raise _dropped(manifest, lost)
    argv: list[str] = []
    prompt_at = None
    for word in shape:
        if word == "$options":
            argv += [*flags, *args]
            continue
        if uses([word], "$prompt"):
            _check_prompt_argument(manifest, word, text)
            prompt_at = len(argv) + 1, word
        argv.append(filler.fill(word, words) if "$" in word else word)
    child_env = changed_env(env, changes)
    _check_words(manifest, argv, child_env)
    return Command(
        argv=(program, *argv),
        env=child_env,
        cwd=cwd,
        stdin=b"" if prompt_at else _to_bytes(text),
        new_id=None if ephemeral else new_id,
        state=state,
        prompt_at=prompt_at,
        env_changes={k: v for k, v in changes.items() if v is not None or k in env},
        files=tuple(filler.files),
        removals=removals,
        temp_dir=temp_dir if filler.used else None,
        notices=tuple(notices),
    )


def _prompt_text(manifest: Manifest, prompt: str, *, expand: bool) -> tuple[str, list[str]]:
    """What is sent as the prompt, and notices about it. Raises `UsageError`."""
    valid = sound(prompt)
    text, notices = (
        (valid, []) if expand else escape_prompt(manifest.prompt, valid, manifest.source)
    )
    if valid != prompt:
        notices.append("the prompt had halves of characters, which were replaced by U+FFFD")
    check_length(manifest, text, _to_bytes(text))
    return text, notices


def argv_shape(
    manifest: Manifest, *, native_id: str | None, fork: bool, ephemeral: bool
) -> list[str]:
    """The arguments of the manifest for this kind of turn."""
    name = "fork" if fork else "resume" if native_id else "ephemeral" if ephemeral else "run"
    return manifest.argv.get(name) or manifest.argv["run"]


def new_native_id() -> str:
    """A random UUID (version 4), as `uuid.uuid4` makes them."""
    digits = bytearray(os.urandom(16))
    digits[6] = digits[6] & 0x0F | 0x40
    digits[8] = digits[8] & 0x3F | 0x80
    text = digits.hex()
    return "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))


def uses(words: Iterable[str], placeholder: str) -> bool:
    """Whether one of the words contains the placeholder."""
    return any(placeholder in word and placeholder in PLACEHOLDER.findall(word) for word in words)


def _to_bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _check_prompt_argument(manifest: Manifest, token: str, text: str) -> None:
    """Raise `UsageError` if the text cannot take the place of `$prompt` in this argument."""
    size = len(_to_bytes(text))
    limit = ARGUMENT_BYTES - len(_to_bytes(token.replace("$prompt", "")))
    if size > limit:
        raise _too_long(manifest, f"{size:,} bytes", f"{limit:,} bytes")
    if "\0" in text:
        raise UsageError(
            f"the prompt has a NUL character, and {manifest.name} takes it as an argument",
            "remove that character",
        )


def explain_unsupported(
    manifest: Manifest, name: str, value: Any, spelled: str | None = None
) -> str | None:
    """Why the backend cannot do `name: value`, or None if it can. `spelled` is the flag that the
    user typed for it."""
    if name in CHOICES:
        if value not in CHOICES[name]:
            return f"{spelled or name}: {value!r} is not one of: {', '.join(CHOICES[name])}"
        if value == "default" or value in manifest.options.get(name, ()):
            return None
        can = ["default", *manifest.options.get(name, ())]
        what = f"{spelled} {value}" if spelled else f"{name} {value!r}"
        if reason := manifest.missing.get(f"{name}.{value}") or manifest.missing.get(name):
            return f"{manifest.name} cannot enforce {what}: {reason}"
        return f"{manifest.name} cannot enforce {what} (supported: {', '.join(can)})"
    if name in EVERYWHERE or name in OWN_OPTIONS:
        return None
    if name == PLANNING:
        return planning_problem(manifest, spelled) if value else None
    if name not in manifest.options and name in manifest.missing:
        return f"{manifest.name} does not support {spelled or name}: {manifest.missing[name]}"
    if name not in manifest.options:
        if spelled:
            return f"{manifest.name} does not support {spelled}"
        return f"{manifest.name} has no option {name!r}"
    return None


def option_effects(
    manifest: Manifest, options: Mapping[str, Any]
) -> list[tuple[OptionEffect, Any]]:
    """The effect and value of each option, in the manifest's order, including implied ones."""
    return list(_named_effects(manifest, options).values())


def _named_effects(
    manifest: Manifest, options: Mapping[str, Any]
) -> dict[str, tuple[OptionEffect, Any]]:
    given = {k: v for k, v in options.items() if v is not None and v not in ([], (), "default")}
    given = {k: v for k, v in given.items() if k in manifest.options or k not in BESIDE}
    for name, value in list(given.items()):
        effect = _effect(manifest, name, value)
        for implied, choice in effect.implies.items():
            given.setdefault(implied, choice)
    return {
        name: (_effect(manifest, name, given[name]), given[name])
        for name in manifest.options
        if name in given
    }


def escape_prompt(prompt: PromptSpec, text: str, source: str) -> tuple[str, list[str]]:
    """The text escaped so that the CLI does not expand any of it, and notices about that. The rules
    are from the manifest in the file `source`. Raises `ConfigError` if they take too long."""
    notices = []
    patterns = Patterns(source)
    for rule in prompt.escape:
        text, count = patterns.replace(rule.match, rule.replace, text)
        if count and rule.notice:
            notices.append(f"{rule.what} is passed as text ({count} place{'s' * (count > 1)})")
    return text, notices


def check_length(manifest: Manifest, text: str, data: bytes) -> None:
    """Raise `UsageError` for text above the CLI's limit: it is refused, never truncated."""
    chars, size = manifest.prompt.limit_chars, manifest.prompt.limit_bytes
    if chars is not None and len(text) > chars:
        raise _too_long(manifest, f"{len(text):,} characters", f"{chars:,} characters")
    if size is not None and len(data) > size:
        raise _too_long(manifest, f"{len(data):,} bytes", f"{size:,} bytes")


def check_arguments(manifest: Manifest, options: Mapping[str, Any]) -> None:
    """Raise `UsageError` for an option whose value is too long for the command line, if this CLI
    takes it there."""
    for name, (effect, value) in _named_effects(manifest, options).items():
        made = _TemplateFiller(Path("/"))
        words = [
            *made.fill_words(effect.argv, value),
            *(f"{k}={made.fill_word(v, value)}" for k, v in effect.env.items()),
        ]
        longest = max((len(word.encode("utf-8", "replace")) for word in words), default=0)
        if longest > ARGUMENT_BYTES:
            raise UsageError(
                f"{name} has {longest:,} bytes; {manifest.name} takes it as an argument, and an "
                f"argument has at most {ARGUMENT_BYTES:,}",
                "make it shorter, move part of it into the prompt, or use another backend with -b",
            )


def _check_words(manifest: Manifest, argv: list[str], env: Mapping[str, str]) -> None:
    """Raise `UsageError` for a word or a variable that cannot be passed to a program."""
    words = (("an argument", word, len(word)) for word in argv)
    variables = ((f"the variable {k}", v, len(k) + 1 + len(v)) for k, v in env.items())
    for what, text, length in (*words, *variables):
        if problem := os_problem(text):
            raise UsageError(f"{what} of {manifest.name} has {problem}: {text[:40]!r}", "remove it")
        if length > ARGUMENT_BYTES // 4:  # a character has up to four bytes
            size = length - len(text) + len(text.encode("utf-8", "surrogateescape"))
            if size > ARGUMENT_BYTES:
                raise UsageError(
                    f"{what} of {manifest.name} has more than {ARGUMENT_BYTES:,} bytes",
                    "make it shorter",
                )


def check_native_id(manifest: Manifest, native_id: str | None) -> None:
    """Raise `SessionError` for an id that is invalid for the CLI: some then silently start a new
    session."""
    if native_id is None:
        return
    if "resume" not in manifest.argv:
        raise SessionError(f"{manifest.name} cannot resume a session", "start a new one")
    if not matches_native_id(manifest, native_id):
        raise SessionError(f"{native_id!r} is not a session id of {manifest.name}")


def matches_native_id(manifest: Manifest, native_id: str) -> bool:
    """Whether the manifest's pattern allows this id. Raises `ConfigError` if it takes too long."""
    if not manifest.native_id:
        return True
    return Patterns(manifest.source).fullmatch(manifest.native_id, native_id)


def manifest_env(
    manifest: Manifest, env: Mapping[str, str], fill: Callable[[str], str] = str
) -> dict[str, str | None]:
    """The manifest's changes to this environment, with the placeholders in values replaced by
    `fill`. A name that ends in `*` stands for all variables that begin so."""
    changes: dict[str, str | None] = {}
    for name, value in manifest.env.items():
        if name.endswith("*"):
            changes |= {known: None for known in env if known.startswith(name[:-1])}
        else:
            changes[name] = value and expand_variables(fill(value), env)
    return changes


def changed_env(env: Mapping[str, str], changes: Mapping[str, str | None]) -> dict[str, str]:
    merged = dict(env)
    for name, value in changes.items():
        if value is None:
            merged.pop(name, None)
        else:
            merged[name] = value
    return merged


def expand_variables(text: str, env: Mapping[str, str]) -> str:
    """Replace `${NAME}` in a manifest's environment with the previous value of the variable."""
    return re.sub(r"\$\{(\w+)\}", lambda m: env.get(m.group(1), ""), text).strip()


def _effect(manifest: Manifest, name: str, value: Any) -> OptionEffect:
    effect = manifest.options[name]
    return effect[value] if name in CHOICES else effect  # type: ignore[no-any-return]


def _ephemeral(manifest: Manifest) -> EphemeralSpec:
    if manifest.ephemeral is None:
        if manifest.state:  # its only conversation is in a private file, which is deleted
            return EphemeralSpec()
        raise UsageError(f"{manifest.name} cannot run without saving a session", KEEPS_HINT)
    return manifest.ephemeral


def _dropped(manifest: Manifest, words: list[str]) -> ConfigError:
    return ConfigError(
        f"{manifest.name}: its manifest has no place for the arguments {' '.join(words)[:80]!r}",
        f"put $options into each command line of argv, where flags may be: {manifest.source}",
    )


def _too_long(manifest: Manifest, length: str, limit: str) -> UsageError:
    return UsageError(
        f"the prompt has {length}; {manifest.name} takes at most {limit}",
        "put the text in a file and name the file in the prompt",
    )


class _TemplateFiller:
    """Replaces placeholders in the words of a manifest; collects the private files that it
    names."""

    def __init__(self, temp_dir: Path) -> None:
        self.temp_dir = temp_dir
        self.files: list[tuple[Path, str]] = []
        self.used = False
        self.own: dict[str, str | None] = {}  # values that do not depend on the place

    def fill_words(self, template: list[str], value: Any) -> list[str]:
        """The words for one option; a list repeats them for each of its elements."""
        values = value if isinstance(value, (list, tuple)) else [value]
        return [self.fill_word(word, one) for one in values for word in template]

    def fill_word(self, template: str, value: Any) -> str:
        """A word of an option with this value."""
        if "$" not in template:
            return template
        text = sound(value) if isinstance(value, str) else json.dumps(value)
        words = {"$value": text, "$json": json.dumps(text)}
        if uses([template], "$file"):
            self.used = True
            path = self.temp_dir / f"{len(self.files)}.txt"
            self.files.append((path, text))
            words["$file"] = str(path)
        return self.fill(template, words)

    def fill(self, template: str, words: Mapping[str, str | None]) -> str:
        """The word with these placeholders replaced, and `$scratch`."""
        if uses([template], "$scratch"):
            self.used = True
            words = {**words, "$scratch": str(self.temp_dir)}
        words = {**words, **self.own}
        # In one pass: a value may contain such placeholders itself.
        return PLACEHOLDER.sub(lambda m: words.get(m.group()) or "", template)


def expand_home(path: str, env: Mapping[str, str]) -> str:
    """`~/x` in the child's home, which may differ from this process's."""
    return home_of(env) + path[1:] if path.startswith("~/") else path


def home_of(env: Mapping[str, str]) -> str:
    """The home directory of a child with this environment. Never relative: if the user has none,
    one that does not exist."""
    home = env.get("HOME") or os.path.expanduser("~")
    return "/nonexistent" if home == "~" else os.path.abspath(home)
