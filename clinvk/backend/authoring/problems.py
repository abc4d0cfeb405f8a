"""What is wrong with a manifest, though it can be read: each problem with its place.

Running a prompt checks less. What is found here would not fail: an option, a figure or an id would
silently be missing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from msgspec import Struct
from msgspec.structs import fields

from clinvk.backend.command_line import new_native_id
from clinvk.backend.manifest import EphemeralSpec, EventRule, Manifest, OptionEffect
from clinvk.backend.output.rules import rule_fields
from clinvk.backend.reading.expressions import check_expressions
from clinvk.backend.reading.parse import parse_manifest
from clinvk.backend.reading.variants import for_change, for_screen
from clinvk.disk.reading import read_file
from clinvk.errors import ConfigError
from clinvk.model.events import Denied
from clinvk.model.option_table import CHOICES, OPTIONS
from clinvk.model.usage import Usage
from clinvk.text import yaml
from clinvk.text.suggest import did_you_mean
from clinvk.text.typed import format_path

Place = tuple[str | int, ...]
Found = Iterator[tuple[Place, str]]

_WORD = re.compile(r"\$(\{\w*\}|\w+)")
_IN_OPTION = ("$value", "$json", "$file", "$scratch", "$state")
_IN_ENV = ("$scratch", "$state")
_IN_ARGV = {
    "run": ("$options", "$new_id", "$prompt", "$scratch", "$state"),
    "resume": ("$options", "$native_id", "$prompt", "$scratch", "$state"),
    "fork": ("$options", "$native_id", "$new_id", "$prompt", "$scratch", "$state"),
    "ephemeral": ("$options", "$new_id", "$prompt", "$scratch", "$state"),
}
_IN_SCREEN = {
    "start": ("$options", "$new_id", "$scratch", "$state"),
    "resume": ("$options", "$native_id", "$scratch", "$state"),
}
_FLAGGED = {option.name for option in OPTIONS if option.flag and option.type is not bool}


class Problem(Struct, frozen=True):
    """What is wrong at a place of a manifest, such as `events[2].set.text`. `line` counts from 1;
    None if the text has no such place."""

    place: str
    problem: str
    line: int | None = None

    def __str__(self) -> str:
        return f"{self.place}: {self.problem}" if self.place else self.problem


def read_checked(path: Path) -> tuple[Manifest, list[Problem]]:
    """The manifest in a file, and all that is wrong with it. Raises `ConfigError` if it cannot be
    read, or could not be used at all."""
    try:
        text = read_file(path)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    manifest = parse_manifest(text, path)
    check_expressions(manifest)
    source = text.decode("utf-8", "replace")
    found = [
        Problem(format_path(place), problem, yaml.line_of(source, place) or None)
        for place, problem in find_problems(manifest, path)
    ]
    return manifest, sorted(found, key=lambda p: p.line or 0)


def find_problems(manifest: Manifest, path: Path) -> Found:
    """Each problem with its place."""
    if manifest.name != path.stem:
        yield ("name",), f"{manifest.name!r} does not match the file's name, {path.name}"
    yield from _of_command_lines(manifest)
    yield from _of_ids(manifest)
    yield from _of_screen(manifest)
    yield from _of_options(manifest)
    yield from _of_rules(manifest, manifest.events, ("events",))
    yield from _of_endings(manifest)
    yield from _of_texts(manifest)
    for i, change in enumerate(manifest.by_version):
        changed = for_change(manifest, change, i)
        before = {place for place, _ in (*_of_command_lines(manifest), *_of_options(manifest))}
        for place, problem in (*_of_command_lines(changed), *_of_options(changed)):
            if place not in before:
                yield ("by_version", i, *place), problem


def _of_command_lines(manifest: Manifest) -> Found:
    for shape, words in manifest.argv.items():
        yield from _of_words(words, _IN_ARGV[shape], ("argv", shape))
    for name, value in manifest.env.items():
        yield from _unknown(value or "", _IN_ENV, ("env", name), variables=True)
    ephemeral = manifest.ephemeral or EphemeralSpec()
    for i, word in enumerate(ephemeral.argv):
        yield from _unknown(word, _IN_ENV, ("ephemeral", "argv", i))
    for name, text in ephemeral.env.items():
        yield from _unknown(text, _IN_ENV, ("ephemeral", "env", name))


def _of_words(words: list[str], known: Iterable[str], place: Place) -> Found:
    """Problems of the arguments of a command line."""
    count = words.count("$options")
    if count == 0:
        yield (
            place,
            (
                "$options is missing, so options, extra_flags and the arguments after -- would be "
                "lost; put it where flags may be"
            ),
        )
    elif count > 1:
        yield place, "$options is there more than once"
    for i, word in enumerate(words):
        yield from _unknown(word, known, (*place, i))
        if "$options" in word and word != "$options":
            yield (*place, i), "$options can only be a word of its own"


def _of_screen(manifest: Manifest) -> Found:
    """Problems of the CLI's own screen."""
    screen = manifest.interactive
    if screen is None:
        return
    for shape, words in (("start", screen.start), ("resume", screen.resume)):
        if words is not None:
            yield from _of_words(words, _IN_SCREEN[shape], ("interactive", shape))
    if screen.resume is not None:
        if not _has(screen.resume, "$native_id") and not manifest.state:
            place: Place = ("interactive", "resume")
            yield place, "$native_id is missing, so it cannot know which session"
        if "resume" not in manifest.argv:
            place = ("interactive", "resume")
            yield place, "never used: without argv.resume, the native id of a session is not stored"
    known = {place for place, _ in _of_options(manifest)}
    for place, problem in _of_options(for_screen(manifest)):
        if place not in known:
            yield ("interactive", *place), problem


