"""A plan from a task file: YAML, JSON, JSONL, CSV, or one line per task.

`docs/parallel.md` describes every key. Errors are found before anything runs, and reported with
their place.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from msgspec import Struct, to_builtins
from msgspec.structs import replace

from clinvk.disk.empty import EMPTY
from clinvk.disk.jsonl import replace_surrogates
from clinvk.disk.reading import NOT_REGULAR, directory_problem, is_own_stream, read_file, read_named
from clinvk.errors import ConfigError, UsageError
from clinvk.model.option_table import Option
from clinvk.model.option_values import value_problem
from clinvk.model.plan import Budget, Halt, Limits, Loop, Plan, Rules, Task, Worktree, with_keys
from clinvk.plans import formats, halt, interpolate
from clinvk.plans.candidates import (
    Choice,
    Choices,
    check_names,
    expand,
    parse_choices,
    parse_decision,
)
from clinvk.plans.formats import COLUMNS, HEADER, keys_hint
from clinvk.plans.labels import labels_problem
from clinvk.plans.loops.expansion import Expansion
from clinvk.plans.loops.findings import find_schema
from clinvk.plans.loops.reading import REPEAT, WrittenLoop, read_loops
from clinvk.plans.references import Linked, TaskError, TaskReferences, link
from clinvk.plans.schema import (
    ALL_TASKS_ONLY,
    ALTERNATIVES,
    FILE_LEVEL,
    NUMBERS,
    OF_CANDIDATES,
    OPTIONS,
    SHARED,
    Scalar,
    TaskDefaults,
    TaskEntry,
    TaskFile,
    WorktreeEntry,
    read_number,
)
from clinvk.text import duration, json_input, values, yaml
from clinvk.text import template as placeholders
from clinvk.text.typed import ShapeError, build_struct, convert, format_path, not_one_of, quoted

Place = tuple[str | int, ...]  # of an error in a file

OF_CHECK = {"rounds", "check_timeout"}  # keys that mean nothing without a check
MAX_TASKS = 100_000  # tasks that a matrix may create: more is a mistake


class Defaults(Struct, frozen=True, kw_only=True):
    """The defaults for keys that a file does not set: from the configuration and, for tasks, the
    command line."""

    max_parallel: int = 3
    max_parallel_per_backend: dict[str, int] = {}
    fail_fast: bool = False
    limits: Limits = Limits()
    task: TaskDefaults = TaskDefaults()
    flags: dict[str, str] = {}  # the flags that set keys of tasks


def parse_plan(data: Any, source: str, kind: Any, defaults: Defaults, text: str = "") -> Plan:
    """The plan described by the data. Raises `ConfigError` that names the place."""
    reader = _PlanParser(source, kind, defaults)
    try:
        return reader.plan(data)
    except ShapeError as error:
        if reader.is_flag(error.path):
            raise ConfigError(str(error), error.hint) from error
        where = _with_line(source, text, error.path)
        raise ConfigError(f"{where}: {error}", error.hint or keys_hint(kind)) from error
    except TaskError as error:
        task, path = reader.tasks[error.position], reader.place(error)
        where = f"{_with_line(source, text, path)}{task.description.removeprefix(source)}"
        if reader.is_flag(path):
            where = format_path(path)
        raise ConfigError(f"{where}: {error}", error.hint) from error


def _with_line(source: str, text: str, path: Place) -> str:
    line = yaml.line_of(text, path) if text else None
    return f"{source}: line {line}" if line else source


def parse_rules(data: Mapping[str, Any], source: str, defaults: Defaults) -> Rules:
    """The rules set by these keys of a file. Raises `ConfigError` that names the place."""
    try:
        return _PlanParser(source, "parallel", defaults).build_rules(
            build_struct(TaskFile, dict(data))
        )
    except ShapeError as error:
        raise ConfigError(f"{source}: {error}", keys_hint("parallel")) from error


class _PlanParser:
    def __init__(self, source: str, kind: Any, defaults: Defaults) -> None:
        self.source = source
        self.kind = kind
        self.defaults = defaults
        self.task_defaults = defaults.task.set_keys()
        self.cwd = _current_directory()
        self.files: dict[str, str] = {}  # read once, though many tasks name them
        self.tasks: list[Task] = []
        self.again: dict[int, str] = {}  # prompts of later rounds
        self.entries: list[tuple[Place, Any]] = []  # the place and the data of each task
        self.of_all: Mapping[str, Any] = {}  # the file's keys for all tasks
        self.of_file: Mapping[str, Any] = {}  # those of them that are not in `defaults`
        self.choices: list[Choices | None] = []  # the candidates of each task

    def plan(self, data: Any) -> Plan:
        whole, entries, where = self._split_file(data)
        self.of_file = {k: v for k in FILE_LEVEL if (v := getattr(whole, k)) is not None}
        self.of_all = {**self.of_file, **whole.defaults}
        said: list[TaskReferences] = []
        for number, entry in enumerate(entries):
            path = (where, number)
            with self._relocate_errors(entry, path):
                for written, variables, general in self._expand_entry(entry, whole, path):
                    task = self._build_task(written, variables, path, len(said))
                    _check_needs_check(task, general, path)
                    droppable = self._droppable(general)
                    self.choices.append(self._choices(written, variables, path, general))
                    soft = self.kind == "chain" and not whole.stop_on_failure and bool(said)
                    self.tasks.append(replace(task, droppable=droppable, soft=soft))
                    self.entries.append((path, entry))
                    if (again := self._again(written, path)) is not None:
                        self.again[len(said)] = again
                    said.append(TaskReferences(_to_list(written.needs), tuple(variables)))
        self._check_flags_need_check()
        self._check_flags_need_candidates()
        if whole.pass_session and any(self.choices):
            raise ShapeError(
                ("pass_session",), "several candidates cannot continue one session",
                "leave it out, or the candidates; a prompt can contain {{previous}}",
            )  # fmt: skip
        check_names(self.tasks, self.choices, [path for path, _ in self.entries])
        steps, loops = self._link(said, whole)
        rules = self.build_rules(whole)
        return with_keys(
            Plan(
                kind=self.kind, tasks=tuple(steps), rules=rules, loops=loops, source=self.source
            )
        )  # fmt: skip

    def _link(
        self, said: list[TaskReferences], whole: TaskFile
    ) -> tuple[list[Task], tuple[Loop, ...]]:
        """The tasks of the plan, which refer to each other by their positions, and its loops."""
        chain = self.kind == "chain"
        written = read_loops(whole.repeat, self.tasks, self.choices, chain=chain)
        again = self._later_prompts(written)
        linked = link(self.tasks, said, chain=chain, loops=written, again=again)
        if not chain:
            return expand(linked.tasks, self.choices, chain=False), ()
        if whole.pass_working_dir:
            linked = _pass_directory(linked)
        expansion = Expansion(linked.tasks, linked.later, written)
        steps = expansion.tasks(pass_session=whole.pass_session)
        choices = [self.choices[i] for i in expansion.origins]
        found = expand(steps, choices, chain=True)
        places = [i for i, task in enumerate(found) if task.candidate_of is None]
        return found, expansion.loops(places)

    def _later_prompts(self, loops: Iterable[WrittenLoop]) -> dict[int, Task]:
        """The steps of loops that have another prompt from the second round on. Raises
        `ShapeError` for one that is in no loop."""
        inside = {step for loop in loops for step in loop.steps}
        for i, (path, entry) in enumerate(self.entries):
            if i in self.again and i not in inside and "again" in entry:
                raise ShapeError(
                    (*path, "again"), f"step {quoted(self.tasks[i].name)} is not part of a loop",
                    "name it in `repeat: {steps: [...]}`, or leave out `again`",
                )  # fmt: skip
        return {
            i: replace(self.tasks[i], prompt=prompt, template=True)
            for i, prompt in self.again.items()
            if i in inside
        }

    def _droppable(self, general: Iterable[str]) -> dict[str, str]:
        """The options among these keys, which are set for all tasks, and where."""
        return {OPTIONS[k].name: self._shared_place_name(k) for k in general if k in OPTIONS}

    def _choices(
        self, written: TaskEntry, variables: Mapping[str, str], path: Place, general: list[str]
    ) -> Choices | None:
        """The candidates of a task; None if it has none."""
        choices = parse_choices(written, path, general)
        if not choices:
            return None
        decision = parse_decision(written, path)
        made = []
        for choice in choices:
            others = {ALTERNATIVES[k]: None for k in choice.keys if k in ALTERNATIVES}
            entry = replace(written, **{**others, **choice.keys})
            with _at_choice(choice, path):
                task = self._build_task(entry, variables, path, len(self.tasks))
            _check_needs_check(task, general, path)
            own = self._droppable(k for k in general if k not in choice.keys)
            made.append((choice.label, replace(task, droppable=own)))
        return Choices(tasks=tuple(made), decision=decision)

    def _check_flags_need_check(self) -> None:
        """Raise `ShapeError` for a flag about checks if no task has one."""
        if any(task.options.get("check") for task in self.tasks):
            return
        for key in sorted(OF_CHECK & self.task_defaults.keys()):
            place: Place = (self.defaults.flags.get(key) or key,)
            raise ShapeError(place, "there is no check", "add --check CMD")

    def _check_flags_need_candidates(self) -> None:
        """Raise `ShapeError` for a flag about candidates if no task has any."""
        for key in OF_CANDIDATES if not any(self.choices) else ():
            if key in self.task_defaults:
                place: Place = (self.defaults.flags.get(key) or key,)
                raise ShapeError(place, "there are no candidates", "add e.g.: --candidates 3")

    @contextmanager
    def _relocate_errors(self, entry: Any, path: Place) -> Iterator[None]:
        """Report an error in an inherited key at the place where it was set."""
        try:
            yield
        except ShapeError as error:
            rest = error.path[len(path) :]
            elsewhere = self._shared_place(str(rest[0]), entry) if rest else None
            if elsewhere is None:
                raise
            raise ShapeError((*elsewhere, *rest[1:]), error.problem, error.hint) from error

    def _shared_place(self, key: str, entry: Any) -> Place | None:
        """The place where a key is set for all tasks; None if the task sets it."""
        own = entry if isinstance(entry, Mapping) else {"prompt": entry}
        if key in own or ALTERNATIVES.get(key) in own:
            return None
        if key in self.task_defaults:
            return (self.defaults.flags.get(key, key),)
        if key in self.of_file and self.of_all[key] is self.of_file[key]:
            return (key,)
        return ("defaults", key) if key in self.of_all else None

    def _shared_place_name(self, key: str) -> str:
        """The same, for messages."""
        found = self._shared_place(key, {})
        if found is None or self.is_flag(found):
            return format_path(found or ())
        return f"{self.source}: {format_path(found)}"

    def is_flag(self, path: Place) -> bool:
        """Whether the place is on the command line, not in the file."""
        return bool(path) and path[0] in self.defaults.flags.values()

    def place(self, mistake: TaskError) -> Place:
        """The place of an error in a task."""
        path, entry = self.entries[mistake.position]
        return self._shared_place(mistake.key, entry) or (*path, mistake.key)

    def _split_file(self, data: Any) -> tuple[TaskFile, list[Any], str]:
        """The file's own keys, its tasks, and the key that holds them."""
        where = "steps" if self.kind == "chain" else "tasks"
        other = "tasks" if self.kind == "chain" else "steps"
        if data is None:
            data = {}
        if isinstance(data, list):
            data = {where: data}
        if isinstance(data, str):
            raise ShapeError((), "expected keys and values, found text; to read one task per line, "
                             "use --format lines, or --prompt '… {{line}}'")  # fmt: skip
        data = _drop_shared(data)
        whole = build_struct(TaskFile, data)
        if not data.get(where):
            hint = (
                f"; use clinvk {'parallel' if other == 'tasks' else 'chain'} for `{other}:`"
                if data.get(other)
                else ""
            )
            raise ShapeError((), f"there are no {where}{hint}")
        return whole, getattr(whole, where), where

    def _expand_entry(
        self, entry: Any, whole: TaskFile, path: Place
    ) -> Iterator[tuple[TaskEntry, dict[str, str], list[str]]]:
        """The tasks of one entry, one for each combination of its matrix, with the names that its
        prompt can use, and the keys that were inherited."""
        if isinstance(entry, str):
            entry = {"prompt": entry}
        if not isinstance(entry, Mapping):
            raise ShapeError(path, f"expected keys and values, or a prompt, found {entry!r}")
        entry = _drop_shared(entry)
        if REPEAT in entry and self.kind == "chain":
            raise ShapeError(
                (*path, REPEAT), "a loop is a key of the file, not of a step",
                "write it beside `steps`: repeat: {steps: [fix, review], until: …, max: 3}",
            )  # fmt: skip
        axes = {**whole.matrix, **_parse_matrix(entry.pop("matrix", {}), (*path, "matrix"))}
        if empty := [name for name, values in axes.items() if not values]:
            raise ShapeError(
                (*path, "matrix", empty[0]), "the list is empty, so there are no tasks"
            )
        columns, header = entry.pop(COLUMNS, {}), entry.pop(HEADER, [])
        merged = _merge(_drop_shared(self.of_all), self.task_defaults, entry)
        if "line" in columns:
            _shorten_line_name(merged)
        elif (name := _name_of_row(columns, header)) and not {"name", "id"} & set(merged):
            merged["name"] = name
        if header and not {"prompt", "prompt_file"} & set(merged):
            raise ShapeError(path, *formats.missing_prompt_message(header, columns))
        inherited = [*(k for k in merged if k not in entry), *ALL_TASKS_ONLY]
        count = 1
        for choices in axes.values():
            count *= len(choices)
        if count > MAX_TASKS:
            raise ShapeError(
                (*path, "matrix"), f"it creates {count:,} tasks; the maximum is {MAX_TASKS:,}"
            )
        chain = self.kind == "chain"
        interpolate.check_placeholders(merged, [*columns, *axes], path, chain=chain)
        for chosen in itertools.product(*axes.values()):
            variables = {**columns, **{k: _to_text(v) for k, v in zip(axes, chosen, strict=True)}}
            filled = interpolate.interpolate(merged, variables, path, chain=chain)
            if variables:
                filled = _convert_numbers(filled)
            said = build_struct(TaskEntry, filled, path)
            _check_values(filled, path)
            yield said, variables, inherited

    def _build_task(
        self,
        written: TaskEntry,
        variables: Mapping[str, str],
        path: Place,
        position: int,
    ) -> Task:
        place = f"{self.source}: {format_path(path)}"
        name = _task_name(written, position)
        prompt = self._prompt(written, variables, path)
        if written.retries is not None and written.retries < 0:
            raise ShapeError((*path, "retries"), f"{written.retries} is too small")
        # If there is nothing to name, two braces are literal.
        template = bool(variables or written.needs or self.kind == "chain")
        template = template or placeholders.mentions_prefix(prompt, interpolate.TASK_PREFIXES)
        if template and not placeholders.placeholder_names(prompt):
            prompt, template = placeholders.render(prompt, str), False
        return Task(
            name=name,
            prompt=prompt,
            backend=written.backend,
            options=self._options(written, path),
            args=(*written.extra, *written.args),
            cwd=self._absolute_folder(written.workdir, path),
            env={k: _to_text(v) for k, v in written.env.items()},
            timeout=_parse_seconds(written.timeout, (*path, "timeout")),
            stall_timeout=_parse_seconds(written.stall_timeout, (*path, "stall_timeout")),
            retries=written.retries,
            template=template,
            idempotent=written.idempotent,
            worktree=parse_worktree(written.worktree, (*path, "worktree")),
            labels=_parse_labels(written.labels, (*path, "labels")),
            tags=tuple(written.tags),
            title=written.title,
            meta=_to_json_data(written.meta, (*path, "meta")),
            lenient=written.lenient,
            stored_options=written.stored_options,
            dry_run=written.dry_run,
            place=place,
        )

    def _prompt(self, written: TaskEntry, variables: Mapping[str, str], path: Place) -> str:
        prompt = written.prompt
        if written.prompt_file is not None:
            if prompt is not None:
                raise ShapeError(path, "prompt and prompt_file cannot be used together")
            prompt = self._read_file(written.prompt_file, (*path, "prompt_file"))
            prompt = interpolate.interpolate_prompt(prompt, variables, (*path, "prompt_file"))
        if prompt is None:
            raise ShapeError(path, "missing key 'prompt'")
        if not prompt.isascii():
            prompt = replace_surrogates(prompt)
        if not prompt.strip():
            raise ShapeError(path, "the prompt is empty")
        return prompt

    def _again(self, written: TaskEntry, path: Place) -> str | None:
        """The prompt of the later rounds of a loop."""
        if written.again is None:
            return None
        if not written.again.strip():
            raise ShapeError((*path, "again"), "the prompt is empty")
        return str(replace_surrogates(written.again))

    def _options(self, written: TaskEntry, path: Place) -> dict[str, Any]:
        options = {
            option.name: self._option(option, value, (*path, key))
            for key, option in OPTIONS.items()
            if not _is_unset(option, value := getattr(written, key))
        }
        options |= _to_json_data(written.options, (*path, "options"))
        return options

    def _option(self, option: Option, value: Any, path: Place) -> Any:
        """The value of an option as a request has it. Raises `ShapeError`."""
        if option.duration:
            seconds = _parse_seconds(value, path)
            if seconds is None:  # as the flag says it
                raise ShapeError(path, f"{value} is not a number of seconds greater than 0")
            return seconds
        if option.choices and value not in option.choices:
            raise ShapeError(path, not_one_of(value, option.choices))
        if option.type in (int, float) and (problem := value_problem(option.name, value)):
            raise ShapeError(path, problem)
        if option.optional_value:
            return value if isinstance(value, bool) else self._absolute_folder(value, path)
        if option.path == "file":
            return self._read_schema(value, path)
        if not option.repeatable:
            return value
        values = _to_list(value)
        if problem := value_problem(option.name, values):
            hint = "use a shell command; for no check: null" if option.name == "check" else None
            raise ShapeError(path, problem, hint)
        if option.path == "directory":
            return [self._absolute_folder(folder, path) for folder in values]
        return values

    def _read_schema(self, name: str, path: Place) -> str:
        if (built_in := find_schema(name)) is not None:
            return built_in
        text = self._read_file(name, path)
        try:
            json_input.load(text)
        except json_input.JsonError as error:
            raise ShapeError(path, f"{name}: {error}") from error
        return text

    def _absolute_folder(self, name: str | None, path: Place) -> str | None:
        if name is None or (name == EMPTY and path[-1] not in OPTIONS):
            return name
        folder = os.path.realpath(self.cwd / Path(name).expanduser())
        if problem := directory_problem(folder):
            where = path if path[-1] in OPTIONS else (*path, "workdir")
            raise ShapeError(where, f"{name}: {problem}")
        return folder

    def _read_file(self, name: str, path: Place) -> str:
        if name not in self.files:
            try:
                read = read_named if is_own_stream(name) else read_file
                self.files[name] = read(Path(name).expanduser()).decode("utf-8-sig")
            except (OSError, UnicodeDecodeError) as error:
                why = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
                if why == NOT_REGULAR:
                    why = f"{why}; name a regular file or /dev/stdin"
                raise ShapeError(path, f"{name}: {why}") from error
        return self.files[name]

    def _max_parallel(self, whole: TaskFile) -> int:
        """The steps of a chain run one after another, whatever the configuration allows; only
        candidates for the same step run at the same time."""
        if self.kind == "chain" and not any(self.choices):
            return 1
        return whole.max_parallel or self.defaults.max_parallel

    def build_rules(self, whole: TaskFile) -> Rules:
        d = self.defaults
        for key in ("max_parallel", "retries"):
            value = getattr(whole, key)
            if value is not None and value < (1 if key == "max_parallel" else 0):
                raise ShapeError((key,), f"{value} is too small")
        for name, count in whole.max_parallel_per_backend.items():
            if count < 1:
                raise ShapeError(
                    ("max_parallel_per_backend", name), f"{count} is too small; the minimum is 1"
                )
        if problem := values.os_problem(whole.output_dir or ""):
            raise ShapeError(("output_dir",), problem)
        fail_fast = whole.fail_fast
        if fail_fast is None:  # a chain uses `stop_on_failure`
            fail_fast = d.fail_fast and self.kind != "chain"
        return Rules(
            max_parallel=self._max_parallel(whole),
            max_parallel_per_backend={
                **d.max_parallel_per_backend,
                **whole.max_parallel_per_backend,
            },
            halt=_parse_halt(whole.halt, fail_fast=fail_fast),
            retries=whole.retries or 0,
            retry_delay=_parse_seconds(whole.retry_delay, ("retry_delay",)) or Rules().retry_delay,
            limits=_parse_limits(whole, self.defaults.limits),
            budget=_check_budget(whole.budget),
            stall_timeout=_parse_seconds(whole.stall_timeout, ("stall_timeout",)),
            ephemeral=whole.ephemeral,
            output_dir=absolute_path(whole.output_dir) if whole.output_dir else None,
        )


