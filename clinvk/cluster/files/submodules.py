"""Submodules travel through the remote of their repository: a worker needs no access to their own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from clinvk.worktrees.git import Git, decode
from clinvk.worktrees.submodules import GITLINK, repository_of_submodule


class Link(NamedTuple):
    """A submodule of a commit."""

    path: str
    name: str  # of its directory in .git/modules
    commit: str


def links_of(git: Git, commit: str) -> list[Link]:
    """The submodules of a commit; not those of submodules. Raises `GitError`."""
    words = ("ls-tree", "-r", "-z", "--full-tree", commit)
    listed = decode(git.run(*words).stdout).split("\0")
    found = []
    names: dict[str, str] | None = None
    for line in listed:
        if line.startswith(GITLINK):
            if names is None:
                names = _names_by_path(git, commit)
            facts, _, path = line.partition("\t")
            found.append(Link(path, names.get(path, path), facts.split()[2]))
    return found


def checked_out(
    git: Git, commit: str, root: Path, repository: Path, env: Mapping[str, str]
) -> Iterator[tuple[Git, str]]:
    """The repositories of the submodules that the user has checked out, nested ones too, and the
    commit that each has in `commit`. Raises `GitError`."""
    for link in links_of(git, commit):
        found = repository_of_submodule(link.name, root / link.path, repository, env)
        if found is None:
            continue
        inner = Git.at(found, env)
        if inner.commit_of(link.commit) is None:
            continue
        yield inner, link.commit
        yield from checked_out(inner, link.commit, root / link.path, found, env)


def _names_by_path(git: Git, commit: str) -> dict[str, str]:
    words = ("config", "--null", "--blob", f"{commit}:.gitmodules", "--get-regexp",
             r"^submodule\..*\.path$")  # fmt: skip
    listed = decode(git.run(*words, ok=(0, 1, 128)).stdout).split("\0")
    pairs = (entry.split("\n", 1) for entry in listed if "\n" in entry)
    return {path: key.removeprefix("submodule.").removesuffix(".path") for key, path in pairs}
