"""Runs whose tasks have results in a repository, made without running anything."""

import os
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from clinvk.model.outcome import Outcome, outcome_summary
from clinvk.model.plan import Plan, Task, Worktree, with_keys
from clinvk.model.result import WorktreeResult
from clinvk.runs.folder import RunFolder, RunStore
from clinvk.runs.journal import Journal
from clinvk.worktrees import names
from clinvk.worktrees.git import IDENTITY, is_local_variable
from clinvk.worktrees.results import apply as applying
from clinvk.worktrees.results.applied import Applied, Ask

Edit = Callable[[Path], Any]
LINES = "".join(f"line {n}\n" for n in range(1, 21))
FILES = {"a.txt": LINES, "b.txt": "b\n", "dir/c.txt": "c\n"}


class Repository:
    """A repository of a user, and worktrees of agents."""

    def __init__(self, root: Path, files: Mapping[str, str | bytes]) -> None:
        self.root = root
        root.mkdir(parents=True, exist_ok=True)
        self.git("init", "--quiet", "--initial-branch=main")
        self.git("config", "user.name", "Ada")
        self.git("config", "user.email", "ada@example.org")
        write_all(root, files)
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", "start")
        self.base = self.head

    def git(
        self, *words: str, cwd: Path | None = None, env: Mapping[str, str] | None = None
    ) -> str:
        clean = {k: v for k, v in os.environ.items() if not is_local_variable(k)}
        clean |= {"GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1"}
        done = subprocess.run(
            ["git", *words], cwd=cwd or self.root, capture_output=True, check=False,
            env=clean | dict(env or {}),
        )  # fmt: skip
        assert done.returncode == 0, (words, done.stdout, done.stderr)
        return os.fsdecode(done.stdout).strip("\n")

    @property
    def head(self) -> str:
        return self.git("rev-parse", "HEAD")

    def commit(self, files: Mapping[str, str | bytes], message: str = "more") -> str:
        write_all(self.root, files)
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", message)
        return self.head

    def result(self, *edits: Edit | str, base: str | None = None) -> str:
        """The commit of an agent that edited files in its worktree. A text makes a commit of its
        own of what was edited so far."""
        tree = self.root.with_name(f"agent-{os.urandom(3).hex()}")
        self.git("worktree", "add", "--quiet", "--detach", str(tree), base or self.base)
        for edit in edits:
            if isinstance(edit, str):
                self.git("add", "--all", cwd=tree)
                self.git("commit", "--quiet", "--message", edit, cwd=tree, env=AGENT)
            else:
                edit(tree)
        self.git("add", "--all", cwd=tree)
        if self.git("status", "--porcelain", cwd=tree):
            self.git(
                "commit", "--quiet", "--message", "result", "--no-verify", cwd=tree, env=IDENTITY
            )
        commit = self.git("rev-parse", "HEAD", cwd=tree)
        self.git("update-ref", f"refs/kept/{commit}", commit)
        self.git("worktree", "remove", "--force", str(tree))
        return commit

    def status(self) -> str:
        return self.git("status", "--porcelain=v1", "--untracked-files=all", "--ignored")

    def state(self) -> dict[str, Any]:
        """All that a user may see of it: files, index, branches."""
        found: dict[str, Any] = {}
        for path in sorted(self.root.rglob("*")):
            name = str(path.relative_to(self.root))
            if name == ".git" or name.startswith(".git/"):
                continue
            if path.is_symlink():
                found[name] = ("link", os.readlink(path))
            elif path.is_dir():
                found[name] = "directory"
            else:
                found[name] = (path.stat().st_mode & 0o777, path.read_bytes())
        index = self.git("ls-files", "--stage", "-t")
        refs = self.git("for-each-ref", "refs/heads", "refs/tags")
        locks = [p.name for p in (self.root / ".git").glob("*.lock")]
        return {"files": found, "index": index, "refs": refs, "head": self.head, "locks": locks}


AGENT = {"GIT_AUTHOR_NAME": "Agent", "GIT_AUTHOR_EMAIL": "agent@example.org",
         "GIT_COMMITTER_NAME": "Agent", "GIT_COMMITTER_EMAIL": "agent@example.org",
         "GIT_AUTHOR_DATE": "2026-01-02T03:04:05+0100"}  # fmt: skip


def write_all(root: Path, files: Mapping[str, str | bytes]) -> None:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())


def write(name: str, content: str | bytes) -> Edit:
    return lambda root: write_all(root, {name: content})


def make_run(
    home: Path,
    repository: Repository,
    results: Mapping[str, str],
    *,
    states: Mapping[str, str] | None = None,
    kind: Any = "parallel",
    keep: bool = False,
) -> RunFolder:
    """A run with these results, by the names of its tasks."""
    tasks = [
        Task(
            name=name, prompt=f"Please do {name}.",
            worktree=Worktree(
                repository=str(repository.root / ".git"), root=str(repository.root),
                commit=repository.base, slug=name, directory=name, keep=keep,
            ),
        )
        for name in results
    ]  # fmt: skip
    plan = with_keys(Plan(kind=kind, tasks=tuple(tasks), cwd=str(repository.root)))
    folder = RunStore(home).create(plan)
    with Journal(folder, lambda data: data) as journal:
        journal.record_begin(plan, rerun=[])
        for index, (name, commit) in enumerate(results.items()):
            ref = names.ref_of(folder.id, name, 1)
            repository.git("update-ref", ref, commit)
            outcome = Outcome(
                index=index, name=name, state=(states or {}).get(name, "done"), attempts=1,
                worktree=WorktreeResult(
                    path=str(home / "worktrees" / folder.id / name), ref=ref, commit=commit,
                    base=repository.base, files=1,
                ),
            )  # fmt: skip
            journal.append("ended", task=index, **outcome_summary(outcome))
        journal.record_end(folder.result(plan, is_driver=True))
    return folder


def line(number: int, text: str) -> Callable[[Path], Any]:
    """Replace a line of a.txt."""

    def edit(root: Path) -> None:
        lines = (root / "a.txt").read_text().splitlines(keepends=True)
        lines[number - 1] = f"{text}\n"
        (root / "a.txt").write_text("".join(lines))

    return edit


def remove(name: str) -> Callable[[Path], Any]:
    return lambda root: (root / name).unlink()


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository(tmp_path / "repo", FILES)


class Applying:
    """Applies results as the command does."""

    def __init__(self, home: Path, repository: Repository) -> None:
        self.home = home
        self.repository = repository
        self.told: list[str] = []

    def run(self, results: dict[str, str], **more: Any) -> RunFolder:
        return make_run(self.home, self.repository, results, **more)

    def __call__(self, folder: RunFolder, *tasks: str, **ask: Any) -> Applied:
        return self._do(applying.apply, folder, tasks, ask)

    def preview(self, folder: RunFolder, *tasks: str, **ask: Any) -> Applied:
        return self._do(applying.preview, folder, tasks, ask)

    def _do(self, do: Any, folder: RunFolder, tasks: Any, ask: Any) -> Applied:
        wanted = Ask(**{"here": self.repository.root, "tasks": tasks, **ask})
        env = os.environ | {"GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1"}
        return do(folder, wanted, env, home=self.home, notify=self.told.append)


@pytest.fixture
def apply(tmp_path: Path, repository: Repository) -> Applying:
    return Applying(tmp_path / "clinvk", repository)
