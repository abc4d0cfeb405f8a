"""Results of a run of this machine that are still in the remote: the run was cancelled, or the remote could
not be reached, when their tasks had ended."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from clinvk.cluster.files.clone import bring_results
from clinvk.cluster.files.exchange import check_result
from clinvk.model.plan import Plan, Worktree
from clinvk.model.result import WorktreeResult
from clinvk.runs.folder import RunFolder
from clinvk.worktrees.git import Git
from clinvk.worktrees.results.target import find_target


def fetch_missing(folder: RunFolder, plan: Plan, env: Mapping[str, str], *, trusted: bool) -> None:
    """Fetch them into the repositories that the run was started in, unless they were dropped. Raises
    `ClinvkError`."""
    dropped = {line.get("result") for line in folder.read_taken() if line.get("event") == "dropped"}
    wanted: dict[str, list[tuple[Worktree, WorktreeResult]]] = {}
    for outcome in folder.result(plan, trusted=trusted).results:
        worktree, made = plan.worktree_of(outcome.index, outcome.decision), outcome.worktree
        if worktree is None or made is None or not worktree.remote or made.commit in dropped:
            continue
        wanted.setdefault(worktree.repository, []).append((worktree, made))
    for repository, results in wanted.items():
        place = find_target(Path(repository))
        if place is None:
            continue  # it was moved or deleted, which is said where the results are used
        git = Git.at(place.common_dir, env)
        missing = [pair for pair in results if git.commit_of(pair[1].commit) is None]
        for worktree, made in missing:
            check_result(folder.id, worktree, made)
        if missing:
            bring_results(folder.id, place, missing, env)
