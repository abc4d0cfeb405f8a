"""Carries out what was merged: changes the files and the index, makes commits, creates a branch."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from clinvk.runs.folder import RunFolder
from clinvk.worktrees.results import taken
from clinvk.worktrees.results.applied import Ask
from clinvk.worktrees.results.commits import (
    UserCommits,
    check_branch_name,
    commit_quietly,
    plan_commits,
)
from clinvk.worktrees.results.landing.landing import Landing
from clinvk.worktrees.results.merge import ConflictError, Merged, Resolve, Source, changes
from clinvk.worktrees.results.target import Target, check_free

Made = dict[int, list[str]]  # the commits of each task


def create_branch(landing: Landing, folder: RunFolder, ask: Ask, merged: Sequence[Merged]) -> Made:
    """Put the results on a new branch. Raises `GitError`."""
    target = landing.target
    planned = plan_commits(target.git, merged, folder.id)
    commits = commit_quietly(target.git, str(target.head), planned)
    made = _by_task([p.source for p in planned], commits)
    about = taken.about(folder, _events(target, merged, ask, made))
    ref = check_branch_name(target.git, str(ask.branch))
    landing.create_branch(ref, commits[-1] if commits else str(target.head), about)
    return made


def change_files(
    landing: Landing,
    folder: RunFolder,
    ask: Ask,
    merged: Sequence[Merged],
    env: Mapping[str, str],
    verify: Callable[[], None] = lambda: None,
) -> Made:
    """Change the files and the index from the tree before the first result to that after the last
    one; commit too, if that is asked for. `verify` is called once the files are changed. If it or
    anything else raises, everything is as before."""
    target, run = landing.target, folder.id
    start, tree = merged[0].before, merged[-1].tree
    differ = changes(target.git, start, tree)
    made: Made = {}

    def what() -> dict[str, Any]:
        return taken.about(folder, _events(target, merged, ask, made))

    if not differ:
        taken.record(what())
        return made
    with scratch_folder() as scratch:
        before = check_free(target, differ, scratch)
    planned = plan_commits(target.git, merged, run) if ask.how == "commit" else []

    def then() -> str | None:
        verify()
        if not planned:
            return None
        commits = UserCommits(landing, env).make(planned)
        made.update(_by_task([p.source for p in planned], commits))
        landing.change_about(what())
        return commits[-1]

    landing.land(start, tree, differ, before, what(), then)
    return made


def check_preview(target: Target, ask: Ask, merged: Sequence[Merged], scratch: Path) -> None:
    """Raise `BlockedError` if uncommitted work is in the way."""
    if ask.how != "branch":
        differ = changes(target.git, merged[0].before, merged[-1].tree)
        check_free(target, differ, scratch)


def resolver(target: Target, ask: Ask, start: str) -> Resolve | None:
    """Resolves the conflicts of what is merged into the tree `start`, as it was asked. That takes
    long and costs money: before, it raises `BlockedError` if uncommitted work is in the way."""
    resolve = ask.resolve
    if resolve is None:
        return None

    def checked(conflict: ConflictError) -> str:
        if ask.how != "branch":
            with scratch_folder() as scratch:
                check_free(target, changes(target.git, start, conflict.tree), scratch)
        return resolve(target, conflict)

    return checked


@contextmanager
def scratch_folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="clinvk-") as scratch:
        yield Path(scratch)


def _by_task(sources: Sequence[Source], commits: Sequence[str]) -> Made:
    made: Made = {}
    for source, commit in zip(sources, commits, strict=True):
        made.setdefault(source.index, []).append(commit)
    return made


def _events(
    target: Target, merged: Sequence[Merged], ask: Ask, made: Mapping[int, Sequence[str]]
) -> list[dict[str, Any]]:
    events: list[dict[str, Any]] = []
    for m in merged:
        index = m.source.index
        about = {
            "event": "applied",
            "how": ask.how,
            "branch": ask.branch,
            "root": target.description,
            "unchanged": m.is_empty,
        }
        events += [
            {**about, "task": task, "result": commit, "commits": [], "part_of": index}
            for task, commit in m.source.contains
        ]
        commits = list(made.get(index, ()))
        events.append({**about, "task": index, "result": m.source.commit, "commits": commits})
    return events