@contextmanager
def _at_choice(choice: Choice, path: Place) -> Iterator[None]:
    """Report an error in a key that a candidate sets at the place of that."""
    try:
        yield
    except ShapeError as error:
        rest = error.path[len(path) :]
        if not rest or rest[0] not in choice.keys:
            raise
        raise ShapeError((*choice.path, *rest), error.problem, error.hint) from error


def worktree_of(written: bool | Mapping[str, Any] | None) -> Worktree | None:
    """The worktree that flags or arguments ask for. Raises `UsageError`."""
    try:
        return parse_worktree(written, ("worktree",))
    except ShapeError as error:
        raise UsageError(str(error), error.hint) from error


def parse_worktree(written: bool | Mapping[str, Any] | None, path: Place) -> Worktree | None:
    """What `worktree: true`, or its keys, ask for. Raises `ShapeError`."""
    if written is None or written is False:
        return None
    entry = build_struct(WorktreeEntry, {} if written is True else dict(written), path)
    patterns = _to_list(entry.copy)
    for i, pattern in enumerate(patterns):
        if not pattern.strip() or ".." in Path(pattern).parts or pattern.startswith("~"):
            raise ShapeError(
                (*path, "copy", i), f"{pattern!r} is not a pattern of files in the repository"
            )
    if entry.setup is not None and not entry.setup.strip():
        raise ShapeError((*path, "setup"), "the command is empty")
    if entry.base is not None and not _to_text(entry.base).strip():
        raise ShapeError((*path, "base"), "the revision is empty")
    return Worktree(
        base=None if entry.base is None else _to_text(entry.base), dirty=entry.dirty,
        copy=tuple(patterns), setup=entry.setup, keep=entry.keep,
    )  # fmt: skip


