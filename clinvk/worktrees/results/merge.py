"""Three-way merges of results. They are computed in the object store: no file, no index and no ref
is touched."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
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
    applied: tuple[str, ...] = ()  # earlier results of the task that were applied, oldest first
    # Other results that this one contains: their tasks and commits. It is the whole of a loop.
    contains: tuple[tuple[int, str], ...] = ()
    rounds: int = 0  # of that loop


class Merged(NamedTuple):
    """A source, and the tree with it and with those before it."""

    source: Source
    base: str  # what it was merged from: its own base, or an earlier result that it contains
    before: str  # a tree
    tree: str

    @property
    def is_empty(self) -> bool:
        return self.before == self.tree


class TreeMerge(NamedTuple):
    """A merged tree, and the files in it that conflict."""

    tree: str
    conflicts: tuple[str, ...] = ()
    messages: tuple[str, ...] = ()


class ConflictError(ClinvkError):
    """A result cannot be merged. `tree` has the files with conflict markers, merged into the tree
    `ours`; `messages` are those of git."""

    kind = "conflict"

    def __init__(
        self,
        source: Source,
        merge: TreeMerge,
        others: Sequence[Source],
        *,
        ours: str,
    ) -> None:
        self.source = source
        self.paths = merge.conflicts
        self.messages = merge.messages
        self.tree = merge.tree
        self.ours = ours
        self.others = tuple(others)
        against = " and ".join(f"task {other.name!r}" for other in others)
        where = against or "what has been committed since its base"
        super().__init__(
            f"task {source.name!r} conflicts with {where}: {named(self.paths)}",
            "nothing was changed; apply the other tasks by name, "
            "or let a backend resolve it: --resolve BACKEND",
        )


class UnresolvedError(ClinvkError):
    """A backend has not resolved a conflict."""

    kind = "conflict"


_ASIDE = re.compile(r"~[0-9a-f]{40}([0-9a-f]{24})?(_\d+)?(/|$)")
Resolve = Callable[[ConflictError], str]


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


def commits_of(git: Git, source: Source) -> frozenset[str]:
    """The commits of a result, since its base."""
    return frozenset(git.text("rev-list", f"{source.base}..{source.commit}").split())


def merge_all(
    git: Git,
    head: str,
    sources: Sequence[Source],
    *,
    taken: Sequence[str] = (),
    before: Sequence[Merged] = (),
    resolve: Resolve | None = None,
) -> list[Merged]:
    """Merge the results one after another into the tree of `head`. `taken` are results that were
    applied before; those in `before`, just now, may be named in a conflict. `resolve` gets a
    conflict and returns the tree without it. Raises `ConflictError`, `GitError`."""
    tree = tree_of(git, head)
    merged: list[Merged] = []
    chosen = {source.commit for source in sources}
    contained = [commit for commit in taken if commit not in chosen]
    for source in sources:
        base = best_base(git, source, contained, tree)
        try:
            after = merge(git, base, tree, source, [*before, *merged])
        except ConflictError as conflict:
            if resolve is None:
                raise
            after = resolve(conflict)
        merged.append(Merged(source, base, tree, after))
        contained.append(source.commit)
        tree = after
    return merged


def best_base(git: Git, source: Source, contained: Sequence[str], tree: str) -> str:
    """What the result is compared with: its base, or the last result that it was built on, if the
    tree still contains that. The steps of a chain are built on each other, and so are the attempts
    of a task: each continues with the files that the last one has left."""
    own = commits_of(git, source)
    for commit in reversed(contained):
        if commit not in own and commit not in source.applied:
            continue
        # It may have been discarded since it was applied: merging it again changes nothing only if
        # it is still there.
        trees = (tree_of(git, source.base), tree, tree_of(git, commit))
        if merge_trees(git, *trees) == TreeMerge(tree):
            return commit
    return source.base


def merge(git: Git, base: str, ours: str, source: Source, before: Sequence[Merged] = ()) -> str:
    """The tree `ours` with what changed from `base` to the result. Raises `ConflictError`."""
    found = merge_trees(git, tree_of(git, base), ours, tree_of(git, source.commit))
    if not found.conflicts:
        return found.tree
    touched = set(found.conflicts)
    others = [
        m.source for m in before if touched & {c.path for c in changes(git, m.before, m.tree)}
    ]
    raise ConflictError(source, found, others, ours=ours)


def merge_trees(git: Git, base: str, ours: str, theirs: str) -> TreeMerge:
    """The three-way merge of these trees."""
    if ours in (base, theirs):
        return TreeMerge(theirs)
    if theirs == base:
        return TreeMerge(ours)
    # Git finds the base of a merge in the history: so there is one for these three trees. An
    # option that names the base came with git 2.40.
    root = commit_tree(git, base)
    one, two = (commit_tree(git, tree, root) for tree in (ours, theirs))
    done = git.run("merge-tree", "--write-tree", "-z", "--name-only", one, two, ok=(0, 1))
    tree, *parts = done.stdout.split(b"\0")
    if done.returncode == 0:
        return TreeMerge(tree.decode())
    end = parts.index(b"")
    return TreeMerge(
        tree.decode(),
        tuple(sorted({decode(path) for path in parts[:end]})),
        tuple(_messages(parts[end + 1 :])),
    )


def _messages(parts: list[bytes]) -> Iterator[str]:
    """What git says: each message after the number of its paths, these, and its kind."""
    rest = iter(parts)
    for count in rest:
        if not count.strip().isdigit():
            return
        for _ in range(int(count) + 1):
            next(rest, None)
        text = next(rest, b"").decode("utf-8", "replace").strip()
        if text.startswith("CONFLICT"):
            yield text


def conflict_commit(git: Git, head: str, conflict: ConflictError) -> str:
    """A commit of the files with conflict markers, on top of what they are merged into."""
    ours = head if tree_of(git, head) == conflict.ours else commit_tree(git, conflict.ours, head)
    return commit_tree(git, conflict.tree, ours, conflict.source.commit)


def unresolved(git: Git, conflict: ConflictError, tree: str) -> str | None:
    """What is left of a conflict in this tree; None if nothing is."""
    if _has_markers(git, tree, conflict.paths):
        return f"left conflict markers of task {conflict.source.name!r} in {named(conflict.paths)}"
    # Git has given a file a name that its directory does not take.
    aside = [path for path in conflict.paths if _ASIDE.search(path)]
    words = ("ls-tree", "-z", "--name-only", tree, "--", *aside)
    done = git.run(*words, env={"GIT_LITERAL_PATHSPECS": "1"}).stdout if aside else b""
    if left := [decode(path) for path in done.split(b"\0") if path]:
        return f"left what git has moved aside for task {conflict.source.name!r}: {named(left)}"
    # Binary files, and those that one side has deleted, have no markers.
    if tree_of(git, tree) == tree_of(git, conflict.tree):
        return f"changed nothing for task {conflict.source.name!r} in {named(conflict.paths)}"
    return None


def _has_markers(git: Git, tree: str, paths: Sequence[str]) -> bool:
    """Whether a conflict marker is left in one of these files."""
    words = ("grep", "-q", "-I", "-E", r"^(<{7}|>{7}) ", tree, "--", *paths)
    done = git.run(*words, ok=(0, 1), env={"GIT_LITERAL_PATHSPECS": "1"})
    return done.returncode == 0


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
