"""Many tasks as one plan: what `parallel`, `compare` and `chain` write, and the scheduler runs."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

from msgspec import Struct, to_builtins
from msgspec.structs import replace

from clinvk.errors import ConfigError
from clinvk.model.candidates.ranking import Ranking
from clinvk.model.conversion import convert
from clinvk.text.redact import redact

VERSION = 3  # of a plan as it is kept
WITHOUT_DECISIONS = 2  # the version of one that older programs can run, too
MAX_NAME_LENGTH = 60  # characters of a task's name in the name of its session

# How a prompt refers to an earlier task: `{{tasks.NAME.output}}`; `steps` is the same word.
REFERENCE = re.compile(r"(?:tasks|steps)\.(.+)\.(output|session|error|backend|diff|check)")
PREVIOUS_FIELDS = {"previous": "output", "session": "session"}  # `{{previous}}`, `{{session}}`

# A prompt is a run of one task only in a worktree.
Kind = Literal["parallel", "compare", "chain", "prompt"]
Dirty = Literal["tell", "include", "refuse"]


class Worktree(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a user wants of the worktree of a task, and what was recorded of it when the run
    started."""

    base: str | None = None  # a revision; None: HEAD
    dirty: Dirty = "tell"  # about uncommitted changes
    copy: tuple[str, ...] = ()  # patterns of ignored files that are copied into it
    setup: str | None = None  # a shell command that runs in it first
    keep: bool = False  # after its result was applied

    # Recorded when the run starts.
    repository: str = ""  # the git directory that all worktrees of the repository share
    root: str = ""  # of the working tree that the task was started in
    workdir: str = ""  # the task's directory, below the root
    commit: str = ""  # the commit that the worktree begins with
    slug: str = ""  # in refs/clinvk/RUN/SLUG/ATTEMPT
    directory: str = ""  # in ~/.clinvk/worktrees/RUN/DIRECTORY; steps of a chain share one
    size: int | None = None  # bytes of the files of that commit
    remote: str = ""  # in a cluster: where git takes the files from, and brings the results to

    @property
    def as_written(self) -> Worktree:
        """Without what was recorded."""
        return Worktree(
            base=self.base, dirty=self.dirty, copy=self.copy, setup=self.setup, keep=self.keep
        )


class TaskWorktree(Struct, frozen=True, kw_only=True):
    """The worktree of an attempt at a task of a run."""

    run: str
    attempt: int
    wanted: Worktree
    start: str | None = None  # the commit that it begins with, if not that of `wanted`
    tip: str | None = None  # in a cluster: the result so far, which a new worktree continues


