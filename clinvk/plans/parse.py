"""A plan from what somebody wrote: YAML, JSON, JSONL, CSV, or a line for each task.

`docs/parallel.md` describes every key. Mistakes are found before anything runs, and told with their
place.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from msgspec import Struct, to_builtins
from msgspec.structs import replace

from clinvk.config.schema import CHOICES
from clinvk.disk.reading import read_file
from clinvk.errors import ConfigError
from clinvk.model.plan import Budget, Halt, Limits, Plan, Rules, Task, checked
from clinvk.plans import formats, halt, interpolate
from clinvk.plans.formats import COLUMNS, HEADER, KEYS
from clinvk.plans.references import Said, TaskMistake, link
from clinvk.plans.schema import NOT_OF_ONE, NUMBERS, OPTIONS, SAME, Scalar, Whole, Written
from clinvk.text import duration, json_input, values, yaml
from clinvk.text import template as placeholders
from clinvk.text.typed import ShapeError, build, convert, dotted

Place = tuple[str | int, ...]  # of a mistake in a file

MOST = 100_000  # tasks that a matrix may make: more is a slip


class Defaults(Struct, frozen=True, kw_only=True):
    """What holds where a file says nothing: from the configuration; and, of tasks, what the
    command line says."""

    max_parallel: int = 3
    max_parallel_per_backend: dict[str, int] = {}
    fail_fast: bool = False
    task: dict[str, Any] = {}
    flags: dict[str, str] = {}  # how the command line spells what it says of tasks


def plan_of(data: Any, source: str, kind: Any, defaults: Defaults, text: str = "") -> Plan:
    """The plan that the data is. Raises `ConfigError` that names the place."""
    reader = _Reader(source, kind, defaults)
    try:
        return reader.plan(data)
    except ShapeError as error:
        if reader.is_flag(error.path):
            raise ConfigError(str(error), error.hint) from error
        where = _with_line(source, text, error.path)
        raise ConfigError(f"{where}: {error}", error.hint or KEYS) from error
    except TaskMistake as error:
        task, path = reader.tasks[error.position], reader.place(error)
        where = f"{_with_line(source, text, path)}{task.titled.removeprefix(source)}"
        if reader.is_flag(path):
            where = dotted(path)
        raise ConfigError(f"{where}: {error}", error.hint) from error


def _with_line(source: str, text: str, path: Place) -> str:
    line = yaml.line_of(text, path) if text else None
    return f"{source}: line {line}" if line else source


def rules_of(data: Mapping[str, Any], source: str, defaults: Defaults) -> Rules:
    """The rules that these keys of a file are. Raises `ConfigError` that names the place."""
    try:
        return _Reader(source, "parallel", defaults).rules(build(Whole, dict(data)))
    except ShapeError as error:
        raise ConfigError(f"{source}: {error}", KEYS) from error


class _Reader:
    def __init__(self, source: str, kind: Any, defaults: Defaults) -> None:
        self.source = source
        self.kind = kind
        self.defaults = defaults
        self.cwd = Path.cwd()
        self.files: dict[str, str] = {}  # read once, though many tasks name them
        self.tasks: list[Task] = []
        self.written: list[tuple[Place, Any]] = []  # where each of them was, and what it said
        self.of_all: Mapping[str, Any] = {}  # what the file says of all tasks

    def plan(self, data: Any) -> Plan:
        whole, entries, where = self._whole(data)
        self.of_all = whole.defaults
        said: list[Said] = []
        for number, entry in enumerate(entries):
            path = (where, number)
            with self._told_where_written(entry, path):
                for written, variables, general in self._written(entry, whole, path):
                    task = self._task(written, variables, path, len(said))
                    droppable = {OPTIONS[k]: self._general(k) for k in general if k in OPTIONS}
                    soft = self.kind == "chain" and not whole.stop_on_failure and bool(said)
                    self.tasks.append(replace(task, droppable=droppable, soft=soft))
                    self.written.append((path, entry))
                    said.append(Said(_list(written.needs), tuple(variables)))
        linked = link(self.tasks, said, chain=self.kind == "chain")
        if self.kind == "chain":
            linked = [_step(whole, linked, i) for i in range(len(linked))]
        rules = self.rules(whole)
        return checked(Plan(kind=self.kind, tasks=tuple(linked), rules=rules, source=self.source))

    @contextmanager
    def _told_where_written(self, entry: Any, path: Place) -> Iterator[None]:
        """A mistake in what a task has from elsewhere is told of that place."""
        try:
            yield
        except ShapeError as error:
            rest = error.path[len(path) :]
            elsewhere = self._elsewhere(str(rest[0]), entry) if rest else None
            if elsewhere is None:
                raise
            raise ShapeError((*elsewhere, *rest[1:]), error.problem, error.hint) from error

    def _elsewhere(self, key: str, entry: Any) -> Place | None:
        """Where it is said of all tasks; nothing where the task says it."""
        own = entry if isinstance(entry, Mapping) else {"prompt": entry}
        if key in own or SAME.get(key) in own:
            return None
        if key in self.defaults.task:
            return (self.defaults.flags.get(key, key),)
        return ("defaults", key) if key in self.of_all else None

    def _general(self, key: str) -> str:
        """The same, for messages."""
        found = self._elsewhere(key, {})
        if found is None or self.is_flag(found):
            return dotted(found or ())
        return f"{self.source}: {dotted(found)}"

    def is_flag(self, path: Place) -> bool:
        """Whether it is a place on the command line, and none in the file."""
        return bool(path) and path[0] in self.defaults.flags.values()

    def place(self, mistake: TaskMistake) -> Place:
        """Where what is wrong with a task was written."""
        path, entry = self.written[mistake.position]
        return self._elsewhere(mistake.key, entry) or (*path, mistake.key)

    def _whole(self, data: Any) -> tuple[Whole, list[Any], str]:
        """The file's own keys; its tasks; and what they are called."""
        where = "steps" if self.kind == "chain" else "tasks"
        other = "tasks" if self.kind == "chain" else "steps"
        if data is None:
            data = {}
        if isinstance(data, list):
            data = {where: data}
        if isinstance(data, str):
            raise ShapeError((), "expected keys and values, found a text; a task on each line is "
                             "read with --format lines, or with --prompt '… {{line}}'")  # fmt: skip
        whole = build(Whole, data)
        if not data.get(where):
            hint = (
                f"; `{other}:` are for clinvk {'parallel' if other == 'tasks' else 'chain'}"
                if data.get(other)
                else ""
            )
            raise ShapeError((), f"there are no {where}{hint}")
        return whole, getattr(whole, where), where

    def _written(
        self, entry: Any, whole: Whole, path: Place
    ) -> Iterator[tuple[Written, dict[str, str], list[str]]]:
        """The tasks that one entry makes: one for each way through its matrix; with what its
        prompt can name, and the keys that were not said of it alone."""
        if isinstance(entry, str):
            entry = {"prompt": entry}
        if not isinstance(entry, Mapping):
            raise ShapeError(path, f"expected keys and values, or a prompt, found {entry!r}")
        entry = dict(entry)
        axes = {**whole.matrix, **_matrix(entry.pop("matrix", {}), (*path, "matrix"))}
        if empty := [name for name, values in axes.items() if not values]:
            raise ShapeError((*path, "matrix", empty[0]), "the list is empty, so there is no task")
        columns, header = entry.pop(COLUMNS, {}), entry.pop(HEADER, [])
        merged = _merged(whole.defaults, self.defaults.task, entry)
        if "line" in columns:
            _name_by_line(merged)
        if header and not {"prompt", "prompt_file"} & set(merged):
            raise ShapeError(path, *formats.without_prompt(header, columns))
        general = [*(k for k in merged if k not in entry), *NOT_OF_ONE]
        count = 1
        for choices in axes.values():
            count *= len(choices)
        if count > MOST:
            raise ShapeError((*path, "matrix"), f"it makes {count:,} tasks; at most {MOST:,}")
        chain = self.kind == "chain"
        interpolate.check(merged, [*columns, *axes], path, chain=chain)
        for chosen in itertools.product(*axes.values()):
            variables = {**columns, **{k: _text(v) for k, v in zip(axes, chosen, strict=True)}}
            filled = interpolate.filled(merged, variables, path, chain=chain)
            if variables:
                filled = _with_numbers(filled)
            said = build(Written, filled, path)
            _check_values(filled, path)
            yield said, variables, general

    def _task(
        self,
        written: Written,
        variables: Mapping[str, str],
        path: Place,
        position: int,
    ) -> Task:
        place = f"{self.source}: {dotted(path)}"
        name = _name(written, position)
        prompt = written.prompt
        if written.prompt_file is not None:
            if prompt is not None:
                raise ShapeError(path, "prompt and prompt_file exclude each other")
            prompt = self._read(written.prompt_file, (*path, "prompt_file"))
            prompt = interpolate.prompt(prompt, variables, (*path, "prompt_file"))
        if prompt is None or not prompt.strip():
            raise ShapeError(
                path, "missing key 'prompt'" if prompt is None else "the prompt is empty"
            )
        if written.retries is not None and written.retries < 0:
            raise ShapeError((*path, "retries"), f"{written.retries} is too small")
        # Where nothing can be named, two braces are what they are.
        template = bool(variables or written.needs or self.kind == "chain")
        template = template or placeholders.mentions(prompt, interpolate.OF_TASKS)
        if template and not placeholders.names(prompt):
            prompt, template = placeholders.render(prompt, str), False
        return Task(
            name=name,
            prompt=prompt,
            backend=written.backend,
            options=self._options(written, path),
            args=(*written.extra, *written.args),
            cwd=self._folder(written.workdir, path),
            env={k: _text(v) for k, v in written.env.items()},
            timeout=_seconds(written.timeout, (*path, "timeout")),
            stall_timeout=_seconds(written.stall_timeout, (*path, "stall_timeout")),
            retries=written.retries,
            template=template,
            idempotent=written.idempotent,
            tags=tuple(written.tags),
            title=written.title,
            meta=_as_json(written.meta, (*path, "meta")),
            lenient=written.lenient,
            dry_run=written.dry_run,
            place=place,
        )

    def _options(self, written: Written, path: Place) -> dict[str, Any]:
        options = {
            option: _list(value) if key in ("add_dir", "allowed_tools") else value
            for key, option in OPTIONS.items()
            if not _is_unsaid(key, value := getattr(written, key))
        }
        for key, option in OPTIONS.items():
            said = getattr(written, key)
            if option in CHOICES and not _is_unsaid(key, said) and said not in CHOICES[option]:
                known = ", ".join(CHOICES[option])
                raise ShapeError((*path, key), f"{said!r} is not one of: {known}")
        if "add_dir" in options:
            options["add_dir"] = [
                self._folder(folder, (*path, "add_dir")) for folder in options["add_dir"]
            ]
        if written.schema is not None:
            options["schema"] = self._schema(written.schema, (*path, "schema"))
        options |= _as_json(written.options, (*path, "options"))
        return options

    def _schema(self, name: str, path: Place) -> str:
        text = self._read(name, path)
        try:
            json_input.load(text)
        except json_input.JsonError as error:
            raise ShapeError(path, f"{name}: {error}") from error
        return text

    def _folder(self, name: str | None, path: Place) -> str | None:
        if name is None:
            return None
        folder = os.path.realpath(self.cwd / Path(name).expanduser())
        if not os.path.isdir(folder):
            raise ShapeError(
                (*path, "workdir") if path[-1] != "add_dir" else path, f"{name}: no such folder"
            )
        return folder

    def _read(self, name: str, path: Place) -> str:
        if name not in self.files:
            try:
                self.files[name] = read_file(Path(name).expanduser()).decode("utf-8-sig")
            except (OSError, UnicodeDecodeError) as error:
                why = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
                raise ShapeError(path, f"{name}: {why}") from error
        return self.files[name]

    def rules(self, whole: Whole) -> Rules:
        d = self.defaults
        for key in ("max_parallel", "retries"):
            value = getattr(whole, key)
            if value is not None and value < (1 if key == "max_parallel" else 0):
                raise ShapeError((key,), f"{value} is too small")
        for name, count in whole.max_parallel_per_backend.items():
            if count < 1:
                raise ShapeError(
                    ("max_parallel_per_backend", name), f"{count} is too small; at least 1"
                )
        if problem := values.os_problem(whole.output_dir or ""):
            raise ShapeError(("output_dir",), problem)
        fail_fast = whole.fail_fast
        if fail_fast is None:  # of a chain `stop_on_failure` says it
            fail_fast = d.fail_fast and self.kind != "chain"
        return Rules(
            # One step of a chain after the other, whatever the configuration allows.
            max_parallel=1 if self.kind == "chain" else whole.max_parallel or d.max_parallel,
            max_parallel_per_backend={
                **d.max_parallel_per_backend,
                **whole.max_parallel_per_backend,
            },
            halt=_halt(whole.halt, fail_fast=fail_fast),
            retries=whole.retries or 0,
            retry_delay=_seconds(whole.retry_delay, ("retry_delay",)) or Rules().retry_delay,
            limits=_limits(whole),
            budget=_budget(whole.budget),
            stall_timeout=_seconds(whole.stall_timeout, ("stall_timeout",)),
            ephemeral=whole.ephemeral,
            output_dir=absolute(whole.output_dir) if whole.output_dir else None,
        )


