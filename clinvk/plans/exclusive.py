"""Tasks that need their directory for themselves: what they changed is compared with what was there
before, so that no other task may change it meanwhile."""

from __future__ import annotations

import os
from collections.abc import Iterable

from clinvk.disk.empty import EMPTY
from clinvk.errors import ConfigError
from clinvk.model.plan import Plan, Task

COMPARES = ("protect", "expect_change")


def check_directories(plan: Plan) -> None:
    """Raise `ConfigError` for a task that needs its directory for itself, and another one that
    could run in that directory at the same time; and for one in an empty directory that would need
    files."""
    for task in plan.tasks:
        if task.cwd == EMPTY:
            _check_needs_no_files(task)
    if plan.rules.max_parallel <= 1 or len(plan.tasks) < 2:
        return
    exclusive = {i: reason for i, t in enumerate(plan.tasks) if (reason := _reason(plan, t))}
    if not exclusive:
        return
    folders = [_folder(plan, task) for task in plan.tasks]
    before = [_needed(plan, i) if i in exclusive else set() for i in range(len(plan.tasks))]
    for i, reason in exclusive.items():
        for other, folder in enumerate(folders):
            if other == i or folder is None or not _overlap(folders[i], folder):
                continue
            if other in before[i] or i in (before[other] or _needed(plan, other)):
                continue
            raise _shared_error(plan, i, other, reason)


def _check_needs_no_files(task: Task) -> None:
    if task.worktree is not None:
        is_candidate = task.candidate_of is not None or task.decides is not None
        what, key = "git worktree", "candidates" if is_candidate else "worktree"
    elif task.options.get("protect"):
        what, key = "files to protect", "protect"
    else:
        return
    where = f"{task.description or task.name}: workdir" if task.place else "-w"
    raise ConfigError(
        f"{where}: none is an empty directory, which has no {what}",
        f"name a directory, or leave out {key if task.place else '--' + key}",
    )


def _reason(plan: Plan, task: Task) -> str | None:
    """The key for which a task needs its directory for itself; None if it does not."""
    if task.dry_run:
        return None
    if plan.kind == "compare" and task.options.get("check"):
        return "check"
    return next((name for name in COMPARES if task.options.get(name)), None)


def _folder(plan: Plan, task: Task) -> str | None:
    """The directory of a task, which others could run in; None if it is its own."""
    if task.worktree is not None or task.decides is not None or task.cwd == EMPTY:
        return None
    return os.path.realpath(task.cwd or plan.cwd or os.curdir)


def _overlap(one: str | None, other: str) -> bool:
    if one is None:
        return False
    return (
        one == other
        or f"{one}/".startswith(f"{other.rstrip('/')}/")
        or f"{other}/".startswith(f"{one.rstrip('/')}/")
    )


def _needed(plan: Plan, i: int) -> set[int]:
    """The tasks that have ended when this one starts."""
    found: set[int] = set()
    pending: list[Iterable[int]] = [plan.tasks[i].needs]
    while pending:
        for need in pending.pop():
            if need not in found:
                found.add(need)
                pending.append(plan.tasks[need].needs)
    return found


def _shared_error(plan: Plan, i: int, other: int, reason: str) -> ConfigError:
    task, beside = plan.tasks[i], plan.tasks[other]
    if plan.kind == "compare":
        return ConfigError(
            f"--{reason.replace('_', '-')}: {task.name} and {beside.name} would change the same directory at the same "
            "time",
            "compare them one after another with --sequential",
        )
    where = task.description or repr(task.name)
    return ConfigError(
        f"{where}: {reason}: it needs its directory for itself, but {beside.name!r} may run in it at "
        "the same time",
        "set another workdir, make one need the other, or use max_parallel: 1",
    )
