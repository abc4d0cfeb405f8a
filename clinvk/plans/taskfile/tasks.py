"""One task of a file, ready except for what it says about other tasks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from clinvk.disk.jsonl import replace_surrogates
from clinvk.model.plan import Task
from clinvk.plans import interpolate
from clinvk.plans.candidates import Choice, Choices, parse_choices, parse_decision
from clinvk.plans.labels import labels_problem
from clinvk.plans.references import TaskReferences
from clinvk.plans.schema import ALTERNATIVES, TaskEntry
from clinvk.plans.taskfile.entries import Entry
from clinvk.plans.taskfile.files import NamedFiles
from clinvk.plans.taskfile.flags import OF_CHECK
from clinvk.plans.taskfile.levels import Levels
from clinvk.plans.taskfile.options import read_options
from clinvk.plans.taskfile.values import Place, parse_seconds, to_json_data, to_list, to_text
from clinvk.plans.taskfile.worktree import parse_worktree
from clinvk.text import template as placeholders
from clinvk.text.typed import ShapeError, format_path


class WrittenTask(Struct, frozen=True, kw_only=True):
    """A task, with what it says about others."""

    task: Task
    path: Place
    entry: Any  # the data at that place, from which it and others may have been made
    references: TaskReferences
    again: str | None = None  # the prompt of the later rounds of a loop
    choices: Choices | None = None  # its candidates


class TaskReader:
    """Reads the tasks of a file. Raises `ShapeError`."""

    def __init__(self, source: str, levels: Levels, *, chain: bool) -> None:
        self._source = source
        self._levels = levels
        self._chain = chain
        self._files = NamedFiles()

    def read(
        self, found: Entry, entry: Any, path: Place, number: int, *, soft: bool
    ) -> WrittenTask:
        """The task of this entry; `number` is its position, which names it if nothing else does.
        `soft`: it runs even if earlier ones failed."""
        written = found.keys
        task = self._task(written, found.variables, path, number)
        _check_needs_check(task, found.inherited, path)
        droppable = self._levels.droppable(found.inherited)
        choices = self._choices(found, path, number)
        return WrittenTask(
            task=replace(task, droppable=droppable, soft=soft),
            path=path,
            entry=entry,
            references=TaskReferences(to_list(written.needs), tuple(found.variables)),
            again=_again(written, path),
            choices=choices,
        )

    def _choices(self, found: Entry, path: Place, number: int) -> Choices | None:
        """The candidates of a task; None if it has none."""
        written, inherited = found.keys, found.inherited
        choices = parse_choices(written, path, inherited)
        if not choices:
            return None
        decision = parse_decision(written, path)
        made = []
        for choice in choices:
            others = {ALTERNATIVES[k]: None for k in choice.keys if k in ALTERNATIVES}
            keys = replace(written, **{**others, **choice.keys})
            with _at_choice(choice, path):
                task = self._task(keys, found.variables, path, number)
            _check_needs_check(task, inherited, path)
            own = self._levels.droppable(k for k in inherited if k not in choice.keys)
            made.append((choice.label, replace(task, droppable=own)))
        return Choices(tasks=tuple(made), decision=decision)

    def _task(
        self, written: TaskEntry, variables: Mapping[str, str], path: Place, number: int
    ) -> Task:
        place = f"{self._source}: {format_path(path)}"
        name = _task_name(written, number)
        prompt = self._prompt(written, variables, path)
        if written.retries is not None and written.retries < 0:
            raise ShapeError((*path, "retries"), f"{written.retries} is too small")
        # If there is nothing to name, two braces are literal.
        template = bool(variables or written.needs or self._chain)
        template = template or placeholders.mentions_prefix(prompt, interpolate.TASK_PREFIXES)
        if template and not placeholders.placeholder_names(prompt):
            prompt, template = placeholders.render(prompt, str), False
        return Task(
            name=name,
            prompt=prompt,
            backend=written.backend,
            options=read_options(written, self._files, path),
            args=(*written.extra, *written.args),
            cwd=self._files.workdir(written.workdir, (*path, "workdir")),
            env={k: to_text(v) for k, v in written.env.items()},
            timeout=parse_seconds(written.timeout, (*path, "timeout")),
            stall_timeout=parse_seconds(written.stall_timeout, (*path, "stall_timeout")),
            retries=written.retries,
            template=template,
            idempotent=written.idempotent,
            worktree=parse_worktree(written.worktree, (*path, "worktree")),
            labels=_parse_labels(written.labels, (*path, "labels")),
            tags=tuple(written.tags),
            title=written.title,
            meta=to_json_data(written.meta, (*path, "meta")),
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
            prompt = self._files.text(written.prompt_file, (*path, "prompt_file"))
            prompt = interpolate.interpolate_prompt(prompt, variables, (*path, "prompt_file"))
        if prompt is None:
            raise ShapeError(path, "missing key 'prompt'")
        if not prompt.isascii():
            prompt = replace_surrogates(prompt)
        if not prompt.strip():
            raise ShapeError(path, "the prompt is empty")
        return prompt


def _again(written: TaskEntry, path: Place) -> str | None:
    if written.again is None:
        return None
    if not written.again.strip():
        raise ShapeError((*path, "again"), "the prompt is empty")
    return str(replace_surrogates(written.again))


def _task_name(written: TaskEntry, number: int) -> str:
    given = written.id if written.name is None else written.name
    return (to_text(given).strip() if given is not None else "") or str(number + 1)


def _parse_labels(value: str | list[str], path: Place) -> tuple[str, ...]:
    """The labels that a worker needs, each once."""
    labels = to_list(value)
    if problem := labels_problem(labels):
        raise ShapeError(path, *problem)
    return tuple(dict.fromkeys(labels))


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


def _check_needs_check(task: Task, inherited: list[str], path: Place) -> None:
    """Raise `ShapeError` for a key about a check in a task without one. One that is inherited is
    for other tasks, and removed."""
    if task.options.get("check"):
        return
    for key in OF_CHECK & task.options.keys():
        if key not in inherited:
            raise ShapeError((*path, key), "there is no check", "add: check: CMD")
        del task.options[key]