def _check_needs_check(task: Task, general: list[str], path: Place) -> None:
    """Raise `ShapeError` for a key about a check in a task without one. One that is inherited is
    for other tasks, and removed."""
    if task.options.get("check"):
        return
    for key in OF_CHECK & task.options.keys():
        if key not in general:
            raise ShapeError((*path, key), "there is no check", "add: check: CMD")
        del task.options[key]


def _pass_directory(linked: Linked) -> Linked:
    """The steps, each without a directory in that of the steps before it."""
    folder, tasks, later = None, [], dict(linked.later)
    for i, task in enumerate(linked.tasks):
        folder = task.cwd or folder
        tasks.append(replace(task, cwd=folder))
        if i in later:
            later[i] = replace(later[i], cwd=folder)
    return Linked(tasks, later)


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


# Paths may have bytes that are not UTF-8, if they come from Python.
_PROBLEMS: dict[str, Callable[[str], str | None]] = dict.fromkeys(
    ("workdir", "prompt_file"), values.os_problem
)
_PROBLEMS |= {key: values.os_problem for key, option in OPTIONS.items() if option.path}
KEPT_ONLY = ("name", "id", "title", "tags", "needs", "meta")  # not passed to any program


def _merge(*levels: Mapping[str, Any]) -> dict[str, Any]:
    """The levels merged; of two keys with the same meaning, the later level's is kept."""
    merged: dict[str, Any] = {}
    for level in levels:
        others = [ALTERNATIVES[key] for key in level if key in ALTERNATIVES]
        worktree = _merge_worktree(merged.get("worktree"), level.get("worktree"))
        merged = {k: v for k, v in merged.items() if k not in others} | dict(level)
        if worktree is not None:
            merged["worktree"] = worktree
    return merged


