"""The options of a task, as a request has them."""

from __future__ import annotations

from typing import Any

from clinvk.model.option_table import Option
from clinvk.model.option_values import value_problem
from clinvk.plans.loops.findings import find_schema
from clinvk.plans.schema import OPTIONS, TaskEntry
from clinvk.plans.taskfile.files import NamedFiles
from clinvk.plans.taskfile.values import Place, parse_seconds, to_json_data, to_list
from clinvk.text import json_input
from clinvk.text.typed import ShapeError, not_one_of


def read_options(written: TaskEntry, files: NamedFiles, path: Place) -> dict[str, Any]:
    """The options that a task sets, by their names. Raises `ShapeError`."""
    options = {
        option.name: _read(option, value, files, (*path, key))
        for key, option in OPTIONS.items()
        if not _is_unset(option, value := getattr(written, key))
    }
    options |= to_json_data(written.options, (*path, "options"))
    return options


def _is_unset(option: Option, value: Any) -> bool:
    """Whether the value means unset: programs write null, or 0 turns, in the published format."""
    if value == "":
        # Neither an answer nor work that nobody checks should be a surprise.
        return option.path != "file" and option.name != "check"
    return value is None or (option.droppable and value == 0)


def _read(option: Option, value: Any, files: NamedFiles, path: Place) -> Any:
    if option.duration:
        seconds = parse_seconds(value, path)
        if seconds is None:  # as the flag says it
            raise ShapeError(path, f"{value} is not a number of seconds greater than 0")
        return seconds
    if option.choices and value not in option.choices:
        raise ShapeError(path, not_one_of(value, option.choices))
    if option.type in (int, float) and (problem := value_problem(option.name, value)):
        raise ShapeError(path, problem)
    if option.optional_value:
        return value if isinstance(value, bool) else files.directory(value, path)
    if option.path == "file":
        return _read_schema(value, files, path)
    if not option.repeatable:
        return value
    values = to_list(value)
    if problem := value_problem(option.name, values):
        hint = "use a shell command; for no check: null" if option.name == "check" else None
        raise ShapeError(path, problem, hint)
    if option.path == "directory":
        return [files.directory(folder, path) for folder in values]
    return values


def _read_schema(name: str, files: NamedFiles, path: Place) -> str:
    if (built_in := find_schema(name)) is not None:
        return built_in
    text = files.text(name, path)
    try:
        json_input.load(text)
    except json_input.JsonError as error:
        raise ShapeError(path, f"{name}: {error}") from error
    return text
