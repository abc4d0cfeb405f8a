"""Resolve the names by which tasks refer to each other to positions in the plan."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from graphlib import CycleError, TopologicalSorter

from msgspec import Struct
from msgspec.structs import replace

from clinvk.model.plan import PREVIOUS_FIELDS, REFERENCE, Task
from clinvk.plans.loops.reading import WrittenLoop
from clinvk.text import template
from clinvk.text.suggest import did_you_mean

MAX_NAMES_SHOWN = 10  # names in a hint


class TaskReferences(Struct, frozen=True):
    """The references of a task to others, and the other names that its prompt could use: of the
    matrix, and columns of the file."""

    needs: list[str]
    names: tuple[str, ...] = ()


class TaskError(ValueError):
    """An error in one task, and the key it is at."""

    def __init__(self, position: int, key: str, problem: str, hint: str) -> None:
        super().__init__(problem)
        self.position = position
        self.key = key
        self.hint = hint


class Linked(Struct, frozen=True):
    """The tasks, with positions in place of names in their needs and prompts. `later` are the steps
    of loops, by position, as they are from the second round on."""

    tasks: list[Task]
    later: dict[int, Task]


def link(
    tasks: list[Task],
    said: list[TaskReferences],
    *,
    chain: bool,
    loops: Sequence[WrittenLoop] = (),
    again: Mapping[int, Task] | None = None,
) -> Linked:
    """The tasks with positions. `again` are steps of loops that have another prompt in later
    rounds. Raises `TaskError`."""
    linker = _Linker(tasks, chain=chain, loops=loops)
    linked = [linker.link_task(i, said[i]) for i in range(len(tasks))]
    _check_order(linked)
    return Linked(linked, {i: linker.link_later(i, said[i], again or {}) for i in linker.loops})


class _Linker:
    def __init__(self, tasks: list[Task], *, chain: bool, loops: Sequence[WrittenLoop]) -> None:
        self.tasks = tasks
        self.loops = {i: loop for loop in loops for i in loop.steps}  # of each step in one
        self.chain = chain
        self.kind = "step" if chain else "task"
        self.by_name: dict[str, list[int]] = {}
        for i, task in enumerate(tasks):
            self.by_name.setdefault(task.name, []).append(i)

    def link_task(self, i: int, said: TaskReferences) -> Task:
        task = self._with_needs(self.tasks[i], i, said)
        known = self._known(task, i, said, "prompt")
        task = replace(task, known={n: p for n, p in known.items() if not self._is_back(i, p)})
        if len(task.known) < len(known):
            task = self._without_back(task, i, known)
        return _with_known_needs(task, task.known.values())

    def link_later(self, i: int, said: TaskReferences, again: Mapping[int, Task]) -> Task:
        """A step of a loop, as it is from the second round on."""
        key = "again" if i in again else "prompt"
        task, loop = self._with_needs(again.get(i, self.tasks[i]), i, said), self.loops[i]
        if i == loop.first:
            task = replace(task, previous=loop.last)
        task = replace(task, known=self._known(task, i, said, key))
        return _with_known_needs(task, (p for p in task.known.values() if not self._is_back(i, p)))

    def _with_needs(self, task: Task, i: int, said: TaskReferences) -> Task:
        """The task with what it says that it needs."""
        wanted = [p for name in said.needs for p in self._find_tasks(name, i, "needs", "needs")]
        found = tuple(dict.fromkeys(wanted))
        if self.chain and i > 0:
            task = replace(task, previous=i - 1, strict=found)
        return replace(task, needs=found)

    def _known(self, task: Task, i: int, said: TaskReferences, key: str) -> dict[str, int]:
        names = template.placeholder_names(task.prompt) if task.template else ()
        try:
            return {name: self._resolve_placeholder(name, task, i, said) for name in names}
        except TaskError as error:
            raise TaskError(i, key, str(error), error.hint) from error

    def _is_back(self, i: int, position: int) -> bool:
        """Whether this task means the round before by the other one."""
        return i in self.loops and position in self.loops[i].steps and position >= i

    def _without_back(self, task: Task, i: int, known: Mapping[str, int]) -> Task:
        """The task as it is in the first round, which has no round before it."""
        empty = {name: "" for name in known if name not in task.known}
        prompt = template.fill(task.prompt, empty.get)
        if not template.placeholder_names(prompt):
            prompt = template.render(prompt, str)
            task = replace(task, template=False)
        if not prompt.strip():
            named = ", ".join(map(_in_braces, empty))
            raise TaskError(
                i, "prompt", f"the prompt is empty in the first round, in which {named} is empty",
                "add more text; or move this to `again`, the prompt of later rounds",
            )  # fmt: skip
        return replace(task, prompt=prompt)

    def _resolve_placeholder(self, name: str, task: Task, i: int, said: TaskReferences) -> int:
        """The task that `{{name}}` refers to."""
        if name in PREVIOUS_FIELDS:
            if task.previous is None:
                raise TaskError(
                    i, "prompt", f"{_in_braces(name)}: nothing comes before {task.name!r}",
                    "only later steps of a chain can refer to the one before",
                )  # fmt: skip
            return task.previous
        found = REFERENCE.fullmatch(name)
        if found is None:
            raise self._unknown_placeholder(name, i, said)
        called = found[1].strip()  # as in names of tasks
        meant = self._find_tasks(called, i, "prompt", _in_braces(name))
        if len(meant) > 1:
            raise TaskError(
                i, "prompt",
                f"{_in_braces(name)}: there are {len(meant)} {self.kind}s named {called!r}",
                'give each a unique name: name: "review {{file}}"',
            )  # fmt: skip
        if found[2] == "error":
            self._check_error_reference(name, task, i, meant[0])
        return meant[0]

    def _find_tasks(self, name: str, i: int, key: str, where: str) -> list[int]:
        """The tasks of this name, which `i` may wait for."""
        if name not in self.by_name and name.isdecimal() and 0 < int(name) <= len(self.tasks):
            return [int(name) - 1]
        if name not in self.by_name:
            raise TaskError(
                i, key, f"{where}: there is no {self.kind} {name!r}{did_you_mean(name, self.by_name)}",
                f"the {self.kind}s are: {', '.join(list(self.by_name)[:20])}",
            )  # fmt: skip
        found = self.by_name[name]
        if key == "prompt" and len(found) == 1 and self._is_back(i, found[0]):
            return found
        if found == [i]:
            raise TaskError(
                i, key, f"{where}: {name!r} refers to itself", f"name another {self.kind}, or none"
            )
        if self.chain and found[-1] > i:
            raise TaskError(
                i, key, f"{where}: step {name!r} comes after {self.tasks[i].name!r}",
                "a step can only refer to earlier ones; move that one up",
            )  # fmt: skip
        return found

    def _check_error_reference(self, name: str, task: Task, i: int, other: int) -> None:
        """Raise `TaskMistake` for a reference to an error that cannot occur, since the task would
        not be run then."""
        if self._is_back(i, other):
            raise TaskError(
                i, "prompt", f"{_in_braces(name)} is always empty: a step that fails ends its loop",
                "refer to its output",
            )  # fmt: skip
        if task.soft and other not in task.strict:
            return
        hint = "use it in a chain with stop_on_failure: false, which continues after failures"
        if task.soft:
            hint = f"remove {self.tasks[other].name!r} from its `needs`, or leave out the error"
        raise TaskError(
            i, "prompt",
            f"{_in_braces(name)} is always empty: {task.name!r} is only run when "
            f"{self.tasks[other].name!r} has succeeded", hint,
        )  # fmt: skip

    def _unknown_placeholder(self, name: str, i: int, said: TaskReferences) -> TaskError:
        of_chains = [*PREVIOUS_FIELDS] if self.chain and i > 0 else []
        # It may refer neither to itself nor, in a chain, to later steps.
        seen = self.loops[i].last + 1 if i in self.loops else i
        others = self.tasks[:seen] if self.chain else [*self.tasks[:i], *self.tasks[i + 1 :]]
        of_tasks = [f"{self.kind}s.{n}.output" for n in dict.fromkeys(t.name for t in others)]
        near = did_you_mean(name, [*said.names, *of_chains, *of_tasks], quote=_in_braces)
        return TaskError(
            i, "prompt", f"unknown name {_in_braces(name)}{near}",
            escape_hint([*said.names, *of_chains, *of_tasks[:3]]),
        )  # fmt: skip


def _with_known_needs(task: Task, known: Iterable[int]) -> Task:
    """The task, which also needs those whose answers it uses."""
    return replace(task, needs=tuple(dict.fromkeys((*task.needs, *known))))


def unknown_placeholder_message(name: str, names: list[str]) -> str:
    """The message for an unknown name in braces, with the nearest known one."""
    return f"unknown name {_in_braces(name)}{did_you_mean(name, names, quote=_in_braces)}"


def escape_hint(names: list[str]) -> str:
    """The names that may be used in braces, and how to write literal braces."""
    known = ", ".join(map(_in_braces, names[:MAX_NAMES_SHOWN])) + (
        ", …" if len(names) > MAX_NAMES_SHOWN else ""
    )
    may = f"available: {known}; " if names else ""
    return f"{may}write \\{{{{ for literal braces"


def _in_braces(name: str) -> str:
    return f"{{{{{name}}}}}"


def _check_order(tasks: list[Task]) -> None:
    """Raise `TaskError` that names a circular dependency, if there is one."""
    # The sorter looks for a circle along dependents. Reversed, it follows the needs, and names the
    # circle in the order in which the tasks state it.
    sorter: TopologicalSorter[int] = TopologicalSorter(dict.fromkeys(range(len(tasks)), ()))
    for i, task in enumerate(tasks):
        for need in task.needs:
            sorter.add(need, i)
    try:
        sorter.prepare()
    except CycleError as error:
        circle: list[int] = error.args[1]
        names = " needs ".join(repr(tasks[i].name) for i in circle)
        raise TaskError(
            circle[0], "needs", f"the tasks wait for each other: {names}",
            "remove one of these from `needs` or from a prompt",
        ) from None  # fmt: skip