def _of_ids(manifest: Manifest) -> Found:
    """Problems of resuming: the id has to be known, and passed."""
    for shape in ("resume", "fork"):
        words = manifest.argv.get(shape)
        if words is not None and not _has(words, "$native_id") and not manifest.state:
            yield ("argv", shape), "$native_id is missing, so it cannot know which session"
    chosen = any(_has(words, "$new_id") for words in manifest.argv.values())
    screen = manifest.interactive
    in_screen = screen is not None and _has(screen.start or [], "$new_id")
    if (
        (chosen or in_screen)
        and manifest.native_id
        and not _matches(manifest.native_id, new_native_id())
    ):
        yield ("native_id",), "does not match the UUID that $new_id stands for"
    sources = (chosen, manifest.state, manifest.native_id_in)
    rules = list(manifest.all_rules())
    if "resume" in manifest.argv and not any(sources):
        if not any("native_id" in rule.set for _, rule in rules):
            yield ("argv", "resume"), "no rule sets native_id, so no session could be resumed"
        for place, rule in rules:
            if rule.emit == "started" and "native_id" not in rule.set:
                yield place, "started needs native_id, without which the session is not stored"


def _of_options(manifest: Manifest) -> Found:
    setters: dict[str, list[str]] = {}
    for name, effect, place in _effects(manifest):
        for i, word in enumerate(effect.argv):
            where = (*place, "argv", i) if effect.env or effect.implies else (*place, i)
            yield from _unknown(word, _IN_OPTION, where)
        for variable, text in effect.env.items():
            yield from _unknown(text, _IN_OPTION, (*place, "env", variable))
            others = setters.setdefault(variable, [])
            if clash := [o for o in others if o != name and o not in effect.overrides]:
                told = f"{clash[0]} sets {variable} too, and only one value can be passed; if this "
                told += f"one may replace it, add overrides: [{clash[0]}]"
                yield (*place, "env", variable), told
            others.append(name)
        words = [*effect.argv, *effect.env.values()]
        if name in _FLAGGED - set(CHOICES) and words and not _has(words, "$"):
            yield place, "its value is not used; add $value, $json or $file"
        for other, choice in effect.implies.items():
            values = manifest.options.get(other)
            if not isinstance(values, Mapping) or choice not in values:
                yield (*place, "implies", other), f"{other} {choice} is no option of this manifest"


