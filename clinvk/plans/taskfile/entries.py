"""The entries of a file: each is a task, or one for each combination of its matrix."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from msgspec import Struct

from clinvk.plans import formats, interpolate
from clinvk.plans.formats import COLUMNS, HEADER
from clinvk.plans.loops.reading import REPEAT
from clinvk.plans.schema import (
    ALL_TASKS_ONLY,
    NUMBERS,
    OPTIONS,
    Scalar,
    TaskEntry,
    TaskFile,
    read_number,
)
from clinvk.plans.taskfile.levels import Levels, drop_shared
from clinvk.plans.taskfile.values import Place, to_text
from clinvk.text import values
from clinvk.text.typed import ShapeError, build_struct, convert

MAX_TASKS = 100_000  # tasks that a matrix may create: more is a mistake


class Entry(Struct, frozen=True, kw_only=True):
    """A task as written, with the values of a matrix and of columns put in."""

    keys: TaskEntry
    variables: dict[str, str]  # the names that its prompt can use
    inherited: list[str]  # the keys that were set for all tasks


def split_file(data: Any, *, chain: bool) -> tuple[TaskFile, list[Any], str]:
    """The file's own keys, its tasks, and the key that holds them. Raises `ShapeError`."""
    where = "steps" if chain else "tasks"
    other = "tasks" if chain else "steps"
    if data is None:
        data = {}
    if isinstance(data, list):
        data = {where: data}
    if isinstance(data, str):
        raise ShapeError((), "expected keys and values, found text; to read one task per line, "
                         "use --format lines, or --prompt '… {{line}}'")  # fmt: skip
    data = drop_shared(data)
    try:
        whole = build_struct(TaskFile, data)
    except ShapeError as error:
        raise _explained(error, in_file=True, chain=chain) from error
    if not data.get(where):
        hint = (
            f"; use clinvk {'parallel' if other == 'tasks' else 'chain'} for `{other}:`"
            if data.get(other)
            else ""
        )
        raise ShapeError((), f"there are no {where}{hint}")
    return whole, getattr(whole, where), where


def expand_entry(
    entry: Any, whole: TaskFile, levels: Levels, path: Place, *, chain: bool
) -> Iterator[Entry]:
    """The tasks of one entry, one for each combination of its matrix. Raises `ShapeError`."""
    if isinstance(entry, str):
        entry = {"prompt": entry}
    if not isinstance(entry, Mapping):
        raise ShapeError(path, f"expected keys and values, or a prompt, found {entry!r}")
    entry = drop_shared(entry)
    if REPEAT in entry and chain:
        raise ShapeError(
            (*path, REPEAT), "a loop is a key of the file, not of a step",
            "write it beside `steps`: repeat: {steps: [fix, review], until: …, max: 3}",
        )  # fmt: skip
    axes = {**whole.matrix, **_parse_matrix(entry.pop("matrix", {}), (*path, "matrix"))}
    if empty := [name for name, values in axes.items() if not values]:
        raise ShapeError((*path, "matrix", empty[0]), "the list is empty, so there are no tasks")
    columns, header = entry.pop(COLUMNS, {}), entry.pop(HEADER, [])
    merged = levels.merge(entry)
    if "line" in columns:
        _shorten_line_name(merged)
    elif (name := _name_of_row(columns, header)) and not {"name", "id"} & set(merged):
        merged["name"] = name
    if header and not {"prompt", "prompt_file"} & set(merged):
        raise ShapeError(path, *formats.missing_prompt_message(header, columns))
    inherited = [*(k for k in merged if k not in entry), *ALL_TASKS_ONLY]
    _check_size(axes, path)
    interpolate.check_placeholders(merged, [*columns, *axes], path, chain=chain)
    for chosen in itertools.product(*axes.values()):
        variables = {**columns, **{k: to_text(v) for k, v in zip(axes, chosen, strict=True)}}
        filled = interpolate.interpolate(merged, variables, path, chain=chain)
        if variables:
            filled = _convert_numbers(filled)
        try:
            keys = build_struct(TaskEntry, filled, path)
        except ShapeError as error:
            raise _explained(error, in_file=False, chain=chain) from error
        _check_values(filled, path)
        yield Entry(keys=keys, variables=variables, inherited=inherited)


def _explained(error: ShapeError, *, in_file: bool, chain: bool) -> ShapeError:
    # Only on the way to an error.
    from clinvk.plans.foreign_keys import with_hint

    return with_hint(error, in_file=in_file, entries="steps" if chain else "tasks")


def _parse_matrix(data: Any, path: Place) -> dict[str, list[Scalar]]:
    found: dict[str, list[Scalar]] = convert(dict[str, list[Scalar]], data, path)
    return found


def _check_size(axes: Mapping[str, list[Scalar]], path: Place) -> None:
    count = 1
    for choices in axes.values():
        count *= len(choices)
    if count > MAX_TASKS:
        raise ShapeError(
            (*path, "matrix"), f"it creates {count:,} tasks; the maximum is {MAX_TASKS:,}"
        )


def _shorten_line_name(merged: dict[str, Any]) -> None:
    """A name for a task whose line is the whole prompt, which may be too long for one."""
    if "prompt" in merged:
        merged.setdefault("name", "{{line}}")
    else:
        merged["prompt"] = "{{line}}"


def _name_of_row(columns: Mapping[str, str], header: list[str]) -> str | None:
    """The value of the first column of a CSV file that is not a key of a task, with its braces
    escaped. None if there is none: then the task is named by its number."""
    first = next((name for name in header if name in columns), None)
    value = columns[first] if first is not None else ""
    return " ".join(value.split()).replace("{{", r"\{{") or None


def _convert_numbers(filled: dict[str, Any]) -> dict[str, Any]:
    """Turn `max_turns: "{{n}}"` into the number n."""
    for key in NUMBERS:
        value = filled.get(key)
        if isinstance(value, str):
            filled[key] = read_number(key, value)
    return filled


# Paths may have bytes that are not UTF-8, if they come from Python.
_PROBLEMS: dict[str, Callable[[str], str | None]] = dict.fromkeys(
    ("workdir", "prompt_file"), values.os_problem
)
_PROBLEMS |= {key: values.os_problem for key, option in OPTIONS.items() if option.path}
KEPT_ONLY = ("name", "id", "title", "tags", "needs", "meta")  # not passed to any program


def _check_values(filled: Mapping[str, Any], path: Place) -> None:
    """Raise `ShapeError` for a text that cannot be passed to a program."""
    for name in filled.get("env") or ():
        if problem := values.name_problem(str(name)):
            raise ShapeError((*path, "env", str(name)), problem)
    for key, value in filled.items():
        is_problem = _PROBLEMS.get(key, values.nul_problem)
        if value is None or key in KEPT_ONLY or key in interpolate.PROMPTS:  # through stdin
            continue
        for place, text in values.texts(value, (*path, key)):
            if problem := is_problem(text):
                raise ShapeError(place, problem)
