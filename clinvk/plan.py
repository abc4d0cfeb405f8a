"""Many tasks as one plan: what `parallel`, `compare` and `chain` write, and the scheduler runs."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from msgspec import Struct, convert, to_builtins
from msgspec.structs import replace

from clinvk import placeholders
from clinvk.errors import ConfigError
from clinvk.redact import redact

VERSION = 1  # of a plan as it is kept
NAME_KEPT = 60  # characters of a task's name in the name of its session

# What a prompt may say of an earlier task: `{{tasks.NAME.output}}`; `steps` is the same word.
REFERENCE = re.compile(r"(?:tasks|steps)\.(.+)\.(output|session|error|backend)")
OF_PREVIOUS = {"previous": "output", "session": "session"}  # `{{previous}}`, `{{session}}`

Kind = Literal["parallel", "compare", "chain"]


class Task(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One prompt of a plan. `env` holds values as they were written: `${NAME}` is looked up
    before anything is started, and never kept."""

    name: str
    prompt: str
    key: str = ""  # its name as part of a session's; unique in the plan
    backend: str | None = None
    options: dict[str, Any] = {}  # model, approval, sandbox, …
    droppable: tuple[str, ...] = ()  # those that a backend may lack: they were not said of it
    args: tuple[str, ...] = ()  # handed to the backend as they are
    cwd: str | None = None  # absolute
    env: dict[str, str] = {}
    timeout: float | None = None  # seconds
    stall_timeout: float | None = None  # seconds of silence
    retries: int | None = None  # None: the plan's
    needs: tuple[int, ...] = ()  # positions in the plan
    continues: int | None = None  # the task whose session it goes on with
    soft: bool = False  # it runs although what came before it has failed
    strict: tuple[int, ...] = ()  # of a step: what it says that it needs, be it soft or not
    template: bool = False  # its prompt names other tasks, or has `\\{{` in it
    idempotent: bool = False  # it may be run again when nobody knows how it ended
    tags: tuple[str, ...] = ()
    title: str | None = None
    meta: Any = None
    previous: int | None = None  # the step before it
    known: dict[str, int] = {}  # names in its prompt: positions in the plan
    lenient: bool = False
    dry_run: bool = False
    redacted: bool = False  # it held a secret, and was kept without
    place: str = ""  # in the file, for messages

    @property
    def musts(self) -> tuple[int, ...]:
        """What has to succeed before it is run."""
        return self.strict if self.soft else self.needs


class Halt(Struct, frozen=True, omit_defaults=True):
    """When failures end the whole run."""

    when: Literal["never", "soon", "now"] = "never"  # soon lets what runs come to its end
    count: int | None = None
    percent: float | None = None  # of the tasks that have ended


class Budget(Struct, frozen=True, omit_defaults=True):
    """Caps on what a run takes."""

    cost: float | None = None  # US dollars, as the backends report them
    tokens: int | None = None  # input and output


class Limits(Struct, frozen=True, omit_defaults=True):
    """What is done when a provider's limit is met."""

    action: Literal["wait", "fail", "switch"] = "wait"
    to: tuple[str, ...] = ()  # backends to switch to
    first_wait: float = 30.0  # seconds, where the provider does not say how long
    max_wait: float | None = None  # seconds; the run ends, resumable, where it would take longer


