"""The results of a run: which there are, where they are applied, and what became of them."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from clinvk.disk.empty import EMPTY
from clinvk.errors import ClinvkError, SessionError, UsageError
from clinvk.model.loops.goal import has_reached_goal, last_round, steps_of
from clinvk.model.outcome import Outcome, RunResult
from clinvk.model.plan import Loop, Plan, Worktree
from clinvk.model.result import WorktreeResult
from clinvk.runs.folder import RunFolder, RunStore
from clinvk.runs.log import RunLog, Runs
from clinvk.text.suggest import did_you_mean
from clinvk.worktrees import names
from clinvk.worktrees.create import Place
from clinvk.worktrees.git import Git
from clinvk.worktrees.names import is_shared
from clinvk.worktrees.result import current_result
from clinvk.worktrees.results.merge import Source
from clinvk.worktrees.results.taken import History, Taken, read_history
from clinvk.worktrees.results.target import Target, find_target

LAST = "last"  # in place of an id
IsOf = Callable[[RunLog, Plan, Target], bool]


class TaskResult(Struct, frozen=True, kw_only=True):
    """The result of a task that ran in a worktree."""

    outcome: Outcome
    worktree: Worktree  # as the plan has it
    source: Source
    ref: str
    path: Path  # of the worktree, which may be gone
    tasks: tuple[
        int, ...
    ]  # with the same result: itself, and a candidate or the task that chose it
    applied: Taken | None = None
    dropped: Taken | None = None

    @property
    def name(self) -> str:
        return self.outcome.name

    @property
    def index(self) -> int:
        return self.outcome.index

    @property
    def is_dropped(self) -> bool:
        """Whether it was dropped, and not applied after that."""
        dropped, applied = self.dropped, self.applied
        return dropped is not None and (applied is None or dropped.at > applied.at)

    @property
    def is_changed(self) -> bool:
        return self.source.base != self.source.commit


class Results(Struct, frozen=True, kw_only=True):
    """A run with worktrees, read from its files."""

    folder: RunFolder
    plan: Plan
    run: RunResult
    history: History
    tasks: tuple[TaskResult, ...]  # that have a result, in the order of the plan

    def select(self, names: Sequence[str]) -> list[TaskResult]:
        """The results of these tasks, in the order of the plan; if none are named, all of them but
        those of candidates. Raises `UsageError` for a name that no task has, or a task without a
        result."""
        if not names:
            return [t for t in self.tasks if self.plan.tasks[t.index].candidate_of is None]
        wanted: set[int] = set()
        for text in names:
            found = self.plan.find_tasks(text)
            if not found:
                meant = did_you_mean(text, [task.name for task in self.plan.tasks])
                raise UsageError(
                    f"run {self.folder.id} has no task {text!r}{meant}",
                    f"see its tasks: clinvk runs show {self.folder.id}{self.folder.where}",
                )
            wanted |= set(found)
        chosen = [task for task in self.tasks if task.index in wanted]
        for index in sorted(wanted - {task.index for task in chosen}):
            raise UsageError(*self._why_no_result(index))
        return chosen

    def together(self, git: Git) -> list[TaskResult]:
        """What is applied if no task is named. Of a loop that has reached its goal, that is one
        result: that of its last round, with what the rounds before it have changed."""
        chosen = self.select(())
        for loop in self.plan.loops:
            steps = set(steps_of(loop))
            mine = [t for t in chosen if t.index in steps and self.continues_earlier(t)]
            if len(mine) > 1 and has_reached_goal(loop, self.run.results):
                whole = self._whole(loop, mine, git)
                others = steps - {whole.index}
                chosen = [
                    whole if t.index == whole.index else t for t in chosen if t.index not in others
                ]
        return chosen

    def continues_earlier(self, result: TaskResult) -> bool:
        """Whether a step of a chain contains what the steps before it have changed."""
        task = self.plan.tasks[result.index]
        return is_shared(result.worktree.directory) or task.decides is not None

    def _whole(self, loop: Loop, steps: Sequence[TaskResult], git: Git) -> TaskResult:
        """The results of the steps of a loop, each of which contains those before it, as one."""
        last = last_round(loop, self.run.results)
        final = [t for t in steps if t.index in last] or steps
        result = next((t for t in reversed(final) if t.is_changed), final[-1])
        # The session of any step may have been resumed in the worktree after the run.
        tips = git.maybe("merge-base", "--independent", *{t.source.commit for t in steps})
        commit = steps[-1].source.commit if tips is None or "\n" in tips else tips
        is_applied = all(t.applied for t in steps if t.is_changed)
        first = self.plan.tasks[result.index]
        while first.repeats is not None:
            first = self.plan.tasks[first.repeats]
        return replace(
            result,
            source=replace(
                result.source, prompt=first.prompt, base=steps[0].source.base, commit=commit,
                contains=tuple((t.index, t.source.commit) for t in steps
                               if t is not result or t.source.commit != commit),
                rounds=loop.rounds.index(last) + 1 if last else 0,
            ),
            applied=self.history.applied(result.tasks, commit) if is_applied else None,
            dropped=self.history.dropped(result.tasks, commit),
        )  # fmt: skip

    def latest(self, git: Git) -> Results:
        """The same, with the last commit of each task: its session may have been resumed in its
        worktree after the run. The refs of other repositories are not looked at."""
        words = ("for-each-ref", "--format=%(refname) %(objectname)")
        last: dict[str, tuple[int, str]] = {}
        for line in git.text(*words, names.refs_of_run(self.folder.id)).splitlines():
            ref, commit = line.split(" ")
            prefix, _, number = ref.rpartition("/")
            if number.isdigit() and int(number) > last.get(prefix, (0, ""))[0]:
                last[prefix] = int(number), commit
        return replace(self, tasks=tuple(self._later(task, last) for task in self.tasks))

    def _later(self, task: TaskResult, last: Mapping[str, tuple[int, str]]) -> TaskResult:
        prefix, _, number = task.ref.rpartition("/")
        later, commit = last.get(prefix, (0, ""))
        if not number.isdigit() or later <= int(number):
            return task
        return replace(
            task,
            source=replace(task.source, commit=commit),
            ref=f"{prefix}/{later}",
            applied=self.history.applied(task.tasks, commit),
            dropped=self.history.dropped(task.tasks, commit),
        )

    def _why_no_result(self, index: int) -> tuple[str, str]:
        task, state = self.plan.tasks[index], self.run.results[index].state
        if task.decides is not None:
            some = shlex.quote(self.plan.tasks[task.candidates[0]].name)
            return (
                f"task {task.name!r} has chosen none of its candidates: it is {state}",
                f"name a candidate, e.g. {some}; see them: clinvk runs show {self.folder.id}{self.folder.where}",
            )
        if task.worktree is None:
            return (
                f"task {task.name!r} did not run in a worktree: its changes are in {task.cwd or self.plan.cwd}",
                "give it one with worktree: true, or --worktree",
            )
        return (
            f"task {task.name!r} has no result yet: it is {state}",
            f"see it with: clinvk runs show {self.folder.id}{self.folder.where}",
        )


def find_run(home: Path, text: str, here: Path) -> RunFolder:
    """The run of this machine with this id, or this unique prefix of one; `last` is the newest of the
    repository that contains `here`. Raises `SessionError`."""
    found = find_run_in(RunStore(home), text, here)
    assert isinstance(found, RunFolder)  # noqa: S101 - there are no others
    return found


def find_run_in(runs: Runs, text: str, here: Path, is_of: IsOf | None = None) -> RunLog:
    """The same among these runs. `is_of` tells whether a run is of a repository."""
    is_of, newest = is_of or (lambda _, plan, near: is_of_repository(plan, near)), None
    if text != LAST:
        return runs.find(text)
    near = find_target(here)
    for folder in runs.may_be_last():
        try:
            plan = folder.plan()
        except ClinvkError:  # its directory is unknown
            continue
        if near is not None and is_of(folder, plan, near):
            return folder
        newest = newest or (folder, plan)
    if newest is None:
        return runs.find(text)
    folder, plan = newest
    where = f"no run in the repository {near.description} yet" if near else (
        f"{here} is in no git repository, so there is no last run of it"
    )  # fmt: skip
    place = next(iter(repositories(plan)), plan.cwd or "another directory")
    raise SessionError(
        f"{where}; the newest run of all is {folder.id}, of {place}",
        f"to use that one, name it: {folder.id}; see them all: clinvk runs list{folder.where}",
    )


def repositories(plan: Plan) -> list[str]:
    """Where the tasks of a plan that have worktrees were started."""
    return list(dict.fromkeys(task.worktree.root for task in plan.tasks if task.worktree))


def is_of_repository(plan: Plan, near: Target) -> bool:
    """Whether a task of the plan ran in this repository, which may have been moved since."""
    worktrees = [task.worktree for task in plan.tasks if task.worktree]
    if not worktrees:
        own, cwd = os.path.realpath(near.root or near.git_dir), os.path.realpath(plan.cwd or os.sep)
        return Path(cwd).is_relative_to(own)
    return any(
        _same(near.common_dir, tree.repository)
        or (not os.path.isdir(tree.repository) and near.git.commit_of(tree.commit) is not None)
        for tree in worktrees
    )


def read_results(folder: RunFolder) -> Results:
    """Raises `UsageError` if no task of the run has a worktree, `SessionError` if it is damaged."""
    plan = folder.plan()
    if not any(task.worktree for task in plan.tasks):
        where = plan.cwd or "their directories"
        if all(task.cwd == EMPTY for task in plan.tasks):
            where = "empty directories, which are deleted"
        raise UsageError(
            f"run {folder.id} has no worktrees: its tasks worked in {where}",
            "run tasks with --worktree, or worktree: true, to look at their changes first",
        )
    run, history = folder.result(plan), read_history(folder)
    return Results(
        folder=folder, plan=plan, run=run, history=history,
        tasks=tuple(_results(folder, plan, run.results, history)),
    )  # fmt: skip


def _results(
    folder: RunFolder, plan: Plan, outcomes: Iterable[Outcome], history: History
) -> Iterable[TaskResult]:
    outcomes = tuple(outcomes)
    for task, outcome in zip(plan.tasks, outcomes, strict=True):
        found, worktree = outcome.worktree, plan.worktree_of(outcome.index, outcome.decision)
        if found is None and task.worktree is not None and outcome.state == "indeterminate":
            found = _interrupted_result(folder, task.worktree)
        if worktree is None or found is None:
            continue
        same = same_result(plan, outcomes, outcome.index)
        yield TaskResult(
            outcome=outcome,
            worktree=worktree,
            source=Source(
                index=outcome.index, name=task.name, base=found.base, commit=found.commit,
                prompt=task.prompt,
                applied=history.applied_results(outcome.index),
            ),
            ref=found.ref,
            path=Path(found.path),
            tasks=same,
            applied=history.applied(same, found.commit),
            dropped=history.dropped(same, found.commit),
        )  # fmt: skip


def same_result(plan: Plan, outcomes: Sequence[Outcome], index: int) -> tuple[int, ...]:
    """The positions of the tasks that have the result of this one: itself; and the candidate that it
    has chosen, or the task that has chosen it."""
    decision, of = outcomes[index].decision, plan.tasks[index].candidate_of
    if decision is not None and decision.winner is not None:
        return (index, decision.winner)
    chosen = outcomes[of].decision if of is not None else None
    if of is not None and chosen is not None and chosen.winner == index:
        return (index, of)
    return (index,)


def _interrupted_result(folder: RunFolder, worktree: Worktree) -> WorktreeResult | None:
    """What a task had changed when it was interrupted; None if nothing, or if it cannot be saved."""
    home = folder.home
    with suppress(ClinvkError, OSError):
        saved = current_result(Place(home, folder.id, worktree, os.environ))
        return saved.result if saved is not None and saved.result.is_changed else None
    return None


def check_one_repository(results: Sequence[TaskResult]) -> Worktree:
    """What the plan says of the repository of these results. Raises `UsageError` if there are
    several."""
    found: dict[str, list[str]] = {}
    for result in results:
        found.setdefault(result.worktree.repository, []).append(result.name)
    if len(found) > 1:
        places = "; ".join(f"{where}: {', '.join(tasks)}" for where, tasks in found.items())
        raise UsageError(
            f"the tasks ran in several repositories ({places})", "name the tasks of one of them"
        )
    return results[0].worktree


def find_repository(worktree: Worktree, commits: Sequence[str], here: Path, own: Path) -> Target:
    """The working tree to apply to: the one that contains `here`, if it belongs to the repository
    (also if that was moved), otherwise the one that the run was started in. `own` contains the
    worktrees of clinvk. Raises `SessionError`."""
    near = find_target(here)
    if (
        near is not None
        and near.root is not None
        and near.root.is_relative_to(os.path.realpath(own))
    ):
        near = None
    if near is not None and _same(near.common_dir, worktree.repository):
        return near
    started_in = find_target(Path(worktree.root))
    if started_in is not None and _same(started_in.common_dir, worktree.repository):
        return started_in
    if near is not None and all(near.git.commit_of(commit) for commit in commits):
        return near
    bare = find_target(Path(worktree.repository))
    if bare is not None and bare.common_dir.is_dir():
        return bare
    raise SessionError(
        f"the repository {worktree.root} was moved or deleted",
        "if it was moved, run the same command in its new place",
    )


def _same(one: str | Path, two: str | Path) -> bool:
    return os.path.realpath(one) == os.path.realpath(two)


def check_objects(git: Git, results: Sequence[TaskResult], folder: RunFolder) -> None:
    """Raise `SessionError` if git no longer has a result, or what it began with."""
    for result in results:
        name, source = result.name, result.source
        if git.commit_of(source.commit) is None:
            raise SessionError(
                f"the result of task {name!r} is gone: there is no commit {source.commit[:12]}, "
                f"nor {result.ref}",
                f"run the task again: clinvk runs retry {folder.id} {shlex.quote(name)}{folder.where}",
            )
        if git.commit_of(source.base) is None:
            raise SessionError(
                f"the commit that task {name!r} began with is gone: {source.base[:12]}",
                f"fetch it, or take the files as they are: git checkout {source.commit[:12]} -- PATH",
            )
