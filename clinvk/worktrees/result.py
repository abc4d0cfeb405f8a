"""The result of an attempt: a commit of everything in the worktree that is not ignored.

It is made without `git commit`: no hook runs, nothing is signed, no name is needed, and the index and
the files stay as the agent left them. Commits of the agent are its ancestors.
"""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path

from msgspec import Struct

from clinvk.model.result import WorktreeResult
from clinvk.worktrees import names
from clinvk.worktrees.create import Place, attach_worktree
from clinvk.worktrees.git import IDENTITY, Git, GitError, decode
from clinvk.worktrees.index import add_all, temporary_index
from clinvk.worktrees.record import Record, is_of_worker, read_record
from clinvk.worktrees.steps import owner_of
from clinvk.worktrees.submodules import GITLINK, gitlinks

_SHORTSTAT = re.compile(r"(\d+) (file|insertion|deletion)")


class Saved(Struct, frozen=True):
    """A result. `notices` say what is not in it as one might expect."""

    result: WorktreeResult
    notices: tuple[str, ...] = ()


class _Last(Struct, frozen=True):
    """The last result of the task."""

    number: int
    ref: str
    commit: str
    tree: str
    parents: tuple[str, ...]


def save_result(
    place: Place, record: Record, attempt: int | None = None, *, counts: bool = True
) -> Saved:
    """The commit of everything that is in the worktree now; in a ref when this returns. If nothing
    has changed since the last result, that is it. `attempt` is the number of a new attempt; if it has
    another result already, the next free number is used. Without `counts`, the changes are not counted.
    Raises `GitError`."""
    git = Git.of(record.admin, place.path, place.env)
    head, head_tree = _head(git)
    nested = _Nested(place, record)
    if (place.path / ".git").is_dir():
        nested.keep_replaced()
    last = _last(place)
    with temporary_index(Path(record.admin) / "index") as index:
        left_out = add_all(git, index)
        nested.save(git, index, place.path, left_out)
        tree = git.text("write-tree", index=index)
    same = last is not None and last.tree == tree and _contains(git, last, head)
    if last is not None and same and (attempt is None or attempt <= last.number):
        return Saved(
            _result(place, record, git, last.ref, last.commit, counts), tuple(nested.notices)
        )
    number = max(attempt or 1, last.number + 1 if last else 1)
    if last is not None and same:
        commit = last.commit
    elif tree == head_tree:
        commit = head
    else:
        message = f"{place.run} {place.wanted.slug}, attempt {number}"
        commit = git.text("commit-tree", tree, "-p", head, "-m", message, env=IDENTITY)
    ref = names.ref_of(place.run, place.wanted.slug, number)
    git.run("update-ref", ref, commit)
    return Saved(_result(place, record, git, ref, commit, counts), tuple(nested.notices))


def current_result(place: Place) -> Saved | None:
    """The newest result of a task, whatever the journal says: that of an attempt that was killed, and
    that of a later turn of its session, too. What is in its worktree and in no ref yet is saved
    first. None if there is neither a worktree nor a result. Call it only while no process drives the
    run. Raises `ClinvkError`."""
    record = read_record(place.path)
    if record is not None and is_of_worker(record, place.home):
        record = None  # it delivers its results
    is_there = record is not None and record.state == "ready" and place.path.is_dir()
    if record and is_there and owner_of(place, record).wanted.slug == place.wanted.slug:
        return save_result(place, attach_worktree(place, record))
    last = _last(place)
    if last is None:
        return None
    known = record or Record(state="ready", path=str(place.path), repository=str(place.repository))
    return Saved(_result(place, known, place.git, last.ref, last.commit))


def changed_files(place: Place, record: Record) -> list[str]:
    """The paths in a worktree that differ from what it began with, whether that is saved or not, while
    a process drives the run, too: nothing is written, not even the index. Raises `ClinvkError`."""
    git, base = (
        Git.at(place.path, place.env),
        record.bases.get(place.wanted.slug, place.wanted.commit),
    )
    unlocked = {"GIT_OPTIONAL_LOCKS": "0"}
    words = ("diff", "--no-ext-diff", "--no-renames", "--name-only", "-z", base, "--")
    listed = git.run(*words, env=unlocked).stdout
    listed += git.run("ls-files", "--others", "--exclude-standard", "-z", env=unlocked).stdout
    return sorted({decode(name) for name in listed.split(b"\0") if name})


def _head(git: Git) -> tuple[str, str]:
    """The commit of HEAD and its tree. Raises `GitError`."""
    try:
        head, tree = git.text("rev-parse", "HEAD^{commit}", "HEAD^{tree}").split()
    except GitError as error:
        raise GitError(
            f"the HEAD of the worktree is not a commit: {error.message}",
            f"see what happened to it: git -C {shlex.quote(git.where[1])} status",
            output=error.output,
        ) from error
    return head, tree


def _last(place: Place) -> _Last | None:
    prefix = names.refs_of_task(place.run, place.wanted.slug)
    listed = place.git.text(
        "for-each-ref", "--format=%(refname) %(objectname) %(tree) %(parent)", prefix
    )
    found = []
    for line in listed.splitlines():
        ref, commit, *rest = line.split()
        number = ref.rpartition("/")[2]
        if number.isdigit() and int(number):
            tree, parents = "".join(rest[:1]), tuple(rest[1:])
            found.append(_Last(int(number), ref, commit, tree, parents))
    return max(found, key=lambda last: last.number, default=None)


