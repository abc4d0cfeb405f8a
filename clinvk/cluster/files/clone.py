"""Clones of the user: results of detached runs are brought there from the remote."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

from clinvk.cluster.files.exchange import check_result, pass_on_submodules
from clinvk.cluster.files.remote import Remote, check_url, remote_url
from clinvk.config.cluster_values import show_remote
from clinvk.errors import ConfigError, SessionError
from clinvk.model.outcome import Outcome
from clinvk.model.plan import Plan, Worktree
from clinvk.model.result import WorktreeResult
from clinvk.worktrees import names
from clinvk.worktrees.git import Git, GitError
from clinvk.worktrees.results.target import Target, find_target


def is_clone(place: Target, worktree: Worktree) -> bool:
    """Whether it is a clone of the repository with whose commit the worktree began, or may be: it has that
    commit, or the same remote."""
    if place.git.commit_of(worktree.commit) is not None:
        return True
    wanted = _place_of(worktree.remote)
    for name in (place.git.maybe("remote") or "").split():
        with suppress(ConfigError):
            if _place_of(remote_url(name, place.git, str(place.root or place.git_dir))) == wanted:
                return True
    return False


def is_of_clone(plan: Plan, near: Target) -> bool:
    """Whether a task of the plan has its files from the repository that this is a clone of."""
    worktrees = {t.worktree.repository: t.worktree for t in plan.tasks if t.worktree}
    return any(is_clone(near, worktree) for worktree in worktrees.values() if worktree.remote)


def find_clone(worktree: Worktree, near: Target | None, *, is_own: bool) -> Target | None:
    """The working tree that has the results of the worktree, or can get them: as for a run of this
    machine, if it `is_own`, otherwise the one that the user is in. None if there is none."""
    if is_own:
        if near is not None and _same(near.common_dir, worktree.repository):
            return near
        for path in (worktree.root, worktree.repository):
            started_in = find_target(Path(path))
            if started_in is not None and _same(started_in.common_dir, worktree.repository):
                return started_in
    return near if near is not None and is_clone(near, worktree) else None


def missing_clone(worktree: Worktree, run: str, here: Path) -> SessionError:
    url = show_remote(worktree.remote)
    return SessionError(
        f"the results of run {run} are in {url}, and {here} is not in a clone of that",
        f"run the same command in a clone; to make one: git clone {url}",
    )


def bring_results(
    run: str,
    place: Target,
    results: Sequence[tuple[Worktree, WorktreeResult]],
    env: Mapping[str, str],
) -> None:
    """Fetch these results of the run from their remote, unless they are there. Raises `ClinvkError`."""
    git = Git.at(place.common_dir, env)
    known = set(git.text("for-each-ref", "--format=%(refname)", names.refs_of_run(run)).split())
    new = [pair for pair in results if pair[1].ref not in known]
    if not new:
        return
    remote = Remote(check_url(new[0][0].remote), git)
    # Not what the run began with: those commits are among the ancestors of the results.
    slugs = dict.fromkeys(wanted.slug for wanted, _ in new)
    refs = [names.refs_of_task(run, slug) for slug in slugs]
    nested = [f"{names.NESTED_REFS}{run}/{slug}/" for slug in slugs]
    remote.fetch([f"+{prefix}*:{prefix}*" for prefix in (*refs, *nested)])
    for wanted, result in new:
        pass_on_submodules(git, run, wanted, result, env)


def check_outcome(run: str, wanted: Worktree, outcome: Outcome) -> None:
    """Raise `SessionError` if a name or a commit could mean something else to git: they come from the
    network."""
    if outcome.worktree is None:
        return
    try:
        check_result(run, wanted, outcome.worktree)
    except GitError as error:
        raise SessionError(
            f"run {run} is damaged: task {outcome.name!r}: {error.message}", error.hint
        ) from error


def _place_of(url: str) -> tuple[str, str]:
    """The host and the path of a URL, whatever way leads there."""
    if "://" in url:
        parts = urlsplit(url)
        host, path = parts.hostname or "", parts.path
    elif url.startswith(("/", "~")):
        host, path = "", os.path.realpath(os.path.expanduser(url))
    else:
        host, _, path = url.rpartition("@")[2].partition(":")
    return host, path.strip("/").removesuffix(".git")


def _same(one: str | Path, two: str | Path) -> bool:
    return os.path.realpath(one) == os.path.realpath(two)
