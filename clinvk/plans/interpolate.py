"""The names in braces in the texts of a task, and the values of those that are known when its file
is read: of the matrix, and columns."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from clinvk.model.plan import PREVIOUS_FIELDS
from clinvk.plans import references
from clinvk.text import template
from clinvk.text.redact import map_texts
from clinvk.text.typed import ShapeError

TASK_PREFIXES = ("tasks.", "steps.")  # prefixes of names about another task
COMMANDS = ("check", "score")
PROMPTS = ("prompt", "again")
NAMES = ("name", "id")  # some programs use the prompt as the name

Path = tuple[str | int, ...]


def check_placeholders(
    entry: Mapping[str, Any], names: list[str], path: Path, *, chain: bool
) -> None:
    """Raise `ShapeError` for an unknown name in a text. The prompt may name other tasks, which are
    looked up when all are known."""
    for key, data in entry.items():
        for at, text in _texts(data, (*path, key)) if key not in PROMPTS else ():
            _check_text_placeholders(text, names, at, chain=chain)


def _check_text_placeholders(text: str, names: list[str], at: Path, *, chain: bool) -> None:
    for name in template.placeholder_names(template.fill_inner(text, TASK_PREFIXES, str)):
        if name in names:
            continue
        if _names_task(name, chain=chain):
            if at[-1] in NAMES:
                continue
            raise ShapeError(
                at, f"{{{{{name}}}}}: only a prompt can refer to another task",
                references.escape_hint(names),
            )  # fmt: skip
        if names:
            raise ShapeError(
                at,
                references.unknown_placeholder_message(name, names),
                references.escape_hint(names),
            )


def interpolate(
    entry: Mapping[str, Any], values: Mapping[str, str], path: Path, *, chain: bool
) -> dict[str, Any]:
    """The data of a task, with the known names replaced by their values. Raises `ShapeError`."""

    def fill_and_unescape(text: str) -> str:
        is_template = bool(values) or _mentions_tasks(text, chain=chain)
        return template.fill_text(text, values) if is_template else text

    def fill_command(text: str) -> str:
        # A value may be any text, such as the name of a file: in a command it is one word.
        quoted = {name: shlex.quote(value) for name, value in values.items()}
        return template.fill_text(text, quoted) if values else fill_and_unescape(text)

    put_in = {
        k: map_texts(v, fill_command if k in COMMANDS else fill_and_unescape)
        for k, v in entry.items()
        if k not in PROMPTS
    }
    for key in PROMPTS:
        if key in entry:
            text = entry[key]
            is_text = isinstance(text, str)
            put_in[key] = interpolate_prompt(text, values, (*path, key)) if is_text else text
    return put_in


def interpolate_prompt(text: str, values: Mapping[str, str], path: Path) -> str:
    """The text with the known names replaced by their values, also inside the name of another task;
    references to other tasks stay. Raises `ShapeError`."""

    def part_of_name(name: str) -> str | None:
        value = values.get(name)
        # Such a value would end the name that it is a part of, and could start another one.
        if value is not None and re.search(r"[{}\n\ufdd0]", value):
            raise ShapeError(
                path, f"{{{{{name}}}}} is {value!r}, which cannot be part of a task's name there",
                "refer to that task by an `id` without braces, on one line",
            )  # fmt: skip
        return value

    if not values:
        return text
    return template.fill(template.fill_inner(text, TASK_PREFIXES, part_of_name), values.get)


def _mentions_tasks(text: str, *, chain: bool) -> bool:
    """Whether it names other tasks, or would if its braces were not escaped."""
    named = template.placeholder_names(template.unescape(text))
    return any(_names_task(name, chain=chain) for name in named)


def _names_task(name: str, *, chain: bool) -> bool:
    return name.startswith(TASK_PREFIXES) or (chain and name in PREVIOUS_FIELDS)


def _texts(data: Any, path: Path) -> Iterator[tuple[Path, str]]:
    """Each text in a structure of mappings and lists, with its path."""
    if isinstance(data, str):
        yield path, data
    elif isinstance(data, Mapping):
        for key, value in data.items():
            yield from _texts(value, (*path, str(key)))
    elif isinstance(data, list):
        for i, value in enumerate(data):
            yield from _texts(value, (*path, i))