def _step(whole: Whole, tasks: list[Task], i: int) -> Task:
    """A step of a chain: it comes after the one before it, whether or not it says so."""
    task = tasks[i]
    if i == 0:
        return task
    needs = tuple(dict.fromkeys([*task.needs, i - 1]))
    cwd = task.cwd
    if whole.pass_working_dir and cwd is None:
        cwd = next((t.cwd for t in reversed(tasks[:i]) if t.cwd), None)
    return replace(
        task,
        needs=needs,
        cwd=cwd,
        continues=i - 1 if whole.pass_session else None,
    )


def _check_values(filled: Mapping[str, Any], path: Place) -> None:
    """Raise `ShapeError` for a text that no program can be given."""
    for name in filled.get("env") or ():
        if problem := values.name_problem(str(name)):
            raise ShapeError((*path, "env", str(name)), problem)
    for key, value in filled.items():
        is_problem = _PROBLEMS.get(key, values.text_problem)
        if value is None or key in KEPT_ONLY:
            continue
        for place, text in values.texts(value, (*path, key)):
            if problem := is_problem(text):
                raise ShapeError(place, problem)


# Prompts go through stdin; paths may have bytes that are not UTF-8, if they come from Python.
_PROBLEMS = {"prompt": values.input_problem}
_PROBLEMS |= dict.fromkeys(("workdir", "add_dir", "prompt_file", "schema"), values.os_problem)
KEPT_ONLY = ("name", "id", "title", "tags", "needs", "meta")  # no program is given these