def _merge_worktree(before: Any, own: Any) -> Any:
    """The keys of a worktree are added to those of the level before; `true` changes none."""
    if own is None:
        return before
    if not before or own is False or not (own is True or isinstance(own, Mapping)):
        return own
    return {**(before if isinstance(before, Mapping) else {}), **(own if own is not True else {})}


def _drop_shared(data: Any) -> Any:
    """The data without the keys that only hold what anchors share."""
    if not isinstance(data, Mapping):
        return data
    return {k: v for k, v in data.items() if not (isinstance(k, str) and k.startswith(SHARED))}


def _current_directory() -> Path:
    """Absolute, unless it has been deleted: then only relative paths are errors."""
    try:
        return Path.cwd()
    except FileNotFoundError:
        return Path()


def absolute_path(folder: str) -> str:
    """The directory as an absolute path, wherever the run is resumed from."""
    return os.path.abspath(Path(folder).expanduser())


def _to_json_data(value: Any, path: Place) -> Any:
    """The data in JSON types: YAML also has dates."""
    try:
        return to_builtins(value, str_keys=True)
    except (TypeError, ValueError) as error:
        raise ShapeError(path, f"it cannot be stored as JSON: {error}") from error


def _convert_numbers(filled: dict[str, Any]) -> dict[str, Any]:
    """Turn `max_turns: "{{n}}"` into the number n."""
    for key in NUMBERS:
        value = filled.get(key)
        if isinstance(value, str):
            filled[key] = read_number(key, value)
    return filled


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