class Decision(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How a task chooses between its candidates, which are tasks of the plan, too."""

    candidates: tuple[int, ...]  # positions in the plan
    score: str | None = None  # a shell command; the last number that it prints in their worktrees
    lowest_wins: bool = False
    judge: str | None = None  # a backend, maybe with a model: asked between equally good ones


class Task(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One prompt of a plan. `env` holds values as written: `${NAME}` is looked up before anything
    is started, and never stored."""

    name: str
    prompt: str
    key: str = ""  # its name as part of a session's; unique in the plan
    backend: str | None = None
    options: dict[str, Any] = {}  # model, approval, sandbox, …
    droppable: dict[str, str] = {}  # inherited options, and where they were set
    args: tuple[str, ...] = ()  # passed to the backend unchanged
    cwd: str | None = None  # absolute; "none": an empty one of its own
    env: dict[str, str] = {}
    timeout: float | None = None  # seconds
    stall_timeout: float | None = None  # seconds of silence
    retries: int | None = None  # None: the plan's
    needs: tuple[int, ...] = ()  # positions in the plan
    continues: int | None = None  # the task whose session it continues
    soft: bool = False  # it runs even if earlier tasks failed
    strict: tuple[int, ...] = ()  # of a step: what it says that it needs, be it soft or not
    template: bool = False  # its prompt names other tasks, or has `\\{{` in it
    idempotent: bool = False  # it may be run again if its end is unknown
    labels: tuple[str, ...] = ()  # that a worker of a cluster needs to run it
    tags: tuple[str, ...] = ()
    title: str | None = None
    meta: Any = None
    previous: int | None = None  # the step before it
    repeats: int | None = None  # the same step in the round before, if it is part of a loop
    known: dict[str, int] = {}  # names in its prompt: positions in the plan
    lenient: bool = False
    stored_options: bool = False  # apply the options that the user has stored
    dry_run: bool = False
    worktree: Worktree | None = None  # in which it runs; None: in `cwd` itself
    candidate_of: int | None = None  # the task that chooses between it and others
    decides: Decision | None = None  # it sends no prompt, but chooses between its candidates
    redacted: bool = False  # it contained a secret, and was stored without it
    place: str = ""  # in the file, for messages

    @property
    def description(self) -> str:
        """Its place, and its name if it has one, for messages."""
        if not self.place or self.name.isdigit():
            return self.place
        name = redact(self.name)
        short = name if len(name) <= MAX_NAME_LENGTH else name[:MAX_NAME_LENGTH] + "…"
        return f"{self.place} {short!r}"

    @property
    def candidates(self) -> tuple[int, ...]:
        """The tasks that it chooses between; empty for others."""
        return self.decides.candidates if self.decides is not None else ()

    @property
    def required_needs(self) -> tuple[int, ...]:
        """The tasks that have to succeed before it is run."""
        return self.strict if self.soft else self.needs


class Loop(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Steps of a chain that are repeated until a condition holds. All rounds that there may be are
    steps of the plan; those that turn out not to be needed are skipped."""

    names: tuple[str, ...]  # of the steps, as in the file
    until: str  # `check`, or an expression
    rounds: tuple[tuple[int, ...], ...]  # the positions in the plan of the steps of each round

    def answers_by_name(self, number: int, answer: Callable[[int], Any]) -> dict[str, Any]:
        """The answer of each step in a round, counted from 0."""
        return dict(zip(self.names, map(answer, self.rounds[number]), strict=True))


class Halt(Struct, frozen=True, omit_defaults=True):
    """When failures end the whole run."""

    when: Literal["never", "soon", "now"] = "never"  # soon lets running tasks finish
    count: int | None = None
    percent: float | None = None  # of the tasks that have ended


class Budget(Struct, frozen=True, omit_defaults=True):
    """Caps on the usage of a run."""

    cost: float | None = None  # US dollars, as the backends report them
    tokens: int | None = None  # input and output


class Limits(Struct, frozen=True, omit_defaults=True):
    """What to do at a rate limit."""

    action: Literal["wait", "fail", "switch"] = "wait"
    to: tuple[str, ...] = ()  # backends to switch to
    first_wait: float = 30.0  # seconds, if the provider does not say how long
    max_wait: float | None = (
        None  # seconds; if it would take longer, the run stops and can be resumed
    )
    # What to do about one that was remembered before the run starts: `refuse` leaves the tasks of
    # the backend for later, unless another one takes them.
    at_start: Literal["refuse", "wait", "ignore"] = "refuse"


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
    loops: tuple[Loop, ...] = ()
    source: str = ""
    checkpoint: str | None = None
    cwd: str | None = None  # where it was started: the directory of tasks without one
    cluster: str | None = None  # the address whose workers run it, without its password

    def to_json(self) -> dict[str, Any]:
        is_new = bool(self.loops) or any(task.decides or task.labels for task in self.tasks)
        version = VERSION if is_new else WITHOUT_DECISIONS
        return {"version": version, **to_builtins(self)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Plan:
        """Raises `ValueError` if this is not a plan, `ConfigError` if it is from a newer clinvk."""
        if data.get("version", 0) > VERSION:
            raise ConfigError("the plan was written by a newer clinvk", "update clinvk to use it")
        data = data if data.get("version", 0) > 1 else _upgrade_version_1(data)
        return convert({k: v for k, v in data.items() if k != "version"}, cls)

    def retries_of(self, i: int) -> int:
        """The maximum number of retries of a task."""
        own = self.tasks[i].retries
        return self.rules.retries if own is None else own

    def name_of(self, i: int | None) -> str | None:
        """The name of the task at this position, if there is one."""
        return None if i is None else self.tasks[i].name

    def with_candidates(self, positions: Iterable[int]) -> tuple[int, ...]:
        """These tasks, each after the candidates between which it chooses."""
        return tuple(j for i in positions for j in (*self.tasks[i].candidates, i))

    def worktree_of(self, i: int, ranking: Ranking | None) -> Worktree | None:
        """The worktree with the result of a task: its own; if it has chosen between candidates, that
        of the best one."""
        winner = ranking.winner if ranking is not None else None
        return self.tasks[i if winner is None else winner].worktree

    def find_tasks(self, text: str) -> list[int]:
        """Positions of the tasks with this name or key; of the one with this number, from 1, where
        there are none."""
        found = [i for i, task in enumerate(self.tasks) if text in (task.name, task.key)]
        return found or [i for i in range(len(self.tasks)) if str(i + 1) == text]


def _upgrade_version_1(data: Mapping[str, Any]) -> dict[str, Any]:
    """It did not say where the options that may be dropped were."""
    tasks = [
        {**task, "droppable": dict.fromkeys(task.get("droppable", ()), "")}
        for task in data.get("tasks", ())
    ]
    return {**data, "tasks": tasks}


def with_keys(plan: Plan) -> Plan:
    """The plan with a key for each task. Raises `ConfigError` where it has none."""
    if not plan.tasks:
        raise ConfigError(f"{plan.source or plan.kind}: there are no tasks", "write at least one")
    return replace(plan, tasks=tuple(_with_keys(plan.tasks)))


def _with_keys(tasks: Iterable[Task]) -> Iterable[Task]:
    """Each with its name in the letters that a session's name may have, numbered where two are
    alike."""
    taken: set[str] = set()
    counts: dict[str, int] = {}
    for number, task in enumerate(tasks, 1):
        # An accent goes and its letter stays; what has no such letter makes room for the number.
        name = redact(task.name)  # it is seen everywhere
        plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
        base = re.sub(r"[^A-Za-z0-9._-]+", "-", plain)[:MAX_NAME_LENGTH].strip("-._") or str(number)
        base = re.sub(r"\.(\d+)$", r"-\1", base)  # `.2` is the second attempt of a task
        key = base
        while key.lower() in taken:
            counts[base.lower()] = counts.get(base.lower(), 1) + 1
            key = f"{base}-{counts[base.lower()]}"
        taken.add(key.lower())
        yield replace(task, name=name, key=key)
