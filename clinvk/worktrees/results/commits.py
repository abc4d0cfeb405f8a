"""Results as commits on the user's branch, or on a new one."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from clinvk.errors import ClinvkError, UsageError
from clinvk.text.headline import headline
from clinvk.worktrees.git import IDENTITY, Git, GitError, decode, is_local_variable
from clinvk.worktrees.results.landing.landing import Landing, moved_error
from clinvk.worktrees.results.merge import Merged, Source, merge_trees, tree_of

MAX_PROMPT = 4_000  # characters of a prompt in a message
MAX_SUBJECT = 72
OUTPUT_SHOWN = 16 * 1024  # bytes of what a hook printed, the last ones


class Author(NamedTuple):
    name: str
    email: str
    date: str  # as git reads it


class Planned(NamedTuple):
    """A commit that will be made."""

    source: Source
    tree: str
    message: str
    author: Author | None  # None: the user


class CommitError(ClinvkError):
    """`git commit` has failed: a hook, a signature, or no name of the user. `output` is what it
    printed."""

    kind = "commit"

    def __init__(self, source: Source, code: int, output: str) -> None:
        self.source = source
        self.output = output
        said = f":\n{output}" if output else ""
        super().__init__(
            f"git commit failed with code {code} for task {source.name!r}; nothing was changed{said}",
            "fix what it says, or leave out --commit to stage the changes without a commit",
        )


def plan_commits(git: Git, merged: Sequence[Merged], run: str) -> list[Planned]:
    """The commits with these results: the agent's own ones if they can be moved one by one,
    otherwise one for each task. Results that change nothing have none."""
    return [
        commit for m in merged if not m.is_empty for commit in _own_commits(git, m, run) or
        [Planned(m.source, m.tree, message_of(m.source, run), None)]
    ]  # fmt: skip


def _own_commits(git: Git, merged: Merged, run: str) -> list[Planned]:
    """The agent's commits, moved; empty if they are not in one line, or do not end at the result."""
    source = merged.source
    words = (
        "rev-list",
        "--reverse",
        "--topo-order",
        "--parents",
        f"{merged.base}..{source.commit}",
    )
    tree, previous, planned = merged.before, merged.base, []
    for line in git.text(*words).splitlines():
        commit, *parents = line.split(" ")
        if parents != [previous]:
            return []
        trees = (tree_of(git, previous), tree, tree_of(git, commit))
        found = merge_trees(git, *trees)
        if found.conflicts:
            return []
        after = found.tree
        if after != tree:
            planned.append(_copy_of(git, source, commit, after, run))
        tree, previous = after, commit
    if source.rounds and all(commit.author is None for commit in planned):
        return []  # the rounds of a loop are one result
    return planned if tree == merged.tree else []


def _copy_of(git: Git, source: Source, commit: str, tree: str, run: str) -> Planned:
    words = ("show", "-s", "--encoding=UTF-8", "--date=raw", "--format=%an%x00%ae%x00%ad%x00%B")
    name, email, date, message = decode(git.run(*words, commit).stdout).split("\0", 3)
    if email == IDENTITY["GIT_AUTHOR_EMAIL"]:  # clinvk's own, of what the agent left uncommitted
        return Planned(source, tree, message_of(source, run), None)
    return Planned(source, tree, message.rstrip("\n") + "\n", Author(name, email, f"@{date}"))


def message_of(source: Source, run: str) -> str:
    """The message of a task's commit."""
    title = headline(source.prompt) or f"Result of task {source.name}"
    subject = title if source.name.isdigit() else f"{source.name}: {title}"
    if len(subject) > MAX_SUBJECT:
        subject = subject[: MAX_SUBJECT - 1].rstrip() + "…"
    prompt = source.prompt.strip()
    if len(prompt) > MAX_PROMPT:
        prompt = prompt[:MAX_PROMPT].rstrip() + " …"
    body = f"{prompt}\n\n" if prompt and prompt != subject else ""
    return f"{subject}\n\n{body}clinvk run {run}, task {source.name}\n"


def commit_quietly(git: Git, parent: str, planned: Sequence[Planned]) -> list[str]:
    """Make the commits without a branch, without hooks and unsigned. Returns their ids."""
    made: list[str] = []
    for commit in planned:
        words = ("commit-tree", commit.tree, "-p", made[-1] if made else parent)
        env = _identity(git) | _author_variables(commit.author)
        data = commit.message.encode("utf-8", "surrogateescape")
        made.append(git.run(*words, data=data, env=env).stdout.decode().strip())
    return made


