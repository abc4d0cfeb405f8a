"""Build a command from a manifest and the settings of a turn."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from clinvk.backend.command.effects import named_effects, option_effects
from clinvk.backend.command.environment import changed_env, manifest_env
from clinvk.backend.command.placeholders import TemplateFiller, uses
from clinvk.backend.command.prompt_text import (
    ARGUMENT_BYTES,
    check_prompt_argument,
    prompt_text,
    to_bytes,
)
from clinvk.backend.manifest import EphemeralSpec, Manifest
from clinvk.backend.native import state_path
from clinvk.backend.patterns import Patterns
from clinvk.errors import ConfigError, SessionError, UsageError
from clinvk.process.command import Command
from clinvk.text.values import os_problem, sound

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
    text, notices = prompt_text(manifest, prompt, expand=expand)
    check_arguments(manifest, options)
    shape = argv_shape(manifest, native_id=native_id, fork=fork, ephemeral=ephemeral)
    new_id = new_native_id() if manifest.state or uses(shape, "$new_id") else None
    if native_id and not fork:
        new_id = None
    args, env = [sound(word) for word in args], {k: sound(v) for k, v in env.items()}
    filler = TemplateFiller(temp_dir)
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
            check_prompt_argument(manifest, word, text)
            prompt_at = len(argv) + 1, word
        argv.append(filler.fill(word, words) if "$" in word else word)
    child_env = changed_env(env, changes)
    _check_words(manifest, argv, child_env)
    return Command(
        argv=(program, *argv),
        env=child_env,
        cwd=cwd,
        stdin=b"" if prompt_at else to_bytes(text),
        new_id=None if ephemeral else new_id,
        state=state,
        prompt_at=prompt_at,
        env_changes={k: v for k, v in changes.items() if v is not None or k in env},
        files=tuple(filler.files),
        removals=removals,
        temp_dir=temp_dir if filler.used else None,
        notices=tuple(notices),
    )


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


def check_arguments(manifest: Manifest, options: Mapping[str, Any]) -> None:
    """Raise `UsageError` for an option whose value is too long for the command line, if this CLI
    takes it there."""
    for name, (effect, value) in named_effects(manifest, options).items():
        made = TemplateFiller(Path("/"))
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
    for word in argv:
        _check_word(manifest, "an argument", word, len(word))
    for name, value in env.items():
        length = len(name) + 1 + len(value)
        if length > ARGUMENT_BYTES // 4 or not value.isascii() or "\0" in value:  # nearly none
            _check_word(manifest, f"the variable {name}", value, length)


def _check_word(manifest: Manifest, what: str, text: str, length: int) -> None:
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
