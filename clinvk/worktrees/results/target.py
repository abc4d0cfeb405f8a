"""The working tree that results are applied to, and what stands in the way there."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from msgspec import Struct

from clinvk.errors import SessionError, UsageError
from clinvk.worktrees.git import Git, GitError, decode
from clinvk.worktrees.results.merge import GITLINK, Change, Entry, named

# What git leaves in its directory while it is in the middle of something.
UNFINISHED = {
    "MERGE_HEAD": "a merge", "CHERRY_PICK_HEAD": "a cherry-pick", "REVERT_HEAD": "a revert",
    "rebase-merge": "a rebase", "rebase-apply": "a rebase or git am",
}  # fmt: skip
CHECKED_AT_ONCE = 2_000  # paths in the arguments of one command


class Stat(NamedTuple):
    """What tells whether a file was changed."""

    inode: int
    size: int
    mtime_ns: int

    @classmethod
    def of(cls, path: str | Path) -> Stat | None:
        """None if there is no file. A directory is none."""
        try:
            found = os.lstat(path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        if stat.S_ISDIR(found.st_mode):
            return None
        return cls(found.st_ino, found.st_size, found.st_mtime_ns)


class Target(Struct, frozen=True, kw_only=True):
    """A working tree of the user, or a bare repository."""

    git: Git
    git_dir: Path  # its own: that of a linked worktree is not the one of the repository
    common_dir: Path
    root: Path | None  # None: it is bare
    head: str | None  # the commit; None if the branch has none yet
    branch: str | None  # refs/heads/…; None if HEAD is detached

    @property
    def description(self) -> str:
        return str(self.root or self.git_dir)

    @property
    def index(self) -> Path:
        return self.git_dir / "index"

    def again(self) -> Target:
        """The same place, as it is now. Raises `SessionError` if it is gone."""
        found = find_target(self.root or self.git_dir)
        if found is None:
            raise SessionError(f"{self.description} was deleted meanwhile", "nothing was applied")
        return found

    def files(self) -> Git:
        """Git in its root."""
        assert self.root is not None  # noqa: S101 - the caller has checked it
        return Git.of(self.git_dir, self.root)


class BlockedError(UsageError):
    """Work of the user is in the way: `dirty` files have uncommitted changes, `untracked` ones are
    unknown to git."""

    def __init__(self, target: Target, dirty: Sequence[str], untracked: Sequence[str]) -> None:
        self.dirty = tuple(dirty)
        self.untracked = tuple(untracked)
        parts = []
        if dirty:
            parts.append(f"uncommitted changes in {named(dirty)}")
        if untracked:
            parts.append(f"untracked files in the way: {named(untracked)}")
        verbs = [*(["commit or stash them"] if dirty else []),
                 *(["move the untracked ones away"] if untracked else [])]  # fmt: skip
        super().__init__(
            f"nothing was applied to {target.description}: {'; '.join(parts)}",
            f"{', and '.join(verbs)}; or apply to a new branch: --branch NAME",
        )


def find_target(directory: Path) -> Target | None:
    """The working tree or repository that contains the directory; None if it is in none. Raises
    `GitError` if git refuses to read it."""
    if not directory.is_dir():
        return None
    git = Git.at(directory)
    try:
        dirs = git.text("rev-parse", "--path-format=absolute", "--git-dir", "--git-common-dir")
    except GitError as error:
        if "not a git repository" in error.output:
            return None
        raise
    git_dir, _, common_dir = dirs.partition("\n")
    root = git.maybe("rev-parse", "--path-format=absolute", "--show-toplevel")
    return Target(
        git=Git.of(git_dir, root) if root else Git.at(git_dir),
        git_dir=Path(git_dir),
        common_dir=Path(common_dir),
        root=Path(root) if root else None,
        head=git.commit_of("HEAD"),
        branch=git.maybe("symbolic-ref", "--quiet", "HEAD"),
    )


def check_ready(target: Target) -> None:
    """Raise `UsageError` or `SessionError` if nothing can be applied to the files there."""
    if target.root is None:
        raise UsageError(
            f"{target.git_dir} is a bare repository, which has no files to apply changes to",
            "apply to a new branch: --branch NAME",
        )
    if target.head is None:
        raise UsageError(
            f"the current branch in {target.root} has no commit yet",
            "switch to a branch with commits, or apply to a new one: --branch NAME",
        )
    for name, what in UNFINISHED.items():
        if (target.git_dir / name).exists():
            raise UsageError(
                f"{what} is in progress in {target.root}",
                "finish or abort it first: git status says how",
            )
    if target.git.run("ls-files", "--unmerged", "-z").stdout:
        raise UsageError(
            f"there are unresolved conflicts in {target.root}", "resolve them first: git status"
        )


def locked_error(target: Target) -> SessionError:
    return SessionError(
        f"another git command is changing {target.root}: {target.index}.lock exists",
        "try again when it has finished; if there is none, delete that file",
    )


def check_free(target: Target, changes: Sequence[Change], scratch: Path) -> dict[str, Stat | None]:
    """Each file that will be changed, as it is now. Raises `BlockedError` if changing them would
    overwrite anything that is not in the last commit. `scratch` is an empty directory."""
    assert target.root is not None  # noqa: S101 - `check_ready` comes first
    before = {c.path: Stat.of(target.root / c.path) if c.old else None for c in changes}
    entries = _index_entries(target, {c.path for c in changes})
    dirty = {c.path for c in changes if entries.get(c.path, (None, ""))[0] != c.old}
    dirty |= _modified(target, changes, entries, scratch)
    untracked = _in_the_way(target.root, changes, entries)
    dirty |= _staged_in_the_way(entries, changes)
    if dirty or untracked:
        raise BlockedError(target, sorted(dirty), sorted(untracked - dirty))
    return before


def _index_entries(target: Target, paths: set[str]) -> dict[str, tuple[Entry, str]]:
    """The entries of the index with these paths, above them or below them, each with its tag: `S`
    is a file outside of a sparse checkout."""
    above = {parent for path in paths for parent in _parents(path)}
    found = {}
    for record in target.git.run("ls-files", "-z", "--stage", "-t").stdout.split(b"\0"):
        info, _, name = record.partition(b"\t")
        if not name:
            continue
        path = decode(name)
        if path in paths or path in above or not paths.isdisjoint(_parents(path)):
            tag, mode, oid, _ = info.decode().split(" ")
            found[path] = Entry(mode, oid), tag
    return found


def _parents(path: str) -> list[str]:
    return [path[:i] for i, c in enumerate(path) if c == "/"]


def _modified(
    target: Target,
    changes: Sequence[Change],
    entries: dict[str, tuple[Entry, str]],
    scratch: Path,
) -> set[str]:
    """Tracked files that differ from the index. Their content is compared, in an index of its own:
    flags of the user's index (assume-unchanged) hide changes, and it is not written."""
    assert target.root is not None  # noqa: S101 - `check_ready` comes first
    lines = []
    for change in changes:
        entry, tag = entries.get(change.path, (None, ""))
        is_sparse = tag == "S" and not os.path.lexists(target.root / change.path)
        if entry is not None and not is_sparse:
            lines.append(os.fsencode(f"{entry.mode} {entry.oid}\t{change.path}"))
    if not lines:
        return set()
    index, files = scratch / "compared", target.files()
    files.run("update-index", "-z", "--index-info", index=index, data=b"\0".join(lines) + b"\0")
    files.run("update-index", "-q", "--refresh", "--ignore-submodules", index=index, ok=(0, 1))
    words = ("diff-files", "-z", "--name-only", "--ignore-submodules=dirty")
    return set(map(decode, filter(None, files.run(*words, index=index).stdout.split(b"\0"))))