def _task_name(written: TaskEntry, position: int) -> str:
    given = written.id if written.name is None else written.name
    return (_to_text(given).strip() if given is not None else "") or str(position + 1)


def _parse_matrix(data: Any, path: Place) -> dict[str, list[Scalar]]:
    found: dict[str, list[Scalar]] = convert(dict[str, list[Scalar]], data, path)
    return found


def _parse_halt(text: str | None, *, fail_fast: bool) -> Halt:
    if text is None:
        return Halt(when="now", count=1) if fail_fast else Halt()
    try:
        return halt.parse_halt(text)
    except ValueError as error:
        raise ShapeError(("halt",), str(error)) from error


def _parse_limits(whole: TaskFile, defaults: Limits) -> Limits:
    limits = defaults
    if whole.on_limit or whole.fallback:
        limits = Limits(max_wait=defaults.max_wait)
    if whole.on_limit:
        try:
            limits = replace(halt.parse_on_limit(whole.on_limit), max_wait=defaults.max_wait)
        except ValueError as error:
            raise ShapeError(("on_limit",), str(error)) from error
    limits = halt.with_fallback(limits, whole.fallback)
    return replace(
        limits,
        first_wait=_parse_seconds(whole.limit_wait, ("limit_wait",)) or limits.first_wait,
        max_wait=_parse_seconds(whole.max_wait, ("max_wait",)) or limits.max_wait,
        at_start="ignore" if whole.ignore_limit else limits.at_start,
    )


