"""Apply the results of a run to the user's files, branch, or a new branch."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from clinvk.disk.atomic import file_error
from clinvk.disk.reading import ANY, read_file
from clinvk.errors import UsageError
from clinvk.model.loops.goal import find_loop, steps_of, why_not_taken
from clinvk.model.plan import Plan
from clinvk.runs.folder import RunFolder
from clinvk.worktrees import names
from clinvk.worktrees.git import Git, check_version
from clinvk.worktrees.results import taken
from clinvk.worktrees.results.applied import Applied, Ask, State, TaskApplied, Tell, task_applied
from clinvk.worktrees.results.commits import check_branch_name, check_identity
from clinvk.worktrees.results.execute import (
    change_files,
    check_preview,
    create_branch,
    resolver,
    scratch_folder,
)
from clinvk.worktrees.results.landing.landing import Landing, hold
from clinvk.worktrees.results.merge import Merged, merge_all, named, without_writing
from clinvk.worktrees.results.one_by_one import OneByOne
from clinvk.worktrees.results.reading import (
    Results,
    TaskResult,
    check_objects,
    check_one_repository,
    find_repository,
    read_results,
)
from clinvk.worktrees.results.removal import remove_applied
from clinvk.worktrees.results.target import Target, check_ready


def apply(
    folder: RunFolder, ask: Ask, env: Mapping[str, str], *, home: Path, notify: Tell
) -> Applied:
    """Apply all results, or none of them if one conflicts. Raises `ClinvkError`."""
    check_version(env)
    taken.check_purpose(folder)
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
        chosen, others = _choose(results, ask, target.git)
        if not chosen:
            return _nothing(results, ask, others)
        _check_target(target, chosen, ask, env, folder)
        try:
            applied = _apply(landing, results, chosen, others, ask, env, notify)
        finally:
            for kept, paths in landing.moved.items():
                notify(
                    f"changed while results were being applied, and put back: {named(sorted(paths))}; "
                    f"the changed files are in {kept}"
                )
    if not ask.keep:
        indexes = [i for task in applied.tasks for i in _same_loop(results.plan, task.index)]
        remove_applied(folder, target.git, indexes, home, env, notify)
    return applied


def preview(
    folder: RunFolder, ask: Ask, env: Mapping[str, str], *, home: Path, notify: Tell
) -> Applied:
    """What `apply` would do; nothing is changed, not even in the object store. Raises what that
    would raise."""
    check_version(env)
    taken.check_purpose(folder)
    results = read_results(folder)
    target = _find_target(results, ask, home)
    if target is None:
        return _nothing(results, ask, is_preview=True)
    results = results.latest(target.git)
    chosen, others = _choose(results, ask, target.git)
    if not chosen:
        return _nothing(results, ask, others, is_preview=True)
    _check_target(target, chosen, ask, env, folder)
    if (target.git_dir / "clinvk" / "apply.json").exists():
        notify(f"applying results to {target.description} was interrupted; the next clinvk runs apply "
               "completes it or puts everything back")  # fmt: skip
    with scratch_folder() as scratch:
        objects = scratch / "objects"
        objects.mkdir()
        without_writing(target.git, objects)
        if ask.check is not None:
            done = OneByOne(Landing(target, taken.record), results, ask, env).preview(chosen)
            return _applied(target, results, ask, [*done, *others], is_preview=True)
        merged = _merge(target, results, chosen, ask._replace(resolve=None))
        check_preview(target, ask, merged, scratch)
        done = [task_applied(target.git, m, ()) for m in merged]
        return _applied(target, results, ask, [*done, *others], is_preview=True)


def recover(landing: Landing, notify: Tell) -> bool:
    """Deal with what a killed process left in this place, and say what was done. Returns whether
    there was something."""
    _end_check(landing, notify)
    found = landing.recover()
    if found is not None:
        notify(found.message)
    return found is not None


def _end_check(landing: Landing, notify: Tell) -> None:
    """End the check of an apply that was killed: it may still change the files. Raises `SessionError`
    if it was started on another machine."""
    try:
        left = read_file(landing.check_note, limit=ANY)
    except FileNotFoundError:
        return
    except OSError as error:
        raise file_error("read", landing.check_note, error) from error
    # 45 ms, and only after a kill.
    import anyio

    # Only after a kill.
    from clinvk.process import note, recovery

    async def others() -> list[dict[str, Any] | None]:
        return []  # the lock of the place is held

    found = note.decode(left)
    if found is not None:
        kept_in = f"the file {landing.check_note}"
        notify(
            anyio.run(recovery.end_noted, found, "the check of an apply", "apply", kept_in, others)
        )
    landing.check_note.unlink(missing_ok=True)


def _choose(results: Results, ask: Ask, git: Git) -> tuple[list[TaskResult], list[TaskApplied]]:
    """The results to apply, and the tasks that are passed over."""
    selected = results.select(ask.tasks) if ask.tasks else results.together(git)
    if not ask.tasks and results.plan.kind == "compare" and len(selected) > 1:
        names = ", ".join(task.name for task in selected)
        raise UsageError(
            f"run {results.folder.id} compares {len(selected)} candidates for the same prompt",
            f"name the one to apply: {names}",
        )
    chosen, others = [], []
    for result in selected:
        if why := _why_not(result, ask, results):
            others.append(_passed_over(result, *why))
        else:
            chosen.append(result)
    return chosen, others


def _why_not(result: TaskResult, ask: Ask, results: Results) -> tuple[State, str] | None:
    if result.is_dropped and result.dropped:
        return "skipped", result.dropped.description
    if result.applied and not ask.again and result.applied.is_unchanged:
        why = "what it changed was there already" if result.is_changed else "it changed no file"
        return "unchanged", why
    if result.applied and not ask.again:
        return "already applied", f"{result.applied.description}; apply it once more with --again"
    if ask.tasks:
        return None
    if problem := why_not_taken(results.plan, results.run.results, result.index):
        names = " ".join(map(shlex.quote, _with_earlier_rounds(results, result)))
        return (
            "skipped",
            f"{problem}; to apply it anyway: clinvk runs apply {results.folder.id} {names}{results.folder.where}",
        )
    return None


def _same_loop(plan: Plan, index: int) -> tuple[int, ...]:
    """The steps of the loop of a task, which may have been applied with it, and it alone if it has
    none."""
    loop = find_loop(plan, index)
    return steps_of(loop) if loop is not None else (index,)


def _with_earlier_rounds(results: Results, result: TaskResult) -> list[str]:
    """The names of a task and of the steps before it in its loop: its result is built on theirs."""
    loop = find_loop(results.plan, result.index)
    before = steps_of(loop) if loop and results.continues_earlier(result) else ()
    return [
        t.name for t in results.tasks
        if t.index == result.index or (t.index in before and t.index < result.index and t.is_changed)
    ]  # fmt: skip


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


def _check_target(
    target: Target,
    chosen: Sequence[TaskResult],
    ask: Ask,
    env: Mapping[str, str],
    folder: RunFolder,
) -> None:
    """Raise `ClinvkError` if nothing can be applied there."""
    if ask.how != "branch":
        check_ready(target)
        if ask.how == "commit":
            check_identity(target.git, env)
    elif target.git.commit_of(check_branch_name(target.git, str(ask.branch))):
        raise UsageError(
            f"the branch {ask.branch} exists already in {target.description}",
            f"use another name, or delete it first: git branch -D {ask.branch}",
        )
    elif target.head is None:
        raise UsageError(
            f"the current branch in {target.description} has no commit to begin the new one with",
            "switch to a branch with commits",
        )
    check_objects(target.git, chosen, folder)


def _merge(
    target: Target, results: Results, chosen: Sequence[TaskResult], ask: Ask
) -> list[Merged]:
    return merge_all(
        target.git, str(target.head), [task.source for task in chosen],
        taken=results.history.applied_results(), resolve=resolver(target, ask, str(target.head)),
    )  # fmt: skip


def _apply(
    landing: Landing,
    results: Results,
    chosen: Sequence[TaskResult],
    others: Sequence[TaskApplied],
    ask: Ask,
    env: Mapping[str, str],
    notify: Tell,
) -> Applied:
    target = landing.target
    if ask.check is not None:
        single = OneByOne(landing, results, ask, env)
        try:
            done = single.apply(chosen)
        except BaseException:
            if single.landed:
                notify(f"applied before that, and still there: {', '.join(single.landed)}")
            raise
        return _applied(target, results, ask, [*done, *others])
    merged = _merge(target, results, chosen, ask)
    if ask.how == "branch":
        made = create_branch(landing, results.folder, ask, merged)
    else:
        made = change_files(landing, results.folder, ask, merged, env)
    done = [task_applied(target.git, m, made.get(m.source.index, ())) for m in merged]
    return _applied(target, results, ask, [*done, *others])


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
    tasks: Sequence[TaskApplied],
    *,
    is_preview: bool = False,
) -> Applied:
    return Applied(
        run=results.folder.id, how=ask.how, is_preview=is_preview, root=target.description,
        branch=ask.branch, tasks=tuple(sorted(tasks, key=lambda task: task.index)),
    )  # fmt: skip