def _merged(*levels: Mapping[str, Any]) -> dict[str, Any]:
    """What the levels say together; of two keys that say the same, the later level's."""
    merged: dict[str, Any] = {}
    for level in levels:
        others = [SAME[key] for key in level if key in SAME]
        merged = {k: v for k, v in merged.items() if k not in others} | dict(level)
    return merged


def absolute(folder: str) -> str:
    """The same folder from wherever the run is carried on."""
    return os.path.abspath(Path(folder).expanduser())


def _as_json(value: Any, path: Place) -> Any:
    """The same in what JSON knows: in YAML there are dates, too."""
    try:
        return to_builtins(value, str_keys=True)
    except (TypeError, ValueError) as error:
        raise ShapeError(path, f"it cannot be kept as JSON: {error}") from error


def _with_numbers(filled: dict[str, Any]) -> dict[str, Any]:
    """`max_turns: "{{n}}"` is the number that n is."""
    for key in NUMBERS:
        value = filled.get(key)
        if isinstance(value, str) and value.isdecimal() and value.isascii():
            filled[key] = int(value)
    return filled


def _name_by_line(merged: dict[str, Any]) -> None:
    """Where a line is the whole prompt, it is too long for a name."""
    if "prompt" in merged:
        merged.setdefault("name", "{{line}}")
    else:
        merged["prompt"] = "{{line}}"


