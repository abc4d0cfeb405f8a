"""Results of tasks that ran in worktrees, from Python: look at them, apply them, drop them.

    for task in clinvk.run_diff("last"):
        print(task.name, task.insertions, task.deletions)
    applied = clinvk.apply_run("last", "fix-tests", how="commit")
    clinvk.drop_run("last", "other")

`run` is the id of a run, a unique prefix of one, or "last" for the newest of the repository that
contains `directory`; `tasks` are names or numbers. `directory` also chooses the working tree: the one
of the run's repository that contains it, otherwise the one that the run was started in. It is the
current directory by default. With `cluster`, the address of one, its detached runs are found, too; the
results of one are fetched into that repository first, from the git remote of the cluster.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from clinvk.api.ranking import find_ranking
from clinvk.api.recorded import all_recorded, with_results
from clinvk.api.sync import refuse_event_loop
from clinvk.checks.check import DEFAULT_TIMEOUT, CheckRun
from clinvk.checks.output import CheckOutput
from clinvk.cluster.files.forget import Forgetter
from clinvk.disk.atomic import replace_own
from clinvk.disk.jsonl import encode
from clinvk.dispatch.dispatcher import Dispatcher, own_unless
from clinvk.errors import UsageError
from clinvk.model.checks.check import check_problem, commands_of
from clinvk.model.option_values import value_problem
from clinvk.process.marker import new_marker
from clinvk.process.note import make as make_note
from clinvk.process.threads import in_thread, run_stoppable
from clinvk.runs.folder import RunFolder
from clinvk.runs.secrets import create_scrubber
from clinvk.worktrees.git import is_local_variable, stopping_git
from clinvk.worktrees.results import apply as applying
from clinvk.worktrees.results.applied import Applied, Ask, CheckFailure
from clinvk.worktrees.results.diff import TaskDiff, read_diffs
from clinvk.worktrees.results.drop import Drop
from clinvk.worktrees.results.dropped import Dropped
from clinvk.worktrees.results.taken import How

Tell = Callable[[str], None]


def run_diff(
    run: str = "last",
    *tasks: str,
    patch: bool = True,
    directory: str | os.PathLike[str] | None = None,
    cluster: str | None = None,
    insecure: bool = False,
    dispatcher: Dispatcher | None = None,
) -> tuple[TaskDiff, ...]:
    """What tasks changed in their worktrees; all tasks with a result if none are named. Without
    `patch`, only which files. Raises `UsageError` if the run has no worktrees or no such task,
    `SessionError` if there is no such run, "last" among them in a repository without one, or if the
    repository or a commit is gone."""
    here = _directory(directory)
    with _found(run, here, cluster, dispatcher, insecure=insecure) as (where, folder):
        diffs = read_diffs(folder, tasks, os.environ, here=here, home=where.config.home)
        return tuple(diffs.task(result, patch=patch) for result in diffs.results)


async def arun_diff(
    run: str = "last",
    *tasks: str,
    patch: bool = True,
    directory: str | os.PathLike[str] | None = None,
    cluster: str | None = None,
    insecure: bool = False,
    dispatcher: Dispatcher | None = None,
) -> tuple[TaskDiff, ...]:
    """`run_diff` for code with an event loop."""
    here = _directory(directory)
    return await stopping_git(
        lambda: run_diff(
            run,
            *tasks,
            patch=patch,
            directory=here,
            cluster=cluster,
            insecure=insecure,
            dispatcher=dispatcher,
        )
    )


def apply_run(
    run: str = "last",
    *tasks: str,
    how: How = "stage",
    branch: str | None = None,
    dry_run: bool = False,
    again: bool = False,
    keep: bool = False,
    resolve: str | None = None,
    check: str | Sequence[str] | None = None,
    check_timeout: float = DEFAULT_TIMEOUT,
    directory: str | os.PathLike[str] | None = None,
    cluster: str | None = None,
    insecure: bool = False,
    notify: Tell = lambda _: None,
    dispatcher: Dispatcher | None = None,
) -> Applied:
    """Apply the results of tasks; of all that are done if none are named. `how` is "stage" (files
    and index), "commit" (also commits, with the user's hooks and signature) or, with `branch`,
    "branch": a new one, which leaves the files as they are. With `dry_run`, nothing is changed.
    `notify` gets sentences, for example about an earlier apply that was killed.

    `resolve` is a backend that resolves conflicts, each in a worktree of its own; then the check of
    the task runs again. With `check`, one or several shell commands, each result is applied by itself, and taken back if
    a command fails (or takes longer than `check_timeout` seconds) or if it conflicts; the others
    continue. Without it, all of it is applied, or nothing: this raises `ConflictError` if a result cannot be merged,
    `BlockedError` if uncommitted work is in the way, `CommitError` if git commit fails, all of them
    a `ClinvkError`; and the errors of `run_diff`. What was applied before is skipped, unless
    `again`. The worktrees are removed after that, unless `keep`."""
    refuse_event_loop("clinvk.aapply_run(...)")
    for name, value in (("check", check), ("check_timeout", check_timeout)):
        if problem := value_problem(name, value):
            raise UsageError(f"{name}: {problem}", f"leave it out, or choose another {name}")
    if (branch is not None) != (how == "branch"):
        if how != "stage":
            raise UsageError(
                "how='branch' needs a branch, and only that has one", "pass branch=NAME"
            )
        how = "branch"
    ask = Ask(tasks, how, branch, again, _directory(directory), keep=keep)
    with _found(run, ask.here, cluster, dispatcher, insecure=insecure) as (where, folder):
        return apply_as_asked(
            where, folder, ask, dry_run=dry_run, resolve=resolve, commands=commands_of(check),
            timeout=check_timeout, notify=notify,
        )  # fmt: skip


def apply_as_asked(
    dispatcher: Dispatcher,
    folder: RunFolder,
    ask: Ask,
    *,
    dry_run: bool,
    resolve: str | None,
    commands: tuple[str, ...],
    timeout: float,
    notify: Tell,
) -> Applied:
    """Apply the results of a run, with the check and the resolver that are named."""
    home, env = dispatcher.config.home, dispatcher.env
    if not ask.tasks and (ranking := find_ranking(folder)) and ranking.best:
        notify(ranking.summary)
        ask = ask._replace(tasks=(ranking.best,))
    checks = Checks(folder, commands, timeout) if commands else None
    resolver = None
    if resolve is not None:
        # Only for conflicts.
        from clinvk.api.resolve import Resolver

        resolver = Resolver(folder, resolve, commands, dispatcher=dispatcher, notify=notify)
    do = applying.preview if dry_run else applying.apply
    ask = ask._replace(check=checks, resolve=resolver)
    applied = do(folder, ask, env, home=home, notify=notify)
    if resolver is not None:
        resolver.finish()
    return applied


def apply_best(
    dispatcher: Dispatcher, folder: RunFolder, *, how: How = "stage", notify: Tell
) -> Applied | None:
    """Apply the best candidate of a comparison; None if there is none. Raises as `apply_run`."""
    ranking = find_ranking(folder)
    if ranking is None or ranking.best is None:
        return None
    ask = Ask((ranking.best,), how, here=Path.cwd())
    home, env = dispatcher.config.home, dispatcher.env
    return applying.apply(folder, ask, env, home=home, notify=notify)


async def aapply_run(
    run: str = "last",
    *tasks: str,
    how: How = "stage",
    branch: str | None = None,
    dry_run: bool = False,
    again: bool = False,
    keep: bool = False,
    resolve: str | None = None,
    check: str | Sequence[str] | None = None,
    check_timeout: float = DEFAULT_TIMEOUT,
    directory: str | os.PathLike[str] | None = None,
    cluster: str | None = None,
    insecure: bool = False,
    notify: Tell = lambda _: None,
    dispatcher: Dispatcher | None = None,
) -> Applied:
    """`apply_run` for code with an event loop. If it is cancelled, checks, git commands and the backend
    that resolves a conflict are stopped, and what is not complete is put back; what was applied before
    that stays. A hook of `git commit` is waited for."""
    here = _directory(directory)
    return await stopping_git(
        lambda: apply_run(
            run, *tasks, how=how, branch=branch, dry_run=dry_run, again=again, keep=keep,
            resolve=resolve, check=check, check_timeout=check_timeout, directory=here, cluster=cluster, insecure=insecure, notify=notify, dispatcher=dispatcher,
        )
    )  # fmt: skip


def drop_run(
    run: str = "last",
    *tasks: str,
    notify: Tell = lambda _: None,
    directory: str | os.PathLike[str] | None = None,
    cluster: str | None = None,
    insecure: bool = False,
    dispatcher: Dispatcher | None = None,
) -> tuple[Dropped, ...]:
    """Drop the results of tasks, without a question: their worktrees and refs are removed. Git keeps
    the commits for about two weeks; `Dropped.undo` is the command that brings one back. `notify` gets a
    sentence if they stay in the git remote of a cluster, since that cannot be reached. Raises
    `SessionError` if the run is in progress, and the errors of `run_diff`."""
    here = _directory(directory)
    with _found(run, here, cluster, dispatcher, insecure=insecure) as (where, folder):
        home = where.config.home
        doomed = Drop(folder, tasks, os.environ, here=here, home=home)
        dropped = tuple(doomed.run())
        forgetter = Forgetter(home, os.environ, notify)
        forgetter.forget_tasks(folder.id, [result.worktree for result in doomed.chosen])
        return dropped


async def adrop_run(
    run: str = "last",
    *tasks: str,
    notify: Tell = lambda _: None,
    directory: str | os.PathLike[str] | None = None,
    cluster: str | None = None,
    insecure: bool = False,
    dispatcher: Dispatcher | None = None,
) -> tuple[Dropped, ...]:
    """`drop_run` for code with an event loop. It is not cancelled half way."""
    here = _directory(directory)
    return await in_thread(
        lambda: drop_run(
            run,
            *tasks,
            notify=notify,
            directory=here,
            cluster=cluster,
            insecure=insecure,
            dispatcher=dispatcher,
        )
    )


class Checks:
    """Runs a check in the directory of a result that was applied."""

    def __init__(self, folder: RunFolder, commands: tuple[str, ...], timeout: float) -> None:
        """Raises `UsageError` for an invalid command."""
        if problem := check_problem("check", commands):
            raise UsageError(f"invalid check: {problem}", "use a shell command, e.g. make test")
        self.commands = commands
        self.timeout = timeout
        self._folder = folder.path / "applied"

    def __call__(self, directory: Path, task: str, note: Path) -> CheckFailure | None:
        env = {k: v for k, v in os.environ.items() if not is_local_variable(k)}
        env["CLINVK_TASK"] = task
        marker = new_marker(env)
        run = CheckRun(self.commands, directory, env, marker, self.timeout)
        output = CheckOutput(
            self._folder / f"{os.urandom(4).hex()}.log", create_scrubber([], redacting=True)
        )
        replace_own(note, encode(make_note(marker, "apply")), durable=False)
        try:
            check = run_stoppable(lambda: run.run(output))
        finally:
            note.unlink(missing_ok=True)
        return None if check.ok else CheckFailure(check.message or "check failed", check.output)


@contextmanager
def _found(
    run: str, here: Path, cluster: str | None, dispatcher: Dispatcher | None, *, insecure: bool
) -> Iterator[tuple[Dispatcher, RunFolder]]:
    with (
        own_unless(dispatcher) as where,
        all_recorded(where.config.home, cluster, insecure=insecure) as runs,
        with_results(runs, run, here, where.env) as folder,
    ):
        yield where, folder


def _directory(named: str | os.PathLike[str] | None) -> Path:
    return Path(named) if named is not None else Path.cwd()
