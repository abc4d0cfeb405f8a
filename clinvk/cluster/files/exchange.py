"""The side of the user's repository: bases are pushed to the remote, results are fetched from it."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from msgspec.structs import replace

from clinvk.cluster.files.cache import Cache
from clinvk.cluster.files.forget import note_pushed
from clinvk.cluster.files.in_use import keep_in_use
from clinvk.cluster.files.remote import BASE, Remote, base_ref, nested_ref
from clinvk.cluster.files.submodules import checked_out, links_of
from clinvk.model.plan import TaskWorktree, Worktree
from clinvk.model.result import WorktreeResult
from clinvk.worktrees import names
from clinvk.worktrees.git import Git, GitError
from clinvk.worktrees.steps import result_so_far
from clinvk.worktrees.submodules import repository_of_submodule

COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


class Exchange:
    """Of one run. Its methods block, and may be called in several threads at once."""

    def __init__(
        self, home: Path, env: Mapping[str, str], *, cluster: str = "", is_detached: bool = False
    ) -> None:
        """`cluster` is what identifies it: see `identify`. A run that `is_detached` may be of another
        machine: its base is in the remote already, and nothing of it is looked for in the repositories
        of this one."""
        self.home = home
        self.cluster = cluster
        self.env = env
        self.is_detached = is_detached
        self._published: set[tuple[str, str, str]] = set()
        self._delivered: dict[str, set[str]] = {}  # by remote: the commits that it has
        # By ref: the results that could not be fetched, or not yet.
        self._missing: dict[str, tuple[TaskWorktree, WorktreeResult]] = {}
        self._lock = threading.Lock()  # pushes and fetches of one repository one after the other

    def publish(self, task: TaskWorktree) -> TaskWorktree:
        """The worktree for a worker, when all that it begins with is in the remote. Raises
        `GitError`."""
        wanted = task.wanted
        if self.is_detached:
            return replace(task, tip=self._tip_from_remote(task))
        with self._lock:
            remote = self._remote(task)
            for earlier, made in list(self._missing.values()):
                if earlier.wanted.repository == wanted.repository:  # it may begin with that
                    self._fetch(earlier, made)
            key = (wanted.remote, wanted.repository, wanted.commit)
            if key not in self._published:
                if Path(wanted.repository).is_dir():
                    self._push(remote, task.run, wanted)
                self._published.add(key)
            tip = result_so_far(remote.git, task.run, wanted, task.start)
            begins_with = tip or task.start
            if begins_with is not None and Path(wanted.repository).is_dir():
                self._push_result(remote, task.run, wanted, begins_with)
        return replace(task, tip=tip)

    def collect(self, task: TaskWorktree, result: WorktreeResult) -> WorktreeResult:
        """The result of a worker, when it is in the repository; that of a detached run stays in the
        remote. Raises `GitError`."""
        if self.is_detached:
            return result
        with self._lock:
            check_result(task.run, task.wanted, result)
            self._missing[result.ref] = task, result
            self._fetch(task, result)
        return result

    def _fetch(self, task: TaskWorktree, result: WorktreeResult) -> None:
        remote = self._remote(task)
        fetch_result(remote, task.run, task.wanted, result, self.env)
        if (known := self._delivered.get(remote.url)) is not None:
            known.add(result.commit)
        del self._missing[result.ref]

    def publish_base(self, run: str, wanted: Worktree) -> None:
        """Push what a worktree begins with. Raises `GitError`."""
        git = Git.at(wanted.repository, self.env)
        self._push(Remote(wanted.remote, git), run, wanted)

    def _tip_from_remote(self, task: TaskWorktree) -> str | None:
        if task.attempt == 1 and not names.is_shared(task.wanted.directory):
            return None  # it is the first one in its worktree
        with self._lock, open_results(self.home, task.run, task.wanted.remote, self.env) as git:
            return result_so_far(git, task.run, task.wanted, task.start)

    def _remote(self, task: TaskWorktree) -> Remote:
        """The remote, seen from the user's repository; where that is not on this machine, from the
        cache of a worker."""
        wanted = task.wanted
        if Path(wanted.repository).is_dir():
            return Remote(wanted.remote, Git.at(wanted.repository, self.env))
        cache = Cache(self.home, wanted.remote, self.env)
        cache.fetch_run(task.run)
        return Remote(wanted.remote, cache.git)

    def _push(self, remote: Remote, run: str, wanted: Worktree) -> None:
        note_pushed(self.home, run, remote.url, self.cluster)
        remote.push(wanted.commit, base_ref(run, wanted.commit))
        self._push_submodules(remote, run, wanted, wanted.commit)

    def _push_result(self, remote: Remote, run: str, wanted: Worktree, commit: str) -> None:
        """Push a result that another attempt or task begins with, if no worker has delivered it: it was
        made on this machine, by a part of the run that was resumed here."""
        known = self._delivered.get(remote.url)
        if known is None:
            known = self._delivered[remote.url] = set(remote.refs_of_run(run).values())
        if commit in known:
            return
        words = ("for-each-ref", "--format=%(refname)", "--points-at", commit)
        refs = remote.git.text(*words, names.refs_of_run(run)).split()
        self._push_submodules(remote, run, wanted, commit)
        remote.push(commit, next(iter(refs), base_ref(run, commit)))
        known.add(commit)

    def _push_submodules(self, remote: Remote, run: str, wanted: Worktree, commit: str) -> None:
        root, repository = Path(wanted.root), Path(wanted.repository)
        for inner, own in checked_out(remote.git, commit, root, repository, self.env):
            Remote(remote.url, inner).push(own, nested_ref(run, BASE, own))


@contextmanager
def open_results(
    home: Path, run: str, remote: str, env: Mapping[str, str], commits: Iterable[str] = ()
) -> Iterator[Git]:
    """Git in the copy of a remote that this machine has, as long as the block runs. With `commits`, the
    results of the run are fetched only if one of these is missing. Raises `ClinvkError`."""
    cache = Cache(home, remote, env)
    wanted = list(commits)
    with keep_in_use(home, cache.path.name):
        if not wanted or not all(map(cache.git.commit_of, wanted)):
            cache.fetch_run(run)
        yield cache.git


def check_result(run: str, wanted: Worktree, result: WorktreeResult) -> None:
    """Raise `GitError` if a name or a commit could mean something else to git: they come from the
    network."""
    ref = names.refs_of_task(run, wanted.slug)
    fits = result.ref.startswith(ref) and result.ref.removeprefix(ref).isdigit()
    if not (fits and COMMIT.fullmatch(result.commit) and COMMIT.fullmatch(result.base)):
        raise GitError(
            f"the result of {wanted.slug} is invalid: {result.ref[:100]!r}", "run the task again"
        )


def fetch_result(
    remote: Remote, run: str, wanted: Worktree, result: WorktreeResult, env: Mapping[str, str]
) -> None:
    """Fetch a result, and what it has of submodules and of other repositories inside. Raises
    `GitError`."""
    ref, git = result.ref, remote.git
    nested = f"{names.NESTED_REFS}{run}/{wanted.slug}/*"
    try:
        remote.fetch([f"{ref}:{ref}", f"+{nested}:{nested}"])
    except GitError as error:
        raise GitError(
            f"the result of {wanted.slug} was not fetched: {error.message}",
            f"it is safe in the remote; once that can be reached: git fetch {remote.url} {ref}:{ref}",
            output=error.output,
        ) from error
    pass_on_submodules(git, run, wanted, result, env)


def pass_on_submodules(
    git: Git, run: str, wanted: Worktree, result: WorktreeResult, env: Mapping[str, str]
) -> None:
    """Put the commits of submodules that came with a result into the repositories of those."""
    if not Path(wanted.root).is_dir():
        return
    known = {link.path: link.commit for link in links_of(git, result.base)}
    for link in links_of(git, result.commit):
        if known.get(link.path) in (None, link.commit):
            continue
        root, repository = Path(wanted.root), Path(wanted.repository)
        found = repository_of_submodule(link.name, root / link.path, repository, env)
        if found is not None:
            _pass_on(git, Git.at(found, env), run, wanted.slug, link.commit)


def _pass_on(git: Git, inner: Git, run: str, slug: str, commit: str) -> None:
    """Put the commit of a submodule into the repository of the submodule."""
    source = nested_ref(run, slug, commit)
    if git.commit_of(source) is None or inner.commit_of(commit) is not None:
        return
    target = f"{names.refs_of_task(run, slug)}{commit}"
    words = ("fetch", "--quiet", "--no-tags", "--no-write-fetch-head")
    with suppress(GitError):  # then git says that the commit is missing when the result is applied
        common = git.text("rev-parse", "--path-format=absolute", "--git-common-dir")
        inner.run(*words, common, f"+{source}:{target}", extra=("-c", "protocol.file.allow=always"))
