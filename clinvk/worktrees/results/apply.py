"""Apply the results of a run to the user's files, branch, or a new branch."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple

from msgspec import Struct, to_builtins

from clinvk.errors import UsageError
from clinvk.runs.folder import RunFolder
from clinvk.worktrees import names
from clinvk.worktrees.git import Git, check_version
from clinvk.worktrees.results import taken
from clinvk.worktrees.results.commits import (
    UserCommits,
    check_branch_name,
    commit_quietly,
    plan_commits,
)
from clinvk.worktrees.results.landing import Landing, hold
from clinvk.worktrees.results.merge import Merged, Source, changes, merge_all, without_writing
from clinvk.worktrees.results.reading import (
    Results,
    TaskResult,
    check_objects,
    check_one_repository,
    find_repository,
    read_results,
)
from clinvk.worktrees.results.removal import remove_applied
from clinvk.worktrees.results.taken import How
from clinvk.worktrees.results.target import Target, check_free, check_ready

State = Literal["applied", "already applied", "unchanged", "skipped", "check failed", "conflict"]
Tell = Callable[[str], None]
VERSION = 1


class TaskApplied(Struct, frozen=True, kw_only=True):
    """What became of the result of a task."""

    index: int
    name: str
    state: State
    why: str | None = None  # it was not applied
    files: int = 0
    insertions: int = 0
    deletions: int = 0
    commits: tuple[str, ...] = ()  # that were made of it
    output: str | None = None  # of its check


class Applied(Struct, frozen=True, kw_only=True):
    """What `apply` did, or would do if it `is_preview`."""

    run: str
    how: How
    is_preview: bool
    root: str  # the working tree or bare repository
    branch: str | None
    tasks: tuple[TaskApplied, ...]
    submodules: tuple[str, ...] = ()  # whose commit was changed; they are not checked out

    @property
    def ok(self) -> bool:
        """Whether every result is applied now."""
        return not any(t.state in ("check failed", "conflict") for t in self.tasks)

    @property
    def applied(self) -> tuple[TaskApplied, ...]:
        return tuple(t for t in self.tasks if t.state == "applied")

    def to_json(self) -> dict[str, Any]:
        data: dict[str, Any] = to_builtins(self)
        return {"version": VERSION, "ok": self.ok, **data}


class Ask(NamedTuple):
    """What to apply, and how."""

    tasks: Sequence[str] = ()  # names or numbers; empty: all that are done
    how: How = "stage"
    branch: str | None = None
    again: bool = False  # also what was applied already
    here: Path = Path()  # the current directory


def apply(
    folder: RunFolder, ask: Ask, env: Mapping[str, str], *, home: Path, notify: Tell
) -> Applied:
    """Apply all results, or none of them if one conflicts. Raises `ClinvkError`."""
    check_version(env)
    results = read_results(folder)
    found = _find_target(results, ask, home)
    if found is None:
        return _nothing(results, ask)
    with hold(found, taken.record) as landing:
        if recover(landing, notify):
            results = read_results(folder)
        # Only now: HEAD may have been moved back.
        landing.target = target = found.again()
        results = results.latest(target.git)
        chosen, others = _choose(results, ask)
        if not chosen:
            return _nothing(results, ask, others)
        _check_target(target, chosen, ask)
        applied = _apply(landing, results, chosen, others, ask, env)
    results = read_results(folder).latest(target.git)
    remove_applied(results, [t.index for t in applied.tasks], home, env, notify)
    return applied


def preview(
    folder: RunFolder, ask: Ask, env: Mapping[str, str], *, home: Path, notify: Tell
) -> Applied:
    """What `apply` would do; nothing is changed, not even in the object store. Raises what that
    would raise."""
    check_version(env)
    results = read_results(folder)
    target = _find_target(results, ask, home)
    if target is None:
        return _nothing(results, ask, is_preview=True)
    results = results.latest(target.git)
    chosen, others = _choose(results, ask)
    if not chosen:
        return _nothing(results, ask, others, is_preview=True)
    _check_target(target, chosen, ask)
    if (target.git_dir / "clinvk" / "apply.json").exists():
        notify(f"applying results to {target.description} was interrupted; the next clinvk runs apply "
               "completes it or puts everything back")  # fmt: skip
    with scratch_folder() as scratch:
        objects = scratch / "objects"
        objects.mkdir()
        without_writing(target.git, objects)
        merged = _merge(target, results, chosen)
        _check(target, merged, ask, scratch)
        return _applied(target, results, ask, merged, others, is_preview=True)


def recover(landing: Landing, notify: Tell) -> bool:
    """Deal with what a killed process left in this place, and say what was done. Returns whether
    there was something."""
    found = landing.recover()
    if found is not None:
        notify(found.message)
    return found is not None


def _choose(results: Results, ask: Ask) -> tuple[list[TaskResult], list[TaskApplied]]:
    """The results to apply, and the tasks that are passed over."""
    selected = results.select(ask.tasks)
    if not ask.tasks and results.plan.kind == "compare" and len(selected) > 1:
        names = ", ".join(task.name for task in selected)
        raise UsageError(
            f"run {results.folder.id} compares {len(selected)} candidates for the same prompt",
            f"name the one to apply: {names}",
        )
    chosen, others = [], []
    for result in selected:
        if why := _why_not(result, ask):
            others.append(_passed_over(result, *why))
        else:
            chosen.append(result)
    return chosen, others


def _why_not(result: TaskResult, ask: Ask) -> tuple[State, str] | None:
    if result.dropped and (result.applied is None or result.dropped.at > result.applied.at):
        return "skipped", result.dropped.description
    if result.applied and not ask.again:
        return "already applied", f"{result.applied.description}; apply it once more with --again"
    if not ask.tasks and not result.outcome.ok:
        return "skipped", f"it is {result.outcome.state}; name it to apply what it changed"
    return None


def _passed_over(result: TaskResult, state: State, why: str) -> TaskApplied:
    return TaskApplied(index=result.index, name=result.name, state=state, why=why)


def _find_target(results: Results, ask: Ask, home: Path) -> Target | None:
    """Where the results are applied; None if there are none."""
    selected = results.select(ask.tasks)
    if not selected:
        return None
    commits = [task.source.commit for task in selected]
    worktree = check_one_repository(selected)
    return find_repository(worktree, commits, ask.here, names.folder_of(home))


def _check_target(target: Target, chosen: Sequence[TaskResult], ask: Ask) -> None:
    """Raise `ClinvkError` if nothing can be applied there."""
    if ask.how != "branch":
        check_ready(target)
    elif target.git.commit_of(check_branch_name(target.git, str(ask.branch))):
        raise UsageError(
            f"the branch {ask.branch} exists already in {target.description}",
            "use another name, or delete it first: git branch -d",
        )
    elif target.head is None:
        raise UsageError(
            f"the current branch in {target.description} has no commit to begin the new one with",
            "switch to a branch with commits",
        )
    check_objects(target.git, chosen)


def _merge(target: Target, results: Results, chosen: Sequence[TaskResult]) -> list[Merged]:
    return merge_all(
        target.git, str(target.head), [task.source for task in chosen],
        taken=results.history.applied_results(),
    )  # fmt: skip


def _check(target: Target, merged: Sequence[Merged], ask: Ask, scratch: Path) -> dict[str, Any]:
    """Each file that will be changed, as it is now. Raises `BlockedError`."""
    if ask.how == "branch":
        return {}
    return check_free(target, changes(target.git, str(target.head), merged[-1].tree), scratch)


def _apply(
    landing: Landing,
    results: Results,
    chosen: Sequence[TaskResult],
    others: Sequence[TaskApplied],
    ask: Ask,
    env: Mapping[str, str],
) -> Applied:
    target = landing.target
    merged = _merge(target, results, chosen)
    made: dict[int, list[str]] = {}
    run = results.folder.id
    if ask.how == "branch":
        planned = plan_commits(target.git, merged, run)
        commits = commit_quietly(target.git, str(target.head), planned)
        made = _by_task([p.source for p in planned], commits)
        ref = check_branch_name(target.git, str(ask.branch))
        about = taken.about(results.folder, _events(target, merged, ask, made))
        landing.create_branch(ref, commits[-1] if commits else str(target.head), about)
        return _applied(target, results, ask, merged, others, made=made)
    with scratch_folder() as scratch:
        before = _check(target, merged, ask, scratch)
    differ = changes(target.git, str(target.head), merged[-1].tree)
    about = taken.about(results.folder, _events(target, merged, ask, made))
    if not differ:
        taken.record(about)
        return _applied(target, results, ask, merged, others)
    planned = plan_commits(target.git, merged, run) if ask.how == "commit" else []

    def make_commits() -> str | None:
        if not planned:
            return None
        commits = UserCommits(landing, env).make(planned)
        made.update(_by_task([p.source for p in planned], commits))
        landing.change_about(taken.about(results.folder, _events(target, merged, ask, made)))
        return commits[-1]

    landing.land(merged[-1].tree, differ, before, about, make_commits)
    return _applied(target, results, ask, merged, others, made=made)


@contextmanager
def scratch_folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="clinvk-") as scratch:
        yield Path(scratch)


def _by_task(sources: Sequence[Source], commits: Sequence[str]) -> dict[int, list[str]]:
    made: dict[int, list[str]] = {}
    for source, commit in zip(sources, commits, strict=True):
        made.setdefault(source.index, []).append(commit)
    return made


def _events(
    target: Target, merged: Sequence[Merged], ask: Ask, made: Mapping[int, Sequence[str]]
) -> list[dict[str, Any]]:
    return [
        {
            "task": m.source.index, "event": "applied", "result": m.source.commit, "how": ask.how,
            "commits": list(made.get(m.source.index, ())), "branch": ask.branch,
            "root": target.description,
        }
        for m in merged
    ]  # fmt: skip


def _nothing(
    results: Results, ask: Ask, others: Sequence[TaskApplied] = (), *, is_preview: bool = False
) -> Applied:
    root = results.tasks[0].worktree.root if results.tasks else ""
    return Applied(
        run=results.folder.id, how=ask.how, is_preview=is_preview, root=root, branch=ask.branch,
        tasks=tuple(others),
    )  # fmt: skip


def _applied(
    target: Target,
    results: Results,
    ask: Ask,
    merged: Sequence[Merged],
    others: Sequence[TaskApplied],
    *,
    made: Mapping[int, Sequence[str]] | None = None,
    is_preview: bool = False,
) -> Applied:
    done = [_task_applied(target.git, m, (made or {}).get(m.source.index, ())) for m in merged]
    differ = changes(target.git, str(target.head), merged[-1].tree)
    return Applied(
        run=results.folder.id, how=ask.how, is_preview=is_preview, root=target.description,
        branch=ask.branch, tasks=tuple(sorted([*done, *others], key=lambda t: t.index)),
        submodules=tuple(c.path for c in differ if c.new and c.new.mode == "160000"),
    )  # fmt: skip


def _task_applied(git: Git, merged: Merged, commits: Sequence[str]) -> TaskApplied:
    source = merged.source
    if merged.is_empty:
        why = "what it changed is there already"
        return TaskApplied(index=source.index, name=source.name, state="unchanged", why=why)
    files, insertions, deletions = count_changes(git, merged.before, merged.tree)
    return TaskApplied(
        index=source.index, name=source.name, state="applied", files=files,
        insertions=insertions, deletions=deletions, commits=tuple(commits),
    )  # fmt: skip


def count_changes(git: Git, old: str, new: str) -> tuple[int, int, int]:
    """The files that differ, and the lines that were added and removed; binary files have none."""
    words = ("diff-tree", "-r", "-z", "--numstat", "--no-renames", old, new)
    lines = [x for x in git.run(*words).stdout.split(b"\0") if x]
    counts = [line.split(b"\t", 2)[:2] for line in lines]
    added, removed = (sum(int(c[i]) for c in counts if c[i].isdigit()) for i in (0, 1))
    return len(lines), added, removed