def _contains(git: Git, last: _Last, head: str) -> bool:
    """Whether the commits up to HEAD are part of the last result."""
    if head in (last.commit, *last.parents):
        return True
    words = ("merge-base", "--is-ancestor", head, last.commit)
    return git.run(*words, ok=(0, 1, 128)).returncode == 0


def _result(
    place: Place, record: Record, git: Git, ref: str, commit: str, is_counted: bool = True
) -> WorktreeResult:
    base = record.bases.get(place.wanted.slug, place.wanted.commit)
    counts = {"file": 0, "insertion": 0, "deletion": 0}
    if commit != base and is_counted:
        words = ("diff-tree", "-r", "--shortstat", "--no-renames", "--ignore-submodules=none")
        for count, what in _SHORTSTAT.findall(git.text(*words, base, commit)):
            counts[what] = int(count)
    return WorktreeResult(
        path=str(place.path), ref=ref, commit=commit, base=base, files=counts["file"],
        insertions=counts["insertion"], deletions=counts["deletion"],
    )  # fmt: skip


class _Nested:
    """Saves the repositories inside a worktree before itself: submodules, and those that the agent
    has made or cloned. Each gets a commit of all that is in it, in a ref of its own repository; if
    that is inside the worktree, also in the worktree's."""

    def __init__(self, place: Place, record: Record) -> None:
        self.place = place
        self.notices: list[str] = []
        self._admin = Path(record.admin)
        self._known = {submodule.path: submodule.commit for submodule in record.submodules}

    def save(self, git: Git, index: Path, folder: Path, unborn: list[str]) -> None:
        for path in [*(path for path, _ in gitlinks(git, index)), *unborn]:
            inner = folder / path
            if not (inner / ".git").exists():
                continue  # a submodule that is not checked out
            whole = str(inner.relative_to(self.place.path))
            commit = self._save_one(inner, self._known.get(whole))
            entry = f"{GITLINK},{commit},{path}"
            git.run("update-index", "--add", "--cacheinfo", entry, index=index)
            if whole not in self._known and not self._is_submodule(folder, path):
                self.notices.append(
                    f"{whole} is a repository of its own, so its files are not part of the result; "
                    f"its commit {commit[:12]} is kept in {self.place.repository}"
                )

    def keep_replaced(self) -> None:
        """Keep the commits of a repository that the agent has made in place of the worktree's."""
        own = self.place.path / ".git"
        git = Git(("--git-dir", str(own)), self.place.env)
        if (commit := git.commit_of("HEAD")) is not None:
            self._keep(git, commit, own)

    def _save_one(self, inner: Path, begun: str | None) -> str:
        """The commit of all that is in a nested repository, which began with the commit `begun`."""
        git = Git.at(inner, self.place.env)
        admin = Path(git.text("rev-parse", "--absolute-git-dir"))
        common = Path(git.text("rev-parse", "--path-format=absolute", "--git-common-dir"))
        head = git.commit_of("HEAD")
        with temporary_index(admin / "index") as index:
            unborn = add_all(git, index)
            self.save(git, index, inner, unborn)
            tree = git.text("write-tree", index=index)
        if head is None or tree != git.text("rev-parse", "HEAD^{tree}"):
            parents = ("-p", head) if head else ()
            message = f"{self.place.run} {self.place.wanted.slug}"
            words = ("commit-tree", tree, *parents, "-m", message)
            head = git.text(*words, env=_identity_at(git, head))
        if head != begun:
            is_inside = _is_below(common, self.place.path) or _is_below(common, self._admin)
            self._keep(git, head, common if is_inside else None)
        return head

    def _keep(self, git: Git, commit: str, common: Path | None) -> None:
        """Put a commit into a ref, unless it is in one; also in the worktree's repository if its own
        is `common`, inside the worktree."""
        prefix = names.refs_of_task(self.place.run, self.place.wanted.slug)
        ref = f"{prefix}{commit}"
        git.run("update-ref", ref, commit)
        if common is not None:
            kept = f"{names.NESTED_REFS}{ref.removeprefix(names.REFS)}"
            words = ("fetch", "--quiet", "--no-tags", "--no-write-fetch-head")
            # The path is in the worktree: nothing is downloaded.
            local = ("-c", "protocol.file.allow=always")
            self.place.git.run(*words, str(common), f"+{ref}:{kept}", extra=local)

    def _is_submodule(self, folder: Path, path: str) -> bool:
        words = ("config", "--file", str(folder / ".gitmodules"), "--get-regexp", r"\.path$")
        listed = Git.at(folder, self.place.env).run(*words, ok=(0, 1)).stdout
        return any(line.split(b" ", 1)[-1] == os.fsencode(path) for line in listed.splitlines())


def _identity_at(git: Git, head: str | None) -> dict[str, str]:
    """The identity, at the time of HEAD: the same content has the same commit, so that saving twice
    changes nothing."""
    at = git.text("log", "-1", "--format=%ct", head) if head else "1000000000"
    return IDENTITY | {f"GIT_{role}_DATE": f"{at} +0000" for role in ("AUTHOR", "COMMITTER")}


def _is_below(path: Path, folder: Path) -> bool:
    return path.resolve().is_relative_to(folder.resolve())
