"""What makes a manifest unusable, though each of its keys has the right type."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from clinvk.backend.manifest import ARGV, EVENTS, Manifest, manifest_error
from clinvk.backend.versions.number import parse_version
from clinvk.text import values
from clinvk.text.typed import format_path


def check_manifest(manifest: Manifest) -> None:
    """Raise `ConfigError` for the first problem."""
    for find_problem in (
        _argv_problem, _rules_problem, _ephemeral_problem, _versions_problem, _state_problem,
        _screen_problem, _patterns_problem,
    ):  # fmt: skip
        if problem := find_problem(manifest):
            raise manifest_error(manifest, problem)


def check_values(manifest: Manifest, data: Any) -> None:
    """Raise an error for a text that cannot be a word, a variable or a path."""
    for place, text in values.texts(data):
        problem = values.text_problem(text)
        if len(place) > 1 and place[-2] in ("env", "literal") and place[-1] == text:
            problem = values.name_problem(text)
        if problem:
            raise manifest_error(manifest, f"{format_path(place)}: {problem}")


def _argv_problem(manifest: Manifest) -> str | None:
    """What is wrong with the command lines."""
    if "run" not in manifest.argv:
        return "argv: missing key 'run'"
    for shape, words in manifest.argv.items():
        if shape not in ARGV:
            return f"argv.{shape}: not one of: {', '.join(ARGV)}"
        if problem := _words_problem(manifest, shape, words):
            return f"argv.{shape}{problem}"
    return None


def _rules_problem(manifest: Manifest) -> str | None:
    """What is wrong with the rules for lines."""
    for place, rule in manifest.all_rules():
        if rule.emit is not None and rule.emit not in EVENTS:
            return f"{format_path(place)}.emit: not one of: {', '.join(EVENTS)}"
        if rule.emit is None and not rule.events:
            return f"{format_path(place)}: neither 'emit' nor 'events'"
    return None


def _ephemeral_problem(manifest: Manifest) -> str | None:
    if manifest.ephemeral and manifest.ephemeral.remove and not manifest.native_id:
        return "ephemeral.remove: missing key 'native_id': the pattern that an id has to match"
    return None


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
        if problem := _words_problem(manifest, shape, words or []):
            return f"interactive.{shape}{problem}"
        if "$prompt" in " ".join(words or []):
            return f"interactive.{shape}: $prompt is typed into the screen; leave it out"
    return None


def _words_problem(manifest: Manifest, shape: str, words: list[str]) -> str | None:
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


def _patterns_problem(manifest: Manifest) -> str | None:
    """What is wrong with the regular expressions."""
    for where, pattern in _patterns(manifest):
        try:
            re.compile(pattern or "")
        except (re.error, RecursionError, OverflowError) as error:
            return f"{where}: {error}"
    return None


def _patterns(manifest: Manifest) -> Iterator[tuple[str, str | None]]:
    yield "native_id", manifest.native_id
    yield "stderr_message", manifest.stderr_message
    if manifest.native_id_in:
        yield "native_id_in.stderr", manifest.native_id_in.stderr
        yield "native_id_in.match", manifest.native_id_in.match
    for i, pattern in enumerate(manifest.noise):
        yield f"noise[{i}]", pattern
    for i, rule in enumerate(manifest.errors):
        yield f"errors[{i}].match", rule.match
    for i, rule in enumerate(manifest.errors):
        yield f"errors[{i}].model", rule.model
    for i, escape in enumerate(manifest.prompt.escape):
        yield f"prompt.escape[{i}].match", escape.match