def _in_the_way(
    root: Path, changes: Sequence[Change], entries: dict[str, tuple[Entry, str]]
) -> set[str]:
    """Files and directories that git does not know (ignored ones too), where changed files go."""
    leaving = {c.path for c in changes if c.old is not None}
    found = set()
    for change in changes:
        if change.new is None:
            continue
        for parent in _parents(change.path):
            if parent not in leaving and _is_no_directory(root / parent):
                found.add(parent)
        path = root / change.path
        if change.path in entries and change.old is not None:
            continue
        if path.is_dir() and not path.is_symlink():
            if change.new.mode != GITLINK:
                found |= {p for p in _files_below(root, change.path) if p not in leaving}
        elif os.path.lexists(path):
            found.add(change.path)
    return found


def _is_no_directory(path: Path) -> bool:
    try:
        return not stat.S_ISDIR(os.lstat(path).st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False


def _files_below(root: Path, folder: str) -> Iterable[str]:
    for at, folders, files in os.walk(root / folder):
        for name in files:
            yield os.path.relpath(os.path.join(at, name), root)
        for name in folders:
            if os.path.islink(os.path.join(at, name)):
                yield os.path.relpath(os.path.join(at, name), root)
        if ".git" in folders:  # a repository inside
            yield os.path.relpath(at, root) + "/"
            folders.clear()


def _staged_in_the_way(
    entries: dict[str, tuple[Entry, str]], changes: Sequence[Change]
) -> set[str]:
    """What is staged where a file needs a directory, or the reverse."""
    leaving = {c.path for c in changes if c.old is not None}
    arriving = {c.path for c in changes if c.new is not None}
    above = {parent for path in arriving for parent in _parents(path)}
    return {
        path
        for path in entries
        if path not in leaving and (path in above or not arriving.isdisjoint(_parents(path)))
    }