def _name(written: Written, position: int) -> str:
    given = written.id if written.name is None else written.name
    return (_text(given).strip() if given is not None else "") or str(position + 1)


def _matrix(data: Any, path: Place) -> dict[str, list[Scalar]]:
    found: dict[str, list[Scalar]] = convert(dict[str, list[Scalar]], data, path)
    return found


def _halt(text: str | None, *, fail_fast: bool) -> Halt:
    if text is None:
        return Halt(when="now", count=1) if fail_fast else Halt()
    try:
        return halt.parse(text)
    except ValueError as error:
        raise ShapeError(("halt",), str(error)) from error


def _limits(whole: Whole) -> Limits:
    try:
        limits = halt.parse_on_limit(whole.on_limit) if whole.on_limit else Limits()
    except ValueError as error:
        raise ShapeError(("on_limit",), str(error)) from error
    return replace(
        limits,
        first_wait=_seconds(whole.limit_wait, ("limit_wait",)) or limits.first_wait,
        max_wait=_seconds(whole.max_wait, ("max_wait",)),
    )


def _budget(budget: Budget | None) -> Budget:
    for name in Budget.__struct_fields__ if budget else ():
        value = getattr(budget, name)
        if value is not None and not value > 0:
            raise ShapeError(("budget", name), f"{value} is not above 0")
    return budget or Budget()


def _seconds(value: Scalar | None, path: Place) -> float | None:
    if value is None or (value == 0 and not isinstance(value, bool)):
        return None
    try:
        return duration.seconds(value)
    except ValueError as error:
        raise ShapeError(path, str(error)) from error


def _text(value: Scalar) -> str:
    """As it would be written in YAML."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _is_unsaid(key: str, value: Any) -> bool:
    """Programs write the published format with nothing, or 0 turns, for what was not said."""
    return value is None or value == "" or (key in NOT_OF_ONE and value == 0)


def _list(value: str | list[str] | None) -> list[str]:
    return [value] if isinstance(value, str) else list(value or ())
