"""`repeat:` of a chain file: which steps are repeated, until when, and how often at most."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import Struct

from clinvk.model.plan import Task
from clinvk.plans.candidates import Choices
from clinvk.plans.loops.condition import EXAMPLE, ConditionError, check_condition
from clinvk.text.suggest import did_you_mean
from clinvk.text.typed import ShapeError, build_struct, quoted

CHECK = "check"  # as a condition: the checks of the steps have passed
MAX_ROUNDS = 50  # more is a mistake
REPEAT = "repeat"
_SHAPE = f"repeat: {{steps: [fix, review], until: {EXAMPLE}, max: 3}}"

Place = tuple[str | int, ...]


class LoopEntry(Struct, frozen=True, kw_only=True):
    """The keys of a loop, as written."""

    steps: Any = None
    until: Any = None
    max: Any = None
    keep_session: Any = None


class WrittenLoop(Struct, frozen=True, kw_only=True):
    """A loop over the steps at these positions of the file, which follow each other."""

    steps: range
    until: str
    max: int
    keeps: frozenset[int]  # those that continue their session from round to round

    @property
    def first(self) -> int:
        return self.steps[0]

    @property
    def last(self) -> int:
        return self.steps[-1]


def read_loops(
    data: Any, tasks: Sequence[Task], choices: Sequence[Choices | None], *, chain: bool
) -> tuple[WrittenLoop, ...]:
    """The loops of a file with these steps; `choices` are the candidates of each step. Raises
    `ShapeError`."""
    if data is None:
        return ()
    if not chain:
        raise ShapeError(
            (REPEAT,), "only a chain has loops",
            "use clinvk chain; or have a check fixed: check: CMD, rounds: N",
        )  # fmt: skip
    written = data if isinstance(data, list) else [data]
    paths: list[Place] = [
        (REPEAT, i) if isinstance(data, list) else (REPEAT,) for i in range(len(written))
    ]
    loops = tuple(
        _read_loop(entry, tasks, choices, path) for entry, path in zip(written, paths, strict=True)
    )
    for i, loop in enumerate(loops):
        if shared := {s for other in loops[:i] for s in other.steps} & {*loop.steps}:
            name = tasks[min(shared)].name
            raise ShapeError(
                (REPEAT, i, "steps"), f"step {quoted(name)} is part of two loops",
                "a step is repeated by one loop",
            )  # fmt: skip
    return loops


def _read_loop(
    data: Any, tasks: Sequence[Task], choices: Sequence[Choices | None], path: Place
) -> WrittenLoop:
    if not isinstance(data, Mapping):
        raise ShapeError(path, f"expected the keys of a loop, found {data!r}", f"e.g. {_SHAPE}")
    if REPEAT in data:
        raise _nested_error((*path, REPEAT))
    entry = build_struct(LoopEntry, data, path)
    steps = _read_steps(entry.steps, tasks, (*path, "steps"))
    until = _read_until(entry.until, tasks, choices, steps, (*path, "until"))
    rounds = _read_max(entry.max, (*path, "max"))
    several = [tasks[i] for i in steps if choices[i] is not None]
    keeps = frozenset[int]() if several else frozenset({steps[0]})
    if entry.keep_session is not None:
        keeps = _read_keeps(entry.keep_session, tasks, steps, (*path, "keep_session"))
    if keeps and several:
        raise ShapeError(
            (*path, "keep_session"),
            f"step {quoted(several[0].name)} has several candidates, so each round begins in new "
            "worktrees, in which not every CLI can continue a session",
            "leave it out; a prompt can contain {{previous}}",
        )
    return WrittenLoop(steps=steps, until=until, max=rounds, keeps=keeps)


def _nested_error(path: Place) -> ShapeError:
    return ShapeError(
        path, "a loop cannot contain another loop",
        "repeat all steps in one loop; or write several loops, one after another, as a list",
    )  # fmt: skip


def _read_steps(data: Any, tasks: Sequence[Task], path: Place) -> range:
    names = [data] if isinstance(data, (str, int)) and not isinstance(data, bool) else data
    if not names or not isinstance(names, list):
        raise ShapeError(path, "it names no step", f"e.g. {_SHAPE}")
    found = [_find_step(name, tasks, (*path, i)) for i, name in enumerate(names)]
    for i, position in enumerate(found):
        name = quoted(tasks[position].name)
        if position in found[:i]:
            raise ShapeError((*path, i), f"step {name} is there twice")
        if i == 0 or position == found[i - 1] + 1:
            continue
        before = quoted(tasks[found[i - 1]].name)
        if position < found[i - 1]:
            raise ShapeError(
                (*path, i), f"step {name} comes before {before} in the file",
                "list them in the order of the file",
            )  # fmt: skip
        between = quoted(tasks[found[i - 1] + 1].name)
        raise ShapeError(
            (*path, i), f"step {between} is between {before} and {name}, but not in the loop",
            "add it to the loop, or move it before or after the loop",
        )  # fmt: skip
    return range(found[0], found[-1] + 1)


def _find_step(name: Any, tasks: Sequence[Task], path: Place) -> int:
    if isinstance(name, Mapping):
        if REPEAT in name or "steps" in name:
            raise _nested_error(path)
        raise ShapeError(path, "expected the name of a step", "write the step itself in `steps`")
    text = str(name).strip()
    found = [i for i, task in enumerate(tasks) if task.name == text]
    if not found and text.isdecimal() and 0 < int(text) <= len(tasks):
        found = [int(text) - 1]
    if not found:
        known = list(dict.fromkeys(task.name for task in tasks))
        raise ShapeError(
            path, f"there is no step {quoted(text)}{did_you_mean(text, known)}",
            f"the steps are: {', '.join(known[:20])}",
        )  # fmt: skip
    if len(found) > 1:
        raise ShapeError(
            path, f"there are {len(found)} steps named {quoted(text)}", "give each a unique name"
        )
    return found[0]


def _read_until(
    data: Any,
    tasks: Sequence[Task],
    choices: Sequence[Choices | None],
    steps: range,
    path: Place,
) -> str:
    if data is None:
        raise ShapeError(
            path, "missing: when does the loop end?", f"write `check`, or an expression: {EXAMPLE}"
        )
    if not isinstance(data, str):
        raise ShapeError(path, f"expected an expression, found {data!r}", f"e.g. {EXAMPLE}")
    if data.strip() == CHECK:
        if not any(tasks[i].options.get("check") for i in steps):
            raise ShapeError(
                path,
                "no step of the loop has a check",
                "give one of them a check: check: make test",
            )
        return CHECK
    schemas = {tasks[i].name: _schema(tasks[i], choices[i], path) for i in steps}
    try:
        check_condition(data, schemas)
    except ConditionError as error:
        raise ShapeError(path, str(error), error.hint) from error
    return data.strip()


def _schema(task: Task, choices: Choices | None, path: Place) -> Any:
    """The schema of its answer as data; None if it has none. It was checked to be JSON."""
    text = task.options.get("schema")
    own = [made.options.get("schema") for _, made in choices.tasks] if choices else []
    if own and any(other != own[0] for other in own):
        raise ShapeError(
            path, f"the candidates of step {quoted(task.name)} have different schemas",
            "set one schema in the step",
        )  # fmt: skip
    text = own[0] if own else text
    return json.loads(text) if isinstance(text, str) else text


def _read_max(data: Any, path: Place) -> int:
    if data is None:
        raise ShapeError(path, "missing: how many rounds may there be?", "e.g. max: 3")
    if not isinstance(data, int) or isinstance(data, bool):
        raise ShapeError(path, f"expected a whole number, found {data!r}", "e.g. max: 3")
    if not 1 <= data <= MAX_ROUNDS:
        size = "small" if data < 1 else "large"
        raise ShapeError(path, f"{data} is too {size}; it can be 1 to {MAX_ROUNDS}")
    return data


def _read_keeps(data: Any, tasks: Sequence[Task], steps: range, path: Place) -> frozenset[int]:
    names = data if isinstance(data, list) else [data]
    found = [_find_step(name, tasks, (*path, i)) for i, name in enumerate(names)]
    for i, position in enumerate(found):
        if position not in steps:
            raise ShapeError(
                (*path, i), f"step {quoted(tasks[position].name)} is not part of the loop"
            )
    return frozenset(found)
