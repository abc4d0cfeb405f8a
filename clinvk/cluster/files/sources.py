"""Where the files of each task come from, decided before anything runs."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal, NamedTuple

from msgspec import Struct
from msgspec.structs import replace

from clinvk.cluster.files.remote import remote_url
from clinvk.disk.empty import EMPTY
from clinvk.errors import ClinvkError, ConfigError
from clinvk.model.plan import Plan, Task, Worktree
from clinvk.worktrees.git import Git

Tell = Callable[[str], None]
SHOWN = 5  # rejected tasks of a message
ADVICE = (
    "set cluster.git to a git remote that all machines reach; or, if all have the directory under the "
    "same path, cluster.shared in the configuration of each; a task that needs no files says so with "
    "workdir: none (-w none)"
)


class Settings(Struct, frozen=True):
    """What the configuration says about files."""

    git: str | None = None  # a URL, or the name of a remote
    shared: tuple[str, ...] = ()  # directories that are the same on all machines


class Source(NamedTuple):
    """`git`: from the remote; `shared`: the directory is the same on the worker."""

    kind: Literal["git", "shared"]
    remote: str = ""  # a URL


class RejectedError(ConfigError):
    """A task that no worker could get the files of."""


def place_tasks(plan: Plan, settings: Settings, env: Mapping[str, str], tell: Tell) -> Plan:
    """The plan in which each task that gets its files by git has a worktree with the remote. Raises
    `RejectedError` if a task gets its files in no way."""
    finder = _Finder(settings, env)
    tasks, rejected = [], []
    for task in plan.tasks:
        if _has_remote(task) or task.cwd == EMPTY:  # of a run that is resumed; or it needs none
            tasks.append(task)
            continue
        try:
            tasks.append(_placed(task, finder.source_of(task, plan.cwd)))
        except ClinvkError as error:
            rejected.append((task, error))
    if rejected:
        raise _rejection(rejected)
    if ignored := {p for task in tasks if _has_remote(task) for p in _copied(task)}:
        tell(
            f"copy: {', '.join(sorted(ignored))} is not copied to workers, since git ignores it; put "
            "such files on them, or use cluster.shared"
        )
    return replace(plan, tasks=tuple(tasks))


def _has_remote(task: Task) -> bool:
    return task.worktree is not None and bool(task.worktree.remote)


def _copied(task: Task) -> tuple[str, ...]:
    return task.worktree.copy if task.worktree else ()


def _placed(task: Task, source: Source) -> Task:
    if source.kind == "shared":
        return task
    return replace(task, worktree=replace(task.worktree or Worktree(), remote=source.remote))


def _rejection(rejected: list[tuple[Task, ClinvkError]]) -> RejectedError:
    shown = [
        f"{task.description or f'task {task.name!r}'}: {error.message}"
        for task, error in rejected[:SHOWN]
    ]
    if len(rejected) > SHOWN:
        shown.append(f"and {len(rejected) - SHOWN} more")
    return RejectedError("\n".join(shown), rejected[0][1].hint)


class _Finder:
    """Looks at each directory once."""

    def __init__(self, settings: Settings, env: Mapping[str, str]) -> None:
        self.git = settings.git
        self.shared = [Path(os.path.realpath(os.path.expanduser(p))) for p in settings.shared]
        self.env = env
        self._found: dict[tuple[str, bool], Source | ClinvkError] = {}

    def source_of(self, task: Task, cwd: str | None) -> Source:
        folder = os.path.realpath(task.cwd or cwd or os.getcwd())
        key = folder, task.worktree is not None
        if key not in self._found:
            try:
                self._found[key] = self._find(folder, wants_worktree=task.worktree is not None)
            except ClinvkError as error:
                self._found[key] = error
        found = self._found[key]
        if isinstance(found, ClinvkError):
            raise found
        return found

    def _find(self, folder: str, *, wants_worktree: bool) -> Source:
        git = Git.at(folder, self.env)
        root = git.maybe("rev-parse", "--show-toplevel")
        is_shared = self._is_shared(folder)
        if is_shared and not (wants_worktree and self.git):
            if wants_worktree and root is not None:
                self._check_shared_repository(git, root)
            return Source("shared")
        if root is None and is_shared:
            return Source("shared")
        missing = f"the workers of the cluster do not have {folder}"
        if root is None:
            raise ConfigError(
                f"{missing}: it is not in a git repository, nor below {self._known()}", ADVICE
            )
        if self.git is None:
            raise ConfigError(
                f"{missing}: it is in a git repository, and cluster.git is not set", ADVICE
            )
        return Source("git", remote_url(self.git, git, root))

    def _check_shared_repository(self, git: Git, root: str) -> None:
        common = git.text("rev-parse", "--path-format=absolute", "--git-common-dir")
        for path in (root, common):
            if not self._is_shared(path):
                raise ConfigError(
                    f"its directory is shared, but {path} of its repository is not",
                    "set cluster.git, add it to cluster.shared, or leave out the worktree",
                )

    def _is_shared(self, folder: str) -> bool:
        real = Path(os.path.realpath(folder))
        return any(real.is_relative_to(shared) for shared in self.shared)

    def _known(self) -> str:
        known = f" ({', '.join(map(str, self.shared))})" if self.shared else ", which is not set"
        return f"a directory of cluster.shared{known}"