class Rules(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How a plan is run."""

    max_parallel: int = 3
    max_parallel_per_backend: dict[str, int] = {}
    halt: Halt = Halt()
    retries: int = 0
    retry_delay: float = 2.0  # seconds before the first one; it doubles
    limits: Limits = Limits()
    budget: Budget = Budget()
    stall_timeout: float | None = None  # seconds, for tasks that say nothing else
    ephemeral: bool = False
    output_dir: str | None = None


class Plan(Struct, frozen=True, kw_only=True):
    """Tasks, and how they are run. `source` is where they came from, for people."""

    kind: Kind
    tasks: tuple[Task, ...]
    rules: Rules = Rules()
    source: str = ""
    checkpoint: str | None = None
    cwd: str | None = None  # where it was begun: the folder of tasks that say none

    def to_json(self) -> dict[str, Any]:
        return {"version": VERSION, **to_builtins(self)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Plan:
        """Raises `ValueError` where this is no plan, `ConfigError` where it is a newer one."""
        if data.get("version", 0) > VERSION:
            raise ConfigError("the plan was written by a newer clinvk", "update clinvk to use it")
        return convert({k: v for k, v in data.items() if k != "version"}, cls)

    def called(self, text: str) -> list[int]:
        """Positions of the tasks with this name or key; of the one with this number, from 1, where
        there are none."""
        found = [i for i, task in enumerate(self.tasks) if text in (task.name, task.key)]
        return found or [i for i in range(len(self.tasks)) if str(i + 1) == text]


def checked(plan: Plan) -> Plan:
    """The plan with a key for each task. Raises `ConfigError` where it has none, or where what
    they need goes round in a circle."""
    if not plan.tasks:
        raise ConfigError(f"{plan.source or plan.kind}: there are no tasks", "write at least one")
    _check_order(plan)
    return replace(plan, tasks=tuple(_with_keys(plan.tasks)))


def link(tasks: list[Task], needs: list[list[str]], previous: list[int | None]) -> list[Task]:
    """The tasks with positions for the names of what they need, and for those in their prompts.
    Raises `ConfigError`."""
    by_name: dict[str, list[int]] = {}
    for i, task in enumerate(tasks):
        by_name.setdefault(task.name, []).append(i)
    return [_linked(task, i, needs[i], previous[i], by_name) for i, task in enumerate(tasks)]


def _linked(
    task: Task, position: int, needs: list[str], previous: int | None, by_name: dict[str, list[int]]
) -> Task:
    wanted = [i for name in needs for i in _called(name, task, by_name, "needs")]
    known: dict[str, int] = {}
    strict = tuple(dict.fromkeys(wanted)) if previous is not None else ()
    task = replace(task, previous=previous, strict=strict)
    for name in placeholders.names(task.prompt) if task.template else ():
        known[name] = _meant(name, task, position, previous, by_name)
    wanted += [i for i in known.values() if i not in wanted]
    return replace(task, needs=tuple(dict.fromkeys(wanted)), known=known, previous=previous)


def _meant(
    name: str, task: Task, position: int, previous: int | None, by_name: dict[str, list[int]]
) -> int:
    """The task that `{{name}}` is about."""
    if name in OF_PREVIOUS:
        if previous is None:
            raise ConfigError(
                f"{task.place}: {{{{{name}}}}}: nothing comes before {task.name!r}",
                "only later steps of a chain can name what came before",
            )
        return previous
    found = REFERENCE.fullmatch(name)
    if found is None:
        raise _unknown(name, task, by_name)
    meant = _called(found.group(1), task, by_name, f"{{{{{name}}}}}")
    if len(meant) > 1:
        raise ConfigError(
            f"{task.place}: {{{{{name}}}}}: there are {len(meant)} tasks called {found.group(1)!r}",
            'give each a name of its own: name: "review {{file}}"',
        )
    if meant[0] == position:
        raise ConfigError(f"{task.place}: {{{{{name}}}}}: {task.name!r} names itself")
    return meant[0]


def _unknown(name: str, task: Task, by_name: Mapping[str, Any]) -> ConfigError:
    from difflib import get_close_matches  # only on the way to an error

    of_chains = [*OF_PREVIOUS] if task.previous is not None else []
    words = [*of_chains, *(f"tasks.{n}.output" for n in by_name)]
    near = get_close_matches(name, words, n=1)
    meant = f"; did you mean {{{{{near[0]}}}}}?" if near else ""
    some = ", ".join(f"{{{{{word}}}}}" for word in words[:3])
    return ConfigError(
        f"{task.place}: unknown name {{{{{name}}}}}{meant}",
        f"it may be a name of the matrix, or of {some} …; to write two braces as they are: \\{{{{",
    )


def _called(name: str, task: Task, by_name: Mapping[str, list[int]], where: str) -> list[int]:
    if name in by_name:
        return by_name[name]
    from difflib import get_close_matches  # only on the way to an error

    near = get_close_matches(name, list(by_name), n=1)
    meant = f"; did you mean {near[0]!r}?" if near else ""
    raise ConfigError(
        f"{task.place}: {where}: there is no task {name!r}{meant}",
        f"the tasks are: {', '.join(list(by_name)[:20])}",
    )


def _check_order(plan: Plan) -> None:
    """Raise `ConfigError` that names a circle, where there is one."""
    state = [0] * len(plan.tasks)  # 1: being looked at, 2: fine
    for start, task in enumerate(plan.tasks):
        if not task.needs:
            state[start] = 2
        if state[start]:
            continue
        path = [(start, iter(task.needs))]
        state[start] = 1
        while path:
            at, rest = path[-1]
            following = next(rest, None)
            if following is None:
                state[at] = 2
                path.pop()
            elif state[following] == 1:
                trail = [i for i, _ in path]
                circle = [*trail[trail.index(following) :], following]
                names = " needs ".join(repr(plan.tasks[i].name) for i in circle)
                raise ConfigError(
                    f"{plan.source or plan.kind}: the tasks wait for each other: {names}",
                    "take one of these needs away",
                )
            elif state[following] == 0:
                state[following] = 1
                path.append((following, iter(plan.tasks[following].needs)))


def _with_keys(tasks: Iterable[Task]) -> Iterable[Task]:
    """Each with its name in the letters that a session's name may have, numbered where two are
    alike."""
    taken: set[str] = set()
    counts: dict[str, int] = {}
    for number, task in enumerate(tasks, 1):
        # An accent goes and its letter stays; what has no such letter makes room for the number.
        name = redact(task.name)  # it is seen everywhere
        plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
        base = re.sub(r"[^A-Za-z0-9._-]+", "-", plain)[:NAME_KEPT].strip("-._") or str(number)
        base = re.sub(r"\.(\d+)$", r"-\1", base)  # `.2` is the second attempt of a task
        key = base
        while key.lower() in taken:
            counts[base.lower()] = counts.get(base.lower(), 1) + 1
            key = f"{base}-{counts[base.lower()]}"
        taken.add(key.lower())
        yield replace(task, name=name, key=key)
