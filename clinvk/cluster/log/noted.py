"""A run of a cluster whose results are looked at, applied or dropped on this machine."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from clinvk.cluster.files import clone
from clinvk.cluster.log.run import RedisRun
from clinvk.cluster.log.submitted import is_own
from clinvk.config.cluster_values import show_remote
from clinvk.errors import SessionError
from clinvk.model.outcome import Outcome, RunResult
from clinvk.model.plan import Plan, Task, Worktree
from clinvk.model.result import WorktreeResult
from clinvk.runs.folder import RunFolder
from clinvk.runs.log import Line, RunLock
from clinvk.worktrees import names
from clinvk.worktrees.results.target import Target, find_target


class NotedRun(RunFolder):
    """The records of the run are in Redis; notes about what is done with its results are in the
    directory of this one."""

    def __init__(self, run: RedisRun, plan: Plan) -> None:
        """`plan` is that of the run, with the repositories of this machine."""
        super().__init__(run.taken.path)
        self.run = run
        self.where = run.where
        self._plan = plan

    @property
    def home(self) -> Path:
        return self.run.home

    def plan(self, *, trusted: bool = False) -> Plan:  # noqa: ARG002 - it was read before
        return self._plan

    def read_plan(self, *, trusted: bool) -> bytes:
        return self.run.read_plan(trusted=trusted)

    def place_of(self, what: str = "") -> str:
        return self.run.place_of(what)

    def read_state(
        self, plan: Plan, *, is_driver: bool = False, trusted: bool = False
    ) -> tuple[RunResult, list[Line]]:
        return self.run.read_state(plan, is_driver=is_driver, trusted=trusted)

    def with_outputs(self, result: RunResult) -> RunResult:
        return self.run.with_outputs(result)

    def with_output(self, outcome: Outcome) -> Outcome:
        return self.run.with_output(outcome)

    def read_taken(self) -> list[Line]:
        return self.run.read_taken()

    def find_driver(self) -> dict[str, Any] | None:
        return self.run.find_driver()

    def is_idle(self) -> bool:
        return self.run.is_idle()

    def lock(self) -> RunLock:  # type: ignore[override]
        if self.run.awaits_driver(has_begun=True):
            raise SessionError(
                f"run {self.id} is running",
                f"see it with: clinvk runs watch {self.id}{self.where}; cancel it with: "
                f"clinvk runs cancel {self.id}{self.where}",
            )
        return self.run.lock()


@contextmanager
def open_noted(run: RedisRun, here: Path, env: Mapping[str, str]) -> Iterator[NotedRun]:
    """The run, with its results in the clone that contains `here`, or the one that it was submitted
    from. Raises `ClinvkError`."""
    plan = run.plan()
    run.taken.make_folder()
    run.taken.push()  # what another command could not, since it was killed or cut off
    noted = NotedRun(run, _bring(run, plan, here, env))
    try:
        yield noted
    finally:
        with suppress(SessionError):  # the next command about it does that
            run.taken.push()


def _bring(run: RedisRun, plan: Plan, here: Path, env: Mapping[str, str]) -> Plan:
    """The plan with the repositories of this machine, which have its results now."""
    places = _find_clones(run, plan, here)
    moved = replace(plan, tasks=tuple(_moved(task, places) for task in plan.tasks))
    clones = {str(place.common_dir): place for place in places.values() if place is not None}
    dropped = {line.get("result") for line in run.read_taken() if line.get("event") == "dropped"}
    found: dict[str, list[tuple[Worktree, WorktreeResult]]] = {}
    for outcome in run.result(plan).results:
        wanted, made = moved.worktree_of(outcome.index, outcome.decision), outcome.worktree
        if wanted is not None and made is not None and wanted.remote:
            clone.check_outcome(run.id, wanted, outcome)
            if made.commit not in dropped:
                found.setdefault(wanted.repository, []).append((wanted, made))
    for repository, results in found.items():
        if repository in clones:
            clone.bring_results(run.id, clones[repository], results, env)
    return moved


def _find_clones(run: RedisRun, plan: Plan, here: Path) -> dict[str, Target | None]:
    """The working tree for each repository whose files come by git. Raises `SessionError` if this machine
    has none of them."""
    near = find_target(here)
    if near is not None and near.root and near.root.is_relative_to(names.folder_of(run.home)):
        near = None
    remote = [t.worktree for t in plan.tasks if t.worktree is not None and t.worktree.remote]
    own = is_own(run)
    places = {
        wanted.repository: clone.find_clone(wanted, near, is_own=own)
        for wanted in {wanted.repository: wanted for wanted in remote}.values()
    }
    if remote and not any(places.values()):
        raise clone.missing_clone(remote[0], run.id, here)
    return places


def _moved(task: Task, places: Mapping[str, Target | None]) -> Task:
    """The task with the repository of this machine; one that it lacks is named by its remote, since
    something else may be at its path."""
    wanted = task.worktree
    if wanted is None or not wanted.remote:
        return task
    place = places[wanted.repository]
    repository = str(place.common_dir) if place else show_remote(wanted.remote)
    root = str(place.root or place.common_dir) if place else show_remote(wanted.remote)
    return replace(task, worktree=replace(wanted, repository=repository, root=root))
