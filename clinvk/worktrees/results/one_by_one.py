"""Apply results one by one, with a check in between: one that fails it is taken back, and the others
continue."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from clinvk.errors import ClinvkError
from clinvk.worktrees.git import Git
from clinvk.worktrees.results.applied import Ask, CheckFailure, State, TaskApplied, task_applied
from clinvk.worktrees.results.commits import CommitError
from clinvk.worktrees.results.execute import (
    Made,
    change_files,
    check_preview,
    create_branch,
    resolver,
    scratch_folder,
)
from clinvk.worktrees.results.landing.landing import Landing
from clinvk.worktrees.results.merge import (
    ConflictError,
    Merged,
    UnresolvedError,
    commits_of,
    merge_all,
    tree_of,
)
from clinvk.worktrees.results.reading import Results, TaskResult
from clinvk.worktrees.results.target import BlockedError
from clinvk.worktrees.submodules import add_worktree, drop_worktree, fill_worktree

STATES: dict[type[ClinvkError], State] = {
    ConflictError: "conflict", UnresolvedError: "conflict", BlockedError: "blocked",
    CommitError: "commit failed",
}  # fmt: skip
Put = Callable[[Merged, Callable[[Path], None]], str]  # the tree that is there afterwards


class CheckFailed(Exception):  # noqa: N818 - it is a result, not an error of the program
    def __init__(self, failure: CheckFailure) -> None:
        super().__init__(failure.message)
        self.failure = failure


class OneByOne:
    """Results of a run, each applied by itself."""

    def __init__(
        self, landing: Landing, results: Results, ask: Ask, env: Mapping[str, str]
    ) -> None:
        self.landing = landing
        self.results = results
        self.ask = ask
        self.env = env
        self._tree = tree_of(landing.target.git, str(landing.target.head))
        self._contained = list(results.history.applied_results())
        self._refused: list[TaskResult] = []
        self._merged: list[Merged] = []  # that passed; they will be on the new branch
        self._made: Made = {}

    @property
    def landed(self) -> list[str]:
        """The names of the tasks whose results are in the user's files already."""
        return [] if self.ask.how == "branch" else [m.source.name for m in self._merged]

    def apply(self, chosen: Sequence[TaskResult]) -> list[TaskApplied]:
        """Apply those that merge and pass the check; what became of each. Raises `ClinvkError` for
        what is wrong with all of them."""
        if self.ask.how != "branch":
            return [self._apply(result, self._put_into_files) for result in chosen]
        with self._fresh_checkout() as put:
            found = [self._apply(result, put) for result in chosen]
        if self._merged:
            self._made = create_branch(self.landing, self.results.folder, self.ask, self._merged)
        return [self._with_commits(task) for task in found]

    def preview(self, chosen: Sequence[TaskResult]) -> list[TaskApplied]:
        """What `apply` would do if all checks pass; nothing is changed. Raises `BlockedError`."""
        self.ask = self.ask._replace(resolve=None)

        def put(merged: Merged, _: Callable[[Path], None]) -> str:
            with scratch_folder() as scratch:
                check_preview(self.landing.target, self.ask, [merged], scratch)
            return merged.tree

        return [self._apply(result, put) for result in chosen]

    def _apply(self, result: TaskResult, put: Put) -> TaskApplied:
        git = self.landing.target.git
        if found := self._built_on_refused(git, result):
            why = f"it is built on task {found.name!r}, which was not applied"
            return self._refuse(result, "skipped", why)
        try:
            (merged,) = merge_all(
                git, self._tree, [result.source], taken=self._contained,
                before=self._merged, resolve=resolver(self.landing.target, self.ask, self._tree),
            )  # fmt: skip
            self._tree = put(merged, lambda directory: self._check(directory, result))
        except CheckFailed as failed:
            return self._refuse(result, "check failed", *failed.failure)
        except (ConflictError, UnresolvedError, BlockedError, CommitError) as error:
            return self._refuse(result, STATES[type(error)], error.message)
        self._contained.append(result.source.commit)
        self._merged.append(merged)
        return task_applied(git, merged, self._made.get(result.index, ()))

    def _refuse(
        self, result: TaskResult, state: State, why: str, output: str | None = None
    ) -> TaskApplied:
        self._refused.append(result)
        return TaskApplied(
            index=result.index, name=result.name, state=state, why=why, output=output
        )

    def _built_on_refused(self, git: Git, result: TaskResult) -> TaskResult | None:
        if not self._refused:
            return None
        # A step of a chain begins with the result of the one before.
        own = {*commits_of(git, result.source), result.source.base}
        return next((r for r in self._refused if r.is_changed and r.source.commit in own), None)

    def _check(self, directory: Path, result: TaskResult) -> None:
        workdir = directory / result.worktree.workdir
        assert self.ask.check is not None  # noqa: S101 - that is why they are applied one by one
        failure = self.ask.check(
            workdir if workdir.is_dir() else directory, result.name, self.landing.check_note
        )
        if failure is not None:
            raise CheckFailed(failure)

    def _put_into_files(self, merged: Merged, check: Callable[[Path], None]) -> str:
        landing = self.landing
        root = landing.target.root
        assert root is not None  # noqa: S101 - the target is ready
        made = change_files(
            landing, self.results.folder, self.ask, [merged], self.env, lambda: check(root)
        )
        self._made.update(made)
        if not made:
            return merged.tree
        landing.target = landing.target.again()  # the branch has moved, and hooks may change files
        return tree_of(landing.target.git, str(landing.target.head))

    @contextmanager
    def _fresh_checkout(self) -> Iterator[Put]:
        """A checkout of the branch that will be created, in which checks run."""
        target, path = self.landing.target, self.landing.checkout
        drop_worktree(target.git, path)
        try:
            add_worktree(target.git, path, str(target.head))
            fill_worktree(path, self.env)
            checkout = Git.at(path, self.env)

            def put(merged: Merged, check: Callable[[Path], None]) -> str:
                checkout.run("read-tree", "--reset", "-u", merged.tree)
                try:
                    check(path)
                except CheckFailed:
                    checkout.run("read-tree", "--reset", "-u", merged.before)
                    raise
                return merged.tree

            yield put
        finally:
            drop_worktree(target.git, path)

    def _with_commits(self, task: TaskApplied) -> TaskApplied:
        if task.state != "applied":
            return task
        merged = next(m for m in self._merged if m.source.index == task.index)
        return task_applied(self.landing.target.git, merged, self._made.get(task.index, ()))