def _of_rules(manifest: Manifest, rules: list[EventRule], path: Place) -> Found:
    always: int | None = None
    for i, rule in enumerate(rules):
        place = (*path, i)
        if always is not None:
            yield place, f"never used: {format_path((*path, always))} has no 'when', so it is first"
        elif rule.when is None:
            always = i
        known = _fields(rule.emit)
        for name in rule.set:
            if name not in known:
                what = (
                    f"{rule.emit} has no field {name!r}" if rule.emit else f"{name!r} needs 'emit'"
                )
                yield (*place, "set", name), f"{what}{did_you_mean(name, known)}"
        for name, expected in _OBJECTS.items():
            if name in rule.set and (keys := _object_keys(rule.set[name])) is not None:
                for key in keys - set(expected):
                    hint = did_you_mean(key, expected)
                    yield (
                        (*place, "set", name),
                        f"unknown key {key!r}{hint or '; known: ' + ', '.join(expected)}",
                    )
        if rule.each and not rule.events:
            yield (*place, "each"), "needs 'events': the rules for each element"
        yield from _of_rules(manifest, rule.events, (*place, "events"))


def _of_endings(manifest: Manifest) -> Found:
    """Problems of how a run ends, and of how failures are classified."""
    if manifest.output == "text":
        if manifest.events:
            yield ("events",), "not used: all that a CLI with 'output: text' prints is the answer"
    elif not any(rule.emit == "finished" for _, rule in manifest.all_rules()):
        yield (
            ("events",) if manifest.events else ("output",),
            "no rule emits 'finished', without which no run succeeds",
        )
    for i, error in enumerate(manifest.errors):
        if not (error.status or error.exit_code or error.match):
            yield ("errors", i), "never matches: it needs 'status', 'exit_code' or 'match'"


def _of_texts(manifest: Manifest) -> Found:
    for i, rule in enumerate(manifest.prompt.escape):
        try:
            re.compile(rule.match).sub(rule.replace, "")
        except (re.error, IndexError) as error:
            yield ("prompt", "escape", i, "replace"), str(error)


_OBJECTS = {
    name: (*(f.name for f in fields(Usage)), "total")
    for name in ("usage", "usage_total", "usage_add", "usage_first")
} | {"denied": tuple(f.name for f in fields(Denied) if f.name != "raw")}


def _fields(emit: str | None) -> tuple[str, ...]:
    """The fields of a rule. Those for success and failure often share one anchor, so each may have
    those of the other."""
    if emit in ("finished", "failed"):
        return tuple(dict.fromkeys((*rule_fields("finished"), *rule_fields("failed"))))
    return rule_fields(emit)


def _effects(manifest: Manifest) -> Iterator[tuple[str, OptionEffect, Place]]:
    for name, value in manifest.options.items():
        if name in CHOICES:
            for choice, effect in value.items():
                yield name, effect, ("options", name, choice)
        else:
            yield name, value, ("options", name)


def _unknown(word: str, known: Iterable[str], place: Place, *, variables: bool = False) -> Found:
    """The placeholders in a word that stand for nothing there."""
    for found in _WORD.finditer(word):
        name = found.group()
        if name in known or (variables and re.fullmatch(r"\$\{\w+\}", name)):
            continue
        hint = did_you_mean(name, known) or f"; known here: {', '.join(known)}"
        yield place, f"{name!r} is not a placeholder{hint}"


def _has(words: Iterable[str], placeholder: str) -> bool:
    """Whether a word has this placeholder, or any if it is only `$`."""
    return any(
        placeholder in _names(word) or (placeholder == "$" and _names(word)) for word in words
    )


def _names(word: str) -> set[str]:
    return {found.group() for found in _WORD.finditer(word)}


def _matches(pattern: str, text: str) -> bool:
    return re.fullmatch(pattern, text) is not None


def _object_keys(expression: str) -> set[str] | None:
    """The keys of the objects that an expression makes, or None if it makes none itself."""
    import jmespath  # only to check a manifest

    return _keys(jmespath.compile(expression).parsed)


def _keys(node: Any) -> set[str] | None:
    kind, children = node["type"], node["children"]
    if kind == "multi_select_dict":
        return {pair["value"] for pair in children}
    if kind in ("subexpression", "pipe", "projection", "and_expression"):
        return _keys(children[-1])
    if kind == "or_expression":
        found = [keys for child in children if (keys := _keys(child)) is not None]
        return set().union(*found) if found else None
    return None