def _identity(git: Git) -> dict[str, str]:
    """Of the user; of clinvk if git does not know them."""
    return {} if git.maybe("var", "GIT_COMMITTER_IDENT") else dict(IDENTITY)


def check_identity(git: Git, env: Mapping[str, str]) -> None:
    """Raise `UsageError` if git does not know in whose name to commit."""
    try:
        Git(git.where, env).run("var", "GIT_COMMITTER_IDENT")
    except GitError as error:
        raise UsageError(
            f"git does not know in whose name to commit; nothing was changed:\n{error.output}",
            "do what it says, or leave out --commit to stage the changes without a commit",
        ) from None


def _author_variables(author: Author | None) -> dict[str, str]:
    if author is None:
        return {}
    names = ("GIT_AUTHOR_NAME", "GIT_AUTHOR_EMAIL", "GIT_AUTHOR_DATE")
    return dict(zip(names, author, strict=True))


class UserCommits:
    """Commits on the branch of the user, made by `git commit`: with hooks and signatures."""

    def __init__(self, landing: Landing, env: Mapping[str, str]) -> None:
        self.landing = landing
        self.git = landing.target.git
        self.env = {k: v for k, v in env.items() if not is_local_variable(k)}
        self.index = landing.area / "commit-index"

    def make(self, planned: Sequence[Planned]) -> list[str]:
        """Make the commits. Returns their ids. Raises `CommitError`; `UsageError` if the branch
        has moved meanwhile."""
        made: list[str] = []
        parent = str(self.landing.target.head)
        for commit in planned:
            made.append(self._make(commit, parent))
            parent = made[-1]
        return made

    def _make(self, planned: Planned, parent: str) -> str:
        landing = self.landing
        files = landing.target.files()
        files.run("read-tree", planned.tree, index=self.index)
        files.run("update-index", "-q", "--refresh", index=self.index, ok=(0, 1))
        if self.git.commit_of("HEAD") != parent:
            raise moved_error(landing.target)
        date = str(int(time.time()))
        landing.commits.announce(parent, date)
        code, output = self._run_commit(planned, date)
        if code:
            raise CommitError(planned.source, code, output)
        head = self.git.commit_of("HEAD")
        if head is None or not landing.commits.is_announced(landing.target.git, head, (parent,)):
            raise moved_error(landing.target)
        landing.commits.note(head)
        return head

    def _run_commit(self, planned: Planned, date: str) -> tuple[int, str]:
        area, root = self.landing.area, str(self.landing.target.root)
        message, output = area / "message", area / "output"
        message.write_bytes(planned.message.encode("utf-8", "surrogateescape"))
        argv = [
            "git", "-c", "gc.auto=0", "-c", "maintenance.auto=false", "-c", "core.fsmonitor=false",
            "commit", "--quiet", "--cleanup=verbatim", "--allow-empty-message", "-F", str(message),
        ]  # fmt: skip
        env = self.env | {
            "GIT_INDEX_FILE": str(self.index),
            "GIT_COMMITTER_DATE": f"@{date} {_zone()}",
        }
        env |= _author_variables(planned.author)
        # Its output goes to a file: what a hook leaves running in the background may hold a pipe open.
        with self.landing.child_locked() as lock, output.open("wb") as out:
            done = subprocess.run(
                argv, cwd=root, env=env, stdin=subprocess.DEVNULL, stdout=out,
                stderr=subprocess.STDOUT, pass_fds=(lock,), check=False,
            )  # fmt: skip
        return done.returncode, _end_of(output)


def _zone() -> str:
    return time.strftime("%z")


def _end_of(path: Path) -> str:
    with path.open("rb") as file:
        file.seek(0, os.SEEK_END)
        file.seek(max(0, file.tell() - OUTPUT_SHOWN))
        return file.read().decode("utf-8", "replace").strip()


def check_branch_name(git: Git, name: str) -> str:
    """The full name of a new branch. Raises `UsageError` if it is invalid."""
    try:
        return "refs/heads/" + git.text("check-ref-format", "--branch", name)
    except GitError:
        raise UsageError(
            f"--branch: {name!r} is not a valid name of a branch",
            "use letters, digits, - and /, e.g. clinvk/fix-tests",
        ) from None
