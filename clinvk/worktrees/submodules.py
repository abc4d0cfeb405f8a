"""The submodules of a worktree.

Each is checked out as a worktree of the repository that the submodule has in the user's checkout: no
download, no second copy of the objects, and its commits are in that repository from the start.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from clinvk.disk.trees import remove_tree
from clinvk.worktrees.git import Git, GitError, decode
from clinvk.worktrees.record import Submodule

GITLINK = "160000"
Tell = Callable[[str], None]


def checkout_submodules(
    worktree: Path, root: Path | None, repository: Path, env: Mapping[str, str], tell: Tell
) -> tuple[Submodule, ...]:
    """Check out the submodules of a worktree, nested ones too; `root` is the user's checkout of the
    same repository, if it is on this machine. One that the user has not checked out stays empty,
    which is reported."""
    if not (worktree / ".gitmodules").is_file():
        return ()
    return tuple(_checkout(worktree, root, repository, "", env, tell))


def _checkout(
    worktree: Path,
    root: Path | None,
    repository: Path,
    above: str,
    env: Mapping[str, str],
    tell: Tell,
) -> Iterator[Submodule]:
    names = _names_by_path(worktree, env)
    for path, commit in gitlinks(Git.at(worktree, env)):
        whole = f"{above}{path}"
        checkout = root / path if root else None
        found = repository_of_submodule(names.get(path, path), checkout, repository, env)
        if root is None and (found is None or Git.at(found, env).commit_of(commit) is None):
            tell(
                f"the submodule {whole} is missing in the worktree, since its commit {commit[:12]} was "
                "not available where the run was started; to have it in later runs, there: "
                f"git submodule update --init {path}"
            )
            continue
        if found is None:
            tell(
                f"the submodule {whole} is missing in the worktree, as it is in {root}; to have it "
                f"in later ones: git submodule update --init {path}"
            )
            continue
        git = Git.at(found, env)
        if git.commit_of(commit) is None:
            tell(
                f"the submodule {whole} is missing in the worktree, since its commit {commit[:12]} "
                f"has not been fetched; to have it in later ones: git submodule update {path}"
            )
            continue
        target = worktree / path
        add_worktree(git, target, commit)
        fill_worktree(target, env)
        yield Submodule(path=whole, repository=str(found), commit=commit)
        if (target / ".gitmodules").is_file():
            yield from _checkout(target, checkout, found, f"{whole}/", env, tell)


def add_worktree(git: Git, path: Path, commit: str) -> None:
    """Register an empty worktree; `fill_worktree` checks its files out. Raises `GitError`."""
    reason = "clinvk: see clinvk runs list"
    git.run("worktree", "add", "--force", "--lock", "--reason", reason, "--no-checkout", "--detach",
            str(path), commit)  # fmt: skip


def fill_worktree(path: Path, env: Mapping[str, str]) -> None:
    """Check out the files of a worktree. Raises `GitError`."""
    Git.at(path, env).run("reset", "--hard", "--no-recurse-submodules", "--quiet")


def drop_worktree(git: Git, path: Path) -> None:
    """Remove a worktree and what git knows about it; one that is half removed, too. Raises
    `GitError`."""
    done = git.run("worktree", "remove", "--force", "--force", str(path), ok=(0, 128))
    if done.returncode:
        admin = _admin_of(git, path)
        if admin is not None and path.exists():
            # Its `.git` file is gone already: without the directory, git removes the rest.
            remove_tree(path)
            git.run("worktree", "remove", "--force", "--force", str(path))
        elif admin is not None:
            raise GitError(f"git worktree: {done.stderr.decode(errors='replace').strip()}")
    if os.path.lexists(path):
        remove_tree(path)


def _admin_of(git: Git, path: Path) -> str | None:
    """The line of git's list about this worktree, if it is in it."""
    wanted = f"worktree {path}"
    lines = decode(git.run("worktree", "list", "--porcelain").stdout).splitlines()
    return next((line for line in lines if line == wanted), None)


def gitlinks(git: Git, index: Path | None = None) -> list[tuple[str, str]]:
    """The paths of submodules in an index, and their commits."""
    listed = decode(git.run("ls-files", "--stage", "-z", index=index).stdout).split("\0")
    found = (line.split("\t", 1) for line in listed if line.startswith(GITLINK))
    return [(path, facts.split()[1]) for facts, path in found]


def _names_by_path(worktree: Path, env: Mapping[str, str]) -> dict[str, str]:
    """The name of each submodule, which is the name of its directory in .git/modules."""
    words = ("config", "--null", "--file", str(worktree / ".gitmodules"), "--get-regexp",
             r"^submodule\..*\.path$")  # fmt: skip
    listed = decode(Git.at(worktree, env).run(*words, ok=(0, 1)).stdout)
    pairs = (entry.split("\n", 1) for entry in listed.split("\0") if "\n" in entry)
    return {path: key.removeprefix("submodule.").removesuffix(".path") for key, path in pairs}


def repository_of_submodule(
    name: str, checkout: Path | None, above: Path, env: Mapping[str, str]
) -> Path | None:
    """The git directory of a submodule of the user's; None if it is not checked out."""
    place = above / "modules" / name
    if ".." not in Path(name).parts and (place / "HEAD").is_file():
        return place
    if checkout is not None and (checkout / ".git").exists():  # of an old git, or added by hand
        found = Git.at(checkout, env).maybe(
            "rev-parse", "--path-format=absolute", "--git-common-dir"
        )
        return Path(found) if found else None
    return None
