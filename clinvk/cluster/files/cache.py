"""A worker's copy of a remote: a bare repository that all worktrees of its tasks share.

~/.clinvk/cluster/git/HASH.git      the repository; its file `clinvk-remote` has the URL
~/.clinvk/cluster/git/HASH.lock     held while it is filled, or deleted
refs/clinvk-node/RUN/DIRECTORY      the last result that was delivered from a worktree of this node
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from clinvk.cluster.files.remote import BASE, Remote, base_ref, check_url, nested_ref
from clinvk.cluster.files.submodules import links_of
from clinvk.disk.atomic import file_error, make_folder
from clinvk.disk.lockfile import hold_lock
from clinvk.disk.trees import remove_tree
from clinvk.model.plan import TaskWorktree
from clinvk.worktrees import names
from clinvk.worktrees.git import Git, GitError

SUFFIX = ".git"
URL_FILE = "clinvk-remote"
NODE_REFS = "refs/clinvk-node/"


class Cache:
    """The copy of one remote. Its methods block."""

    def __init__(self, home: Path, url: str, env: Mapping[str, str]) -> None:
        self.url = check_url(url)
        self.env = env
        name = hashlib.sha256(url.encode()).hexdigest()[:16]
        self.path = names.caches_of(home) / f"{name}{SUFFIX}"

    @property
    def git(self) -> Git:
        return Git.at(self.path, self.env)

    @property
    def remote(self) -> Remote:
        return Remote(self.url, self.git)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Raises `SessionError`."""
        with lock_cache(self.path):
            yield

    def fill(self, task: TaskWorktree) -> None:
        """Have what the task begins with, and its submodules. Only what is missing is fetched. Raises
        `ClinvkError`."""
        wanted = task.wanted
        with self.lock():
            self._create()
            start = beginning_of(task)
            needed = []
            if self.git.commit_of(wanted.commit) is None:
                needed.append(_same(base_ref(task.run, wanted.commit)))
            later = {start, task.start or start} - {wanted.commit}
            if any(self.git.commit_of(commit) is None for commit in later):
                needed.append(_same(f"{names.refs_of_run(task.run)}*"))
            if needed:
                self.remote.fetch(needed)
            if self._lacks_submodules(self.git, self.path, start):
                self.remote.fetch([_same(f"{names.NESTED_REFS}{task.run}/*")])
                self._fill_submodules(self.git, self.path, start, task.run)
            os.utime(self.path / URL_FILE)

    def fetch_run(self, run: str) -> None:
        """Have all results of a run. Raises `ClinvkError`."""
        with self.lock():
            self._create()
            nested = f"{names.NESTED_REFS}{run}/*"
            self.remote.fetch([_same(f"{names.refs_of_run(run)}*"), _same(nested)])
            os.utime(self.path / URL_FILE)

    def delivered(self, run: str, directory: str) -> str | None:
        """The last result that was delivered from that worktree."""
        return self.git.commit_of(f"{NODE_REFS}{run}/{directory}")

    def note_delivered(self, run: str, directory: str, commit: str) -> None:
        self.git.run("update-ref", f"{NODE_REFS}{run}/{directory}", commit)

    def _create(self) -> None:
        if (self.path / URL_FILE).is_file():
            return
        try:
            make_folder(self.path.parent)
            if self.path.exists():  # half made
                remove_tree(self.path)
            Git.at(self.path.parent, self.env).run("init", "--quiet", "--bare", str(self.path))
            (self.path / URL_FILE).write_text(f"{self.url}\n")
        except OSError as error:
            raise file_error("write", self.path, error) from error

    def _lacks_submodules(self, git: Git, repository: Path, commit: str) -> bool:
        for link in links_of(git, commit):
            place = repository / "modules" / link.name
            inner = Git.at(place, self.env)
            if not (place / "HEAD").is_file() or inner.commit_of(link.commit) is None:
                return True
            if self._lacks_submodules(inner, place, link.commit):
                return True
        return False

    def _fill_submodules(self, git: Git, repository: Path, commit: str, run: str) -> None:
        """Put each submodule where that of a user's checkout is, so that worktrees find it."""
        for link in links_of(git, commit):
            if ".." in Path(link.name).parts or Path(link.name).is_absolute():
                continue
            source = self._nested(run, link.commit)
            place = repository / "modules" / link.name
            inner = Git.at(place, self.env)
            if not (place / "HEAD").is_file():
                if source is None:
                    continue  # it was not checked out where the run was started
                make_folder(place)
                Git.at(place, self.env).run("init", "--quiet", "--bare")
            if source is not None and inner.commit_of(link.commit) is None:
                ref = f"{NODE_REFS}{run}/{link.commit}"
                words = ("fetch", "--quiet", "--no-tags", "--no-write-fetch-head", str(self.path))
                inner.run(*words, f"+{source}:{ref}", extra=("-c", "protocol.file.allow=always"))
            if inner.commit_of(link.commit) is not None:
                self._fill_submodules(inner, place, link.commit, run)

    def _nested(self, run: str, commit: str) -> str | None:
        """The ref of a submodule's commit that came with the run."""
        base = nested_ref(run, BASE, commit)
        if self.git.commit_of(base) is not None:
            return base
        words = ("for-each-ref", "--format=%(refname)", "--points-at", commit,
                 f"{names.NESTED_REFS}{run}/")  # fmt: skip
        try:
            return self.git.text(*words).partition("\n")[0] or None
        except GitError:  # there is no such commit
            return None


def beginning_of(task: TaskWorktree) -> str:
    """The commit that a new worktree begins with."""
    return task.tip or task.start or task.wanted.commit


@contextmanager
def lock_cache(path: Path) -> Iterator[None]:
    """Raises `SessionError`."""
    try:
        make_folder(path.parent)
    except OSError as error:
        raise file_error("write", path.parent, error) from error
    with hold_lock(path.with_suffix(".lock")):
        yield


def _same(pattern: str) -> str:
    return f"+{pattern}:{pattern}"
