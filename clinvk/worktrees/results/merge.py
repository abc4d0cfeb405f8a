"""Three-way merges of results. They are computed in the object store: no file, no index and no ref
is touched."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from msgspec import Struct

from clinvk.errors import ClinvkError
from clinvk.worktrees.git import IDENTITY, Git, decode

GITLINK = "160000"  # the mode of a submodule
NO_MODE = "000000"
# The commits that only say what a merge starts from are always the same ones for the same trees.
_DATES = {"GIT_AUTHOR_DATE": "@1 +0000", "GIT_COMMITTER_DATE": "@1 +0000"}
MAX_NAMED = 10  # files in a message


class Entry(NamedTuple):
    """A file in a tree."""

    mode: str
    oid: str


class Change(NamedTuple):
    """A file that differs between two trees; None: it is in one of them only."""

    path: str
    old: Entry | None
    new: Entry | None


class Source(Struct, frozen=True, kw_only=True):
    """The result of a task: what changed from `base` to `commit`."""

    index: int  # of the task in the plan
    name: str
    base: str
    commit: str
    prompt: str = ""


class Merged(NamedTuple):
    """A source, and the tree with it and with those before it."""

    source: Source
    base: str  # what it was merged from: its own base, or an earlier result that it contains
    before: str  # a tree
    tree: str

    @property
    def is_empty(self) -> bool:
        return self.before == self.tree


class ConflictError(ClinvkError):
    """A result cannot be merged. `tree` has the files with conflict markers."""

    kind = "conflict"

    def __init__(
        self,
        source: Source,
        paths: Sequence[str],
        others: Sequence[Source],
        *,
        tree: str,
        base: str,
    ) -> None:
        self.source = source
        self.paths = tuple(paths)
        self.others = tuple(others)
        self.tree = tree
        self.base = base
        against = " and ".join(f"task {other.name!r}" for other in others)
        where = against or "what has been committed since its base"
        super().__init__(
            f"task {source.name!r} conflicts with {where}: {named(self.paths)}",
            "nothing was changed; apply the other tasks by name, "
            "or let a backend resolve it: --resolve BACKEND",
        )


def named(paths: Sequence[str]) -> str:
    """The paths for a message."""
    more = f" and {len(paths) - MAX_NAMED:,} more" if len(paths) > MAX_NAMED else ""
    return ", ".join(paths[:MAX_NAMED]) + more


def tree_of(git: Git, revision: str) -> str:
    return git.text("rev-parse", "--verify", "--end-of-options", f"{revision}^{{tree}}")


def changes(git: Git, old: str, new: str) -> list[Change]:
    """The files that differ between two trees or commits."""
    if old == new:
        return []
    words = ("diff-tree", "-r", "-z", "--no-renames", "--no-abbrev", "--raw", old, new)
    parts = git.run(*words).stdout.split(b"\0")
    return [_change(info, path) for info, path in zip(parts[::2], parts[1::2], strict=False)]


def _change(info: bytes, path: bytes) -> Change:
    old_mode, new_mode, old, new, _ = info.decode().removeprefix(":").split(" ")
    return Change(
        decode(path),
        None if old_mode == NO_MODE else Entry(old_mode, old),
        None if new_mode == NO_MODE else Entry(new_mode, new),
    )


def is_ancestor(git: Git, older: str, newer: str) -> bool:
    done = git.run("merge-base", "--is-ancestor", older, newer, ok=(0, 1))
    return done.returncode == 0


def merge_all(
    git: Git, head: str, sources: Sequence[Source], *, taken: Sequence[str] = ()
) -> list[Merged]:
    """Merge the results one after another into the tree of `head`. `taken` are results that were
    applied before. Raises `ConflictError`, `GitError`."""
    tree = tree_of(git, head)
    merged: list[Merged] = []
    chosen = {source.commit for source in sources}
    contained = [c for c in taken if c not in chosen and git.commit_of(c)]
    for source in sources:
        base = best_base(git, source, contained, tree)
        after = merge(git, base, tree, source, merged)
        merged.append(Merged(source, base, tree, after))
        contained.append(source.commit)
        tree = after
    return merged


def best_base(git: Git, source: Source, contained: Sequence[str], tree: str) -> str:
    """What the result is compared with: its base, or the last result that it was built on, if the
    tree still contains that. The steps of a chain are built on each other, and so are the attempts
    of a task."""
    for commit in reversed(contained):
        if commit == source.base or not is_ancestor(git, commit, source.commit):
            continue
        # It may have been discarded since it was applied: merging it again changes nothing only if
        # it is still there.
        trees = (tree_of(git, source.base), tree, tree_of(git, commit))
        if merge_trees(git, *trees) == (tree, []):
            return commit
    return source.base


def merge(git: Git, base: str, ours: str, source: Source, before: Sequence[Merged] = ()) -> str:
    """The tree `ours` with what changed from `base` to the result. Raises `ConflictError`."""
    tree, paths = merge_trees(git, *(tree_of(git, x) for x in (base, ours, source.commit)))
    if not paths:
        return tree
    touched = set(paths)
    others = [
        m.source for m in before if touched & {c.path for c in changes(git, m.before, m.tree)}
    ]
    raise ConflictError(source, paths, others, tree=tree, base=base)


def merge_trees(git: Git, base: str, ours: str, theirs: str) -> tuple[str, list[str]]:
    """The merged tree, and the paths with conflicts."""
    if ours in (base, theirs):
        return theirs, []
    if theirs == base:
        return ours, []
    # Git finds the base of a merge in the history: so there is one for these three trees. An
    # option that names the base came with git 2.40.
    root = commit_tree(git, base)
    one, two = (commit_tree(git, tree, root) for tree in (ours, theirs))
    words = ("merge-tree", "--write-tree", "-z", "--name-only", "--no-messages", one, two)
    done = git.run(*words, ok=(0, 1))
    tree, *paths = done.stdout.rstrip(b"\0").split(b"\0")
    return tree.decode(), sorted({decode(path) for path in paths})


def commit_tree(git: Git, tree: str, *parents: str) -> str:
    """A commit that belongs to nobody's history."""
    words = [word for parent in parents for word in ("-p", parent)]
    return (
        git.run("commit-tree", tree, *words, data=b"clinvk\n", env=IDENTITY | _DATES)
        .stdout.decode()
        .strip()
    )


def without_writing(git: Git, scratch: Path) -> None:
    """Let git put new objects into a directory that is deleted afterwards: for previews."""
    objects = git.text("rev-parse", "--path-format=absolute", "--git-path", "objects")
    git.env["GIT_OBJECT_DIRECTORY"] = str(scratch)
    git.env["GIT_ALTERNATE_OBJECT_DIRECTORIES"] = _quoted(objects)


def _quoted(path: str) -> str:
    """As an element of a list of paths, in which a colon would separate two."""
    if not any(c in path for c in f'"{os.pathsep}\n'):
        return path
    return '"' + path.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'
