"""The request of a task to its backend."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path

from msgspec.structs import replace

from clinvk.backend.options import BACKEND_SPECIFIC
from clinvk.disk.empty import EMPTY
from clinvk.errors import UsageError
from clinvk.model.checks.check import CheckResult
from clinvk.model.outcome import Outcome
from clinvk.model.plan import PREVIOUS_FIELDS, REFERENCE, Plan, Task, TaskWorktree
from clinvk.model.request import Request
from clinvk.model.result import Failure, Result, exit_code
from clinvk.model.session_ref import NewSession, SessionById
from clinvk.plans.loops.rounds import answered_position
from clinvk.plans.preflight import Preflight
from clinvk.runs.folder import RunFolder
from clinvk.runs.log import RunLog
from clinvk.text import template


class RequestBuilder:
    """Builds the request of a task when its turn comes, when the answers it needs are available.
    `outcomes` holds the state of each task, `answers` returns its answer."""

    def __init__(
        self,
        plan: Plan,
        preflights: Sequence[Preflight],
        outcomes: Sequence[Outcome],
        output_of: Callable[[int], str],
        run_id: str | None,
        folder: RunLog | None = None,
    ) -> None:
        self.plan = plan
        self.preflights = preflights
        self.outcomes = outcomes
        self.output_of = output_of
        self.run_id = run_id
        self.folder = folder  # of the run

    def may_wait(self, i: int) -> bool:
        """Whether building the request of a task waits for git, or for the server that has the answers of
        others."""
        fields = {_field_of(name) for name in self._asked(i).known}
        is_remote = self.folder is not None and not isinstance(self.folder, RunFolder)
        return "diff" in fields or (is_remote and "output" in fields)

    def _asked(self, i: int) -> Task:
        """The task with the prompt; of one that chooses, that is a candidate."""
        task = self.plan.tasks[i]
        return self.plan.tasks[task.candidates[0]] if task.candidates else task

    def build(self, i: int, attempt: int, backend: str) -> Request:
        """The request of task `i`, for its own backend or the one that it was switched to."""
        task, ask, rules = self.plan.tasks[i], self.preflights[i], self.plan.rules
        switched = backend != ask.backend
        options = ask.options
        if switched:
            options = {k: v for k, v in options.items() if k not in BACKEND_SPECIFIC}
        session = None
        if task.continues is not None and not rules.ephemeral:
            session = self.outcomes[self._answered(task.continues)].session_id
        progress = self.outcomes[i].check_progress if attempt > 1 else None
        if progress is not None and progress.result is not None:
            session = progress.result.session_id or session
        new_id = None
        if self.run_id is not None:
            new_id = f"{self.run_id}.{task.key}" + (f".{attempt}" if attempt > 1 else "")
        is_empty = task.cwd == EMPTY
        named = None if is_empty else task.cwd
        cwd = named or (None if session and not is_empty else self.plan.cwd)
        return Request(
            prompt=self._prompt(self._asked(i)),
            session=SessionById(session) if session else NewSession(new_id),
            backend=None if session else backend,
            to=backend if session else None,
            options=options,
            args=() if switched else task.args,
            cwd=Path(cwd) if cwd else None,
            own_directory=is_empty,
            ephemeral=rules.ephemeral,
            timeout=task.timeout,
            stall_timeout=task.stall_timeout or rules.stall_timeout,
            env=ask.env,
            secrets=ask.secrets,
            title=task.title,
            tags=(*task.tags, *([f"run:{self.run_id}"] if self.run_id else [])),
            # The run decides what to do at a rate limit.
            on_limit="fail",
            fallback=(),
            ignore_limit=rules.limits.at_start == "ignore",
            labels=task.labels,
            task=self.run_id,
            lenient=task.lenient or switched,
            stored_options=task.stored_options and not switched,  # they were stored for the other
            worktree=self._worktree(task, attempt),
            check_dir=self.folder.checks_path(i) if self.folder else None,
            check_progress=progress,
            attempt=(i, attempt),
        )

    def _worktree(self, task: Task, attempt: int) -> TaskWorktree | None:
        if task.worktree is None or self.run_id is None:
            return None
        return TaskWorktree(
            run=self.run_id, attempt=attempt, wanted=task.worktree, start=self._start(task)
        )

    def _start(self, task: Task) -> str | None:
        """The commit with the results of the steps before it, for a step that does not share the
        worktree of those: a candidate, or the first one after a choice."""
        if self.plan.kind != "chain" or not self._has_candidates:
            return None
        position = task.previous
        while position is not None:
            if (made := self.outcomes[position].worktree) is not None:
                return made.commit
            position = self.plan.tasks[position].previous
        return None

    @cached_property
    def _has_candidates(self) -> bool:
        return any(task.decides for task in self.plan.tasks)

    def check(self, i: int, request: Request) -> None:
        """Raise `UsageError` if the parts of the prompt leave it empty."""
        task = self.plan.tasks[i]
        if request.prompt.strip() or not task.known:
            return
        named = ", ".join(f"{{{{{name}}}}}" for name in task.known)
        hint = "add more text to the prompt"
        if self.run_id:
            keys = dict.fromkeys(self.plan.tasks[n].key for n in (*task.known.values(), i))
            where = self.folder.where if self.folder else ""
            again = f"clinvk runs retry {self.run_id} {' '.join(keys)}{where}"
            hint += f"; or run all of these again: {again}"
        raise UsageError(f"the prompt is empty, since {named} is empty", hint)

    def check_answer(self, i: int, result: Result) -> Result:
        """The result; a success without an answer is a failure if the prompt of another task
        contains the answer, since silence would pass for one."""
        if not result.ok or result.has_answer or i not in self._needed_outputs:
            return result
        error = Failure(
            "incomplete",
            f"{result.backend} reported success without an answer",
            "other tasks need its answer; run it again",
        )
        return replace(result, ok=False, error=error, exit_code=exit_code(error.kind, None))

    @cached_property
    def _needed_outputs(self) -> frozenset[int]:
        """The positions of tasks whose answers are part of other prompts."""
        return frozenset(
            each
            for task in self.plan.tasks
            for name, position in task.known.items()
            if _field_of(name) == "output"
            for each in self._rounds_until(position)
        )

    def _rounds_until(self, position: int) -> Iterator[int]:
        """The step, and the same one in earlier rounds of its loop, which may turn out to be the
        last."""
        at: int | None = position
        while at is not None:
            yield at
            at = self.plan.tasks[at].repeats

    def _answered(self, position: int) -> int:
        return answered_position(self.plan, self.outcomes, position)

    def _prompt(self, task: Task) -> str:
        if not task.template:
            return task.prompt
        return template.render(task.prompt, lambda name: self._value(task, name))

    def _diff_of(self, i: int) -> str:
        """What a task changed in its worktree."""
        # Only for tasks in worktrees.
        from clinvk.worktrees.results.prompt_text import diff_text

        result = self.outcomes[i].worktree
        wanted = self.plan.worktree_of(i, self.outcomes[i].decision)
        if wanted is None or result is None or self.folder is None:
            return ""
        commits = (result.base, result.commit)
        with self.folder.open_repository(wanted, commits, os.environ) as repository:
            return diff_text(repository, result, os.environ)

    def _value(self, task: Task, name: str) -> str:
        what = _field_of(name)
        position = self._answered(task.known[name])
        outcome = self.outcomes[position]
        match what:
            case "output":
                return self.output_of(position)
            case "session":
                return outcome.session_id or ""
            case "error":
                return outcome.error.message if outcome.error else ""
            case "check":
                return _describe_check(outcome.check)
            case "diff":
                return self._diff_of(position)
        return outcome.backend or ""


def _describe_check(check: CheckResult | None) -> str:
    """Why a check failed, and the end of its output."""
    if check is None or check.ok:
        return ""
    return "\n".join(filter(None, (check.message, check.output.strip())))


def _field_of(name: str) -> str:
    """What a name in a prompt refers to: `output`, `session`, `error`, `backend`, `diff`
    or `check`."""
    found = REFERENCE.fullmatch(name)
    return PREVIOUS_FIELDS[name] if found is None else found.group(2)
