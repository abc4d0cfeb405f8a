"""A plan from a task file: YAML, JSON, JSONL, CSV, or one line per task.

`docs/parallel.md` describes every key. Errors are found before anything runs, and reported with
their place.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from clinvk.errors import ConfigError
from clinvk.model.plan import Plan, Rules, with_keys
from clinvk.plans.candidates import check_names
from clinvk.plans.formats import keys_hint
from clinvk.plans.references import TaskError
from clinvk.plans.schema import TaskFile
from clinvk.plans.taskfile.defaults import Defaults
from clinvk.plans.taskfile.entries import expand_entry, split_file
from clinvk.plans.taskfile.flags import check_flags
from clinvk.plans.taskfile.levels import Levels
from clinvk.plans.taskfile.linking import link_tasks
from clinvk.plans.taskfile.rules import build_rules
from clinvk.plans.taskfile.tasks import TaskReader, WrittenTask
from clinvk.plans.taskfile.values import Place
from clinvk.text import yaml
from clinvk.text.typed import ShapeError, build_struct, format_path


def parse_plan(data: Any, source: str, kind: Any, defaults: Defaults, text: str = "") -> Plan:
    """The plan described by the data. Raises `ConfigError` that names the place."""
    try:
        return _parse(data, source, kind, defaults, text)
    except ShapeError as error:
        if defaults.is_flag(error.path):
            raise ConfigError(str(error), error.hint) from error
        where = _with_line(source, text, error.path)
        raise ConfigError(f"{where}: {error}", error.hint or keys_hint(kind)) from error


def parse_rules(data: Mapping[str, Any], source: str, defaults: Defaults) -> Rules:
    """The rules set by these keys of a file. Raises `ConfigError` that names the place."""
    try:
        return build_rules(build_struct(TaskFile, dict(data)), defaults, chain=False)
    except ShapeError as error:
        raise ConfigError(f"{source}: {error}", keys_hint("parallel")) from error


def _parse(data: Any, source: str, kind: Any, defaults: Defaults, text: str) -> Plan:
    chain = kind == "chain"
    whole, entries, where = split_file(data, chain=chain)
    levels = Levels(source, defaults, whole)
    written = _read_tasks(entries, where, whole, levels, source, chain=chain)
    try:
        tasks, loops = link_tasks(written, whole, chain=chain)
    except TaskError as error:
        task = written[error.position]
        path = levels.place(error.key, task.entry) or (*task.path, error.key)
        place = f"{_with_line(source, text, path)}{task.task.description.removeprefix(source)}"
        if defaults.is_flag(path):
            place = format_path(path)
        raise ConfigError(f"{place}: {error}", error.hint) from error
    one_at_a_time = chain and not any(task.choices for task in written)
    rules = build_rules(whole, defaults, chain=chain, one_at_a_time=one_at_a_time)
    return with_keys(Plan(kind=kind, tasks=tuple(tasks), rules=rules, loops=loops, source=source))


def _read_tasks(
    entries: list[Any], where: str, whole: TaskFile, levels: Levels, source: str, *, chain: bool
) -> list[WrittenTask]:
    """The tasks of these entries, which are in the key `where`. Raises `ShapeError`."""
    reader = TaskReader(source, levels, chain=chain)
    found: list[WrittenTask] = []
    for number, entry in enumerate(entries):
        path = (where, number)
        with levels.relocate_errors(entry, path):
            for one in expand_entry(entry, whole, levels, path, chain=chain):
                soft = chain and not whole.stop_on_failure and bool(found)
                found.append(reader.read(one, entry, path, len(found), soft=soft))
    tasks, choices = [one.task for one in found], [one.choices for one in found]
    check_flags(levels, tasks, choices)
    if whole.pass_session and any(choices):
        raise ShapeError(
            ("pass_session",), "several candidates cannot continue one session",
            "leave it out, or the candidates; a prompt can contain {{previous}}",
        )  # fmt: skip
    check_names(tasks, choices, [one.path for one in found])
    return found


def _with_line(source: str, text: str, path: Place) -> str:
    line = yaml.line_of(text, path) if text else None
    return f"{source}: line {line}" if line else source
