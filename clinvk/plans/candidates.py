"""Tasks with `candidates`: each candidate becomes a task of its own, in a worktree of its own, and the
task itself chooses between them.

    fix, candidates: [claude, codex]    becomes    fix[claude], fix[codex], fix

Other tasks refer to `fix`, whose result is that of the best candidate.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from clinvk.errors import UsageError
from clinvk.model.checks.check import check_problem
from clinvk.model.plan import Decision, Task, Worktree
from clinvk.plans.comparison import parse_backend
from clinvk.plans.schema import OF_CANDIDATES, OPTIONS, TaskEntry
from clinvk.text.typed import ShapeError, build_struct, unknown_key

Place = tuple[str | int, ...]

MOST = 100  # candidates of a task: more is a mistake
# What a candidate may change. What decides between them is the same for all.
_OF_ALL = {"check", "check_timeout", "rounds", "protect", "expect_change"}
_KEYS = [key for key in OPTIONS if key not in _OF_ALL]
KEYS = ("backend", *_KEYS, "options", "args", "extra", "lenient")


class Choice(Struct, frozen=True, kw_only=True):
    """A candidate as written: its label, and the keys in which it differs from its task."""

    label: str
    keys: dict[str, Any]
    path: Place


class Choices(Struct, frozen=True, kw_only=True):
    """The candidates of a task, ready to be put into the plan."""

    tasks: tuple[tuple[str, Task], ...]  # with their labels
    decision: Decision  # without their positions


def parse_choices(written: TaskEntry, path: Place, inherited: Collection[str]) -> list[Choice]:
    """The candidates of a task; empty if it has none. `inherited` are the keys that were set for all
    tasks. Raises `ShapeError`."""
    if written.candidates is None:
        for key in OF_CANDIDATES:
            if getattr(written, key) is not None and key not in inherited:
                raise ShapeError((*path, key), "there are no candidates", "add e.g.: candidates: 3")
        return []
    place = (*path, "candidates")
    found = _number(_entries(written.candidates, place), place)
    if (
        written.backend is not None
        and "backend" not in inherited
        and any("backend" in choice.keys for choice in found)
    ):
        raise ShapeError(
            (*path, "backend"), "its candidates name their backends",
            "leave out one of them; or use candidates: 3 for three attempts with this backend",
        )  # fmt: skip
    if written.worktree is False:
        raise ShapeError(
            (*path, "worktree"),
            "each candidate needs a worktree",
            "leave it out, or the candidates",
        )
    return found


def parse_decision(written: TaskEntry, path: Place) -> Decision:
    """How the best candidate is found. Raises `ShapeError`."""
    if written.score is not None and (problem := check_problem("check", written.score)):
        raise ShapeError((*path, "score"), problem, "use a shell command that prints a number")
    if written.score_order is not None and written.score is None:
        raise ShapeError((*path, "score_order"), "there is no score", "add: score: COMMAND")
    if written.judge is not None:
        _parse_backend(written.judge, (*path, "judge"))
    return Decision(
        candidates=(), score=written.score, lowest_wins=written.score_order == "lower",
        judge=written.judge,
    )  # fmt: skip


def _entries(written: int | str | Sequence[Any], path: Place) -> list[tuple[dict[str, Any], Place]]:
    """The keys of each candidate, and its place."""
    if isinstance(written, str):
        text = written.strip()
        is_number = text.isdecimal() and text.isascii()
        written = int(text) if is_number else [part.strip() for part in text.split(",")]
    if isinstance(written, bool) or (isinstance(written, int) and written < 1):
        raise ShapeError(path, f"{written} is not a number of candidates", "use e.g. 3")
    count = written if isinstance(written, int) else len(written)
    if count > MOST:
        raise ShapeError(path, f"there are {count:,} candidates; the maximum is {MOST}")
    if isinstance(written, int):
        return [({}, path)] * written
    if not written:
        raise ShapeError(path, "the list is empty", "name backends, e.g. [claude, codex]")
    return [(_keys(entry, (*path, i)), (*path, i)) for i, entry in enumerate(written)]


def _keys(entry: Any, path: Place) -> dict[str, Any]:
    if isinstance(entry, str):
        backend, model = _parse_backend(entry, path)
        return {"backend": backend} | ({"model": model} if model else {})
    if not isinstance(entry, Mapping):
        raise ShapeError(path, f"expected a backend, or keys and values, found {entry!r}")
    for key in entry:
        if key in _OF_ALL:
            raise ShapeError(
                (*path, key), "it is the same for all candidates", "set it in the task"
            )
        if key not in KEYS:
            raise ShapeError(
                (*path, str(key)), unknown_key(str(key), KEYS), f"known: {', '.join(KEYS)}"
            )
    read = build_struct(TaskEntry, dict(entry), path)
    return {key: getattr(read, key) for key in entry}


def _parse_backend(name: str, path: Place) -> tuple[str, str | None]:
    try:
        return parse_backend(name)
    except UsageError as error:
        raise ShapeError(path, error.message, error.hint) from error


def _number(entries: Iterable[tuple[dict[str, Any], Place]], path: Place) -> list[Choice]:
    """The candidates, each with a label of its own."""
    found = [(_label(keys), keys, place) for keys, place in entries]
    counts, seen = Counter(label for label, _, _ in found), Counter[str]()
    choices = []
    for number, (label, keys, place) in enumerate(found, 1):
        seen[label] += 1
        own = label
        if not label:
            own = str(number)
        elif counts[label] > 1:
            own = f"{label}-{seen[label]}"
        choices.append(Choice(label=own, keys=keys, path=place if keys else path))
    return choices


def _label(keys: Mapping[str, Any]) -> str:
    """`codex`, `codex:gpt-5` or `gpt-5`; empty if it names neither."""
    return ":".join(str(keys[key]) for key in ("backend", "model") if keys.get(key))


def expand(tasks: Sequence[Task], choices: Sequence[Choices | None], *, chain: bool) -> list[Task]:
    """The tasks of a plan with the candidates of each before it, and positions in the new plan in
    place of those in the old one."""
    if not any(choices):
        return list(tasks)
    places: list[int] = []  # where each task is now
    for own in choices:
        places.append((places[-1] + 1 if places else 0) + (len(own.tasks) if own else 0))
    if chain:
        tasks = _all_in_worktrees(tasks, choices)
    found: list[Task] = []
    for old, own, place in zip(tasks, choices, places, strict=True):
        task = _moved(old, places)
        if own is None:
            found.append(task)
            continue
        first = len(found)
        found += [_candidate(task, label, made, place) for label, made in own.tasks]
        found.append(_deciding(task, own.decision, tuple(range(first, place))))
    return found


def check_names(
    tasks: Sequence[Task], choices: Sequence[Choices | None], places: Sequence[Place]
) -> None:
    """Raise `ShapeError` at the name of a task that a candidate of another one has, too: which of them
    is meant could not be said. `places` are those of the tasks."""
    made = {
        f"{task.name}[{label}]": task.name
        for task, own in zip(tasks, choices, strict=True)
        if own is not None
        for label, _ in own.tasks
    }
    for task, path in zip(tasks, places, strict=True):
        if (of := made.get(task.name)) is not None:
            raise ShapeError(
                (*path, "name"), f"{task.name!r} is the name of a candidate of {of!r}",
                "choose another name",
            )  # fmt: skip


def _all_in_worktrees(tasks: Sequence[Task], choices: Sequence[Choices | None]) -> list[Task]:
    """The steps of a chain with candidates: the others run in the worktree of the chain, too, since
    they continue with what was chosen."""
    wanted = next(t.worktree for t, own in zip(tasks, choices, strict=True) if own is not None)
    return [replace(t, worktree=t.worktree or wanted or Worktree()) for t in tasks]


def _moved(task: Task, places: Sequence[int]) -> Task:
    def at(i: int | None) -> int | None:
        return None if i is None else places[i]

    return replace(
        task, needs=tuple(places[n] for n in task.needs), strict=tuple(places[n] for n in task.strict),
        known={name: places[n] for name, n in task.known.items()},
        previous=at(task.previous), continues=at(task.continues), repeats=at(task.repeats),
    )  # fmt: skip


def _candidate(task: Task, label: str, made: Task, place: int) -> Task:
    return replace(
        task, name=f"{task.name}[{label}]", backend=made.backend, options=made.options,
        args=made.args, lenient=made.lenient, droppable=made.droppable,
        worktree=task.worktree or Worktree(), candidate_of=place, repeats=None,
    )  # fmt: skip


def _deciding(task: Task, decision: Decision, candidates: tuple[int, ...]) -> Task:
    """The task itself: it ends with the result of the best candidate, if there is one."""
    backend, model = parse_backend(decision.judge) if decision.judge else (None, None)
    return Task(
        name=task.name, prompt=task.prompt, backend=backend, options={"model": model} if model else {},
        cwd=task.cwd, env=task.env, timeout=task.timeout, stall_timeout=task.stall_timeout,
        retries=task.retries, needs=(*task.needs, *candidates), soft=True,
        strict=task.required_needs, previous=task.previous, repeats=task.repeats, labels=task.labels, tags=task.tags, title=task.title,
        meta=task.meta, dry_run=task.dry_run, place=task.place,
        idempotent=True,  # what it does can be repeated
        decides=replace(decision, candidates=candidates),
    )  # fmt: skip
