"""Let a backend resolve the conflict of a result, in a worktree of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from clinvk.api.prompt import arun
from clinvk.dispatch.dispatcher import Dispatcher
from clinvk.model.fence import fence, random_word
from clinvk.model.result import Result
from clinvk.process.threads import run_stoppable
from clinvk.runs.folder import RunFolder, RunStore
from clinvk.worktrees import names
from clinvk.worktrees.results import taken
from clinvk.worktrees.results.merge import (
    ConflictError,
    UnresolvedError,
    conflict_commit,
    tree_of,
    unresolved,
)
from clinvk.worktrees.results.removal import remove_applied
from clinvk.worktrees.results.target import Target

PROMPT = """\
Two changes of this repository were merged, and conflict in these files:

{paths}

{messages}

Between <<<<<<< and ======= is what the branch has now, between ======= and >>>>>>> what is to be \
merged into it. That was made for this task:

{prompt}

Resolve the conflicts: keep what both changes intend, and leave no marker. Change nothing else, and \
do not commit."""
CHECK_KEYS = ("check", "check_timeout", "rounds", "protect")


class Resolver:
    """Resolves conflicts with this backend. The check of the task runs after it, and `checks`."""

    def __init__(
        self,
        folder: RunFolder,
        backend: str,
        checks: Sequence[str] = (),
        *,
        dispatcher: Dispatcher,
        notify: Callable[[str], None],
    ) -> None:
        dispatcher.selector.select(backend)  # an unknown one is reported before anything runs
        self.folder = folder
        self.backend = backend
        self.checks = checks
        self.dispatcher = dispatcher
        self.notify = notify
        self._runs: list[tuple[str, str]] = []  # and the commit of each

    def __call__(self, target: Target, conflict: ConflictError) -> str:
        """The tree without the conflict. Raises `UnresolvedError` if it was not resolved."""
        start = conflict_commit(target.git, str(target.head), conflict)
        self.notify(f"{conflict.message}; resolving it with {self.backend}")
        result = run_stoppable(partial(self._run, target, conflict, start))
        made = result.worktree
        run = made.ref.removeprefix(names.REFS).partition("/")[0] if made else ""
        hint = f"nothing was changed; see what it did with: clinvk runs diff {run}".rstrip()
        if made is not None:
            taken.record_purpose(RunStore(self.folder.home).find(run), self.folder.id)
        if not result.ok or made is None:
            why = result.error.message if result.error else "it has no result"
            raise UnresolvedError(
                f"{self.backend} did not resolve the conflict of task {conflict.source.name!r}: {why}",
                hint,
            )
        if left := unresolved(target.git, conflict, made.commit):
            raise UnresolvedError(f"{self.backend} {left}", hint)
        self._runs.append((run, made.commit))
        return tree_of(target.git, made.commit)

    def finish(self) -> None:
        """Remove the worktrees in which conflicts were resolved, once the results are applied."""
        home = self.folder.home
        for run, commit in self._runs:
            folder = RunStore(home).find(run)
            event = {"task": 0, "event": "applied", "result": commit, "how": "stage"}
            taken.record(taken.about(folder, [event]))
            remove_applied(folder, None, [0], home, self.dispatcher.env, self.notify)

    async def _run(self, target: Target, conflict: ConflictError, start: str) -> Result:
        plan = self.folder.plan()
        task = plan.tasks[conflict.source.index]
        checked = plan.tasks[task.candidates[0]] if task.candidates else task
        options = {k: v for k, v in checked.options.items() if k in CHECK_KEYS}
        if self.checks:
            own = options.get("check") or ()
            options["check"] = [*([own] if isinstance(own, str) else own), *self.checks]
        prompt = PROMPT.format(
            paths="\n".join(f"- {path}" for path in conflict.paths),
            messages="\n".join(conflict.messages),
            prompt=fence("task", task.prompt, random_word()),
        )
        return await arun(
            prompt, backend=self.backend, cwd=_directory(target), worktree={"base": start},
            title=f"Resolve the conflict of task {task.name}", dispatcher=self.dispatcher,
            **{"approval": "auto", **options},
        )  # fmt: skip


def _directory(target: Target) -> Path:
    return target.root or target.git_dir