def _check_budget(budget: Budget | None) -> Budget:
    for name in Budget.__struct_fields__ if budget else ():
        value = getattr(budget, name)
        if value is not None and not value > 0:
            raise ShapeError(("budget", name), f"{value} is not greater than 0")
    return budget or Budget()


def _parse_labels(value: str | list[str], path: Place) -> tuple[str, ...]:
    """The labels that a worker needs, each once."""
    labels = _to_list(value)
    if problem := labels_problem(labels):
        raise ShapeError(path, *problem)
    return tuple(dict.fromkeys(labels))


def _parse_seconds(value: Scalar | None, path: Place) -> float | None:
    if value is None or (value in (0, "0") and not isinstance(value, bool)):
        return None
    try:
        return duration.parse_duration(value)
    except ValueError as error:
        raise ShapeError(path, str(error)) from error


def _to_text(value: Scalar) -> str:
    """The value in YAML syntax."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _is_unset(option: Option, value: Any) -> bool:
    """Whether the value means unset: programs write null, or 0 turns, in the published format."""
    if value == "":
        # Neither an answer nor work that nobody checks should be a surprise.
        return option.path != "file" and option.name != "check"
    return value is None or (option.droppable and value == 0)


def _to_list(value: str | list[str] | None) -> list[str]:
    return [value] if isinstance(value, str) else list(value or ())
