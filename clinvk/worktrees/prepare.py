"""What the worktrees of a run begin with: found out before anything runs, and recorded in its plan."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from msgspec.structs import replace

from clinvk.errors import ConfigError, UsageError
from clinvk.model.plan import Plan, Task, Worktree
from clinvk.worktrees import names
from clinvk.worktrees.git import IDENTITY, Git, check_version, decode
from clinvk.worktrees.index import tree_of

Tell = Callable[[str], None]
SHOWN = 3  # files of a list in a message
LEAVE_OUT = "leave out the worktree"


def prepare_plan(plan: Plan, env: Mapping[str, str], notify: Tell) -> Plan:
    """The plan, in which each worktree names its repository, the commit that it begins with, and its
    slug. Raises `ClinvkError` if a task cannot have a worktree; nothing is changed then."""
    check_version(env)
    if plan.rules.ephemeral:
        raise ConfigError(
            "an ephemeral run has no worktrees, since its results would be lost",
            f"leave out --ephemeral, or the {_reason(plan.tasks)}",
        )
    slugs = names.slugs(task.key for task in plan.tasks)
    finder = _Finder(env, notify)
    tasks: list[Task] = []
    part = 0  # of a chain
    for task, slug in zip(plan.tasks, slugs, strict=True):
        if task.worktree is not None:
            shared = plan.kind == "chain" and task.candidate_of is None
            directory = names.shared_directory(part) if shared else slug
            task = finder.prepare(task, plan.cwd, slug, directory)  # noqa: PLW2901
        tasks.append(task)
        part += task.decides is not None
    if plan.kind == "chain":
        _check_shared([task for task in tasks if task.worktree])
    return replace(plan, tasks=tuple(tasks))


def _reason(tasks: Iterable[Task]) -> str:
    """What these tasks need a worktree for."""
    is_only = all(task.candidate_of is not None for task in tasks if task.worktree)
    return "candidates" if is_only else "worktree"


def keep_starts(plan: Plan, run: str, env: Mapping[str, str]) -> None:
    """Put each commit of uncommitted changes into a ref, so that git does not delete it. Raises
    `ClinvkError`."""
    for task in plan.tasks:
        found = task.worktree
        if found is not None and found.dirty == "include":
            ref = names.ref_of(run, found.slug, 0)
            Git.at(found.repository, env).run("update-ref", ref, found.commit)


class _Finder:
    """Looks at each repository once, though many tasks may be in it."""

    def __init__(self, env: Mapping[str, str], notify: Tell) -> None:
        self.env = env
        self.notify = notify
        self._found: dict[tuple[str, str | None, str], Worktree] = {}
        self._sizes: dict[tuple[str, str], int | None] = {}

    def prepare(self, task: Task, cwd: str | None, slug: str, directory: str) -> Task:
        wanted = task.worktree or Worktree()
        folder = task.cwd or cwd or _here()
        key = (folder, wanted.base, wanted.dirty)
        if key not in self._found:
            try:
                self._found[key] = self._find(folder, wanted)
            except UsageError as error:
                where = f"{task.description}: " if task.place else ""
                hint = error.hint and error.hint.replace(
                    LEAVE_OUT, f"leave out the {_reason([task])}"
                )
                raise type(error)(f"{where}{error.message}", hint) from error
        found = self._found[key]
        made = replace(
            wanted, repository=found.repository, root=found.root, workdir=found.workdir,
            commit=found.commit, size=found.size, slug=slug, directory=directory,
        )  # fmt: skip
        return replace(task, worktree=made)

    def _find(self, folder: str, wanted: Worktree) -> Worktree:
        git = Git.at(folder, self.env)
        root = _root_of(git, folder)
        repository = git.text("rev-parse", "--path-format=absolute", "--git-common-dir")
        commit = _base_of(git, root, wanted.base)
        if wanted.dirty != "tell" or not self._is_told(root):
            commit = self._with_changes(Git.at(root, self.env), root, commit, wanted)
        if not self._is_told(root):
            self._tell_of_lfs(Git.at(root, self.env), root)
        workdir = os.path.relpath(os.path.realpath(folder), root)
        return Worktree(
            repository=os.path.realpath(repository), root=root, commit=commit,
            workdir="" if workdir == "." else workdir, size=self._size(git, repository, commit),
        )  # fmt: skip

    def _is_told(self, root: str) -> bool:
        return any(found.root == root for found in self._found.values())

    def _tell_of_lfs(self, git: Git, root: str) -> None:
        listed = git.run("ls-files", "-z", "--", ":(attr:filter=lfs)").stdout
        count = listed.count(b"\0")
        if not count:
            return
        files = f"{count:,} file{'s' * (count != 1)} in Git LFS"
        filters = ("config", "--get-regexp", r"^filter\.lfs\.(smudge|process)$")
        if git.maybe(*filters):
            self.notify(f"{root} has {files}: each worktree gets a copy of the contents")
        else:
            self.notify(f"{root} has {files}, and git-lfs is not set up: worktrees have pointers")

    def _with_changes(self, git: Git, root: str, commit: str, wanted: Worktree) -> str:
        """The commit that the worktree begins with, depending on what has not been committed."""
        listed = decode(git.run("status", "--porcelain", "-z", "--ignore-submodules=none").stdout)
        changed = [entry[3:] for entry in listed.split("\0") if entry[2:3] == " "]
        if not changed:
            return commit
        count = f"{len(changed)} uncommitted change{'s' * (len(changed) != 1)}"
        shown = ", ".join(changed[:SHOWN]) + (", …" if len(changed) > SHOWN else "")
        what = f"{root} has {count} ({shown})"
        if wanted.dirty == "refuse":
            raise UsageError(
                what,
                "commit or stash them; or use --worktree with --dirty tell or --dirty include (worktree: "
                "{dirty: …} in a task file)",
            )
        if wanted.dirty == "tell":
            self.notify(
                f"{what}, which the worktrees do not have; to include them: --worktree --dirty include,"
                " or worktree: {dirty: include} in a task file"
            )
            return commit
        if commit != git.commit_of("HEAD"):
            raise UsageError(
                "dirty: include is only possible with the base HEAD",
                "commit the changes, or leave out the base",
            )
        index = Path(git.text("rev-parse", "--path-format=absolute", "--git-path", "index"))
        tree = tree_of(git, index)
        words = ("commit-tree", tree, "-p", commit, "-m", "Uncommitted changes at the start")
        return git.text(*words, env=IDENTITY)

    def _size(self, git: Git, repository: str, commit: str) -> int | None:
        """Bytes of the files of a commit; None if counting them could download objects."""
        key = (repository, commit)
        if key not in self._sizes:
            partial = git.maybe(
                "config", "--get-regexp", r"^(extensions\.partialclone|remote\..*\.promisor)$"
            )
            self._sizes[key] = None if partial else _sum_sizes(git, commit)
        return self._sizes[key]


def _sum_sizes(git: Git, commit: str) -> int:
    listed = git.run("ls-tree", "-r", "-l", "-z", "--full-tree", commit).stdout
    sizes = (entry.split(b"\t", 1)[0].split()[-1] for entry in listed.split(b"\0") if entry)
    return sum(int(size) for size in sizes if size.isdigit())


def _root_of(git: Git, folder: str) -> str:
    """The root of the working tree. Raises `UsageError` if there is none."""
    hint = f"run it in a git repository, or {LEAVE_OUT}"
    said = git.run("rev-parse", "--is-bare-repository", "--is-inside-work-tree", ok=(0, 128))
    if said.returncode:
        why = said.stderr.decode("utf-8", "replace")
        if "not a git repository" in why:
            raise UsageError(f"{folder} is not in a git repository, so it has no worktrees", hint)
        git.run("rev-parse", "--git-dir")  # it says why
    is_bare, is_inside = said.stdout.split()
    if is_inside == b"true":
        return os.path.realpath(git.text("rev-parse", "--show-toplevel"))
    if is_bare == b"true":
        raise UsageError(f"{folder} is a bare repository, which has no files", "run it in a clone")
    raise UsageError(f"{folder} is inside a git directory, not in a working tree", hint)


def _base_of(git: Git, root: str, base: str | None) -> str:
    found = git.commit_of(base or "HEAD")
    if found is not None:
        return found
    if git.commit_of("HEAD") is None and base in (None, "HEAD"):
        raise UsageError(
            f"the repository {root} has no commits yet, so a worktree has nothing to begin with",
            "make the first one: git commit --allow-empty -m start",
        )
    raise UsageError(
        f"the base {base!r} is not a commit of {root}",
        "name a branch, a tag or a commit; fetch it first if it is on a server",
    )


def _check_shared(tasks: list[Task]) -> None:
    """Raise `ConfigError` unless the steps of a chain agree on their worktree."""
    first = tasks[0].worktree if tasks else None
    for task in tasks[1:]:
        own = task.worktree
        if first is None or own is None:
            continue
        same = replace(
            own, slug=first.slug, workdir=first.workdir, setup=first.setup, copy=first.copy,
            directory=first.directory,
        )  # fmt: skip
        if same != first:
            raise ConfigError(
                f"{task.description or task.name}: all steps of a chain share one worktree, so they "
                "need the same repository and the same base",
                "set the worktree once, in `defaults`",
            )


def _here() -> str:
    try:
        return os.getcwd()
    except FileNotFoundError:
        raise UsageError(
            "the current directory no longer exists", "cd to another one, or pass it with -w"
        ) from None
