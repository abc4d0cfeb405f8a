"""Chains with a name, which can be resumed where they stopped."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from clinvk.api.recorded import bring_missing, off_loop
from clinvk.api.sync import run_blocking
from clinvk.api.tasks import Observe, Tasks, plan_of
from clinvk.disk.closing import Closing
from clinvk.dispatch.dispatcher import Dispatcher
from clinvk.engine.driven_run import DrivenRun
from clinvk.engine.rerun import select_to_resume
from clinvk.engine.resumed_run import ReplacingRun, ResumedRun, find_interrupted
from clinvk.engine.run_context import RunContext, local_context
from clinvk.errors import ClinvkError, ConfigError, SessionError
from clinvk.model.outcome import Outcome, RunResult
from clinvk.model.plan import Plan, Task, Worktree
from clinvk.runs.checkpoints import CheckpointNotFound, Checkpoints, CheckpointTaken
from clinvk.runs.folder import RunFolder, RunStore
from clinvk.runs.log import RunNotFound

SUFFIXES = (".yaml", ".yml", ".json")


class WorkflowManager(Closing):
    """Runs chains by name: registered ones, the files in
    `~/.clinvk/workflows/`, and files by their paths.

    `close`, or the end of a `with` block, closes the dispatcher, unless it was passed in."""

    def __init__(
        self, dispatcher: Dispatcher | None = None, *, context: RunContext | None = None
    ) -> None:
        """`context` says where the steps run, if not on this machine."""
        self.dispatcher = dispatcher or Dispatcher()
        self._context = context
        self._is_own = dispatcher is None
        self.home = self.dispatcher.config.home
        self.checkpoints = Checkpoints(self.home)
        self._registered: dict[str, Tasks] = {}

    def close(self) -> None:
        if self._is_own:
            self.dispatcher.close()

    def register(
        self, name: str, steps: Sequence[str | Mapping[str, Any]] | Mapping[str, Any]
    ) -> None:
        """Register steps, or the data of a chain file, under a name."""
        self._registered[name] = steps

    def workflows(self) -> list[str]:
        """The names that `execute` accepts, without paths."""
        folder = self.home / "workflows"
        files = [p.stem for p in folder.glob("*") if p.suffix in SUFFIXES]
        return sorted({*self._registered, *files})

    def execute(
        self,
        name: str | os.PathLike[str],
        *,
        checkpoint: str | None = None,
        resume: str | None = None,
        rerun_indeterminate: bool = False,
        observe: Observe = lambda _: None,
        **rules: Any,
    ) -> RunResult:
        """Run a chain; returns its result, with the answers of its steps.

        With `checkpoint`, each finished step is saved under that name; with `resume`, the chain
        continues there: steps that succeeded and are unchanged are not run again. Raises
        `ClinvkError`; `CheckpointNotFound` and `ConfigError` for unknown names."""
        execute = partial(
            self.aexecute, name, checkpoint=checkpoint, resume=resume,
            rerun_indeterminate=rerun_indeterminate, observe=observe, **rules,
        )  # fmt: skip
        return run_blocking(execute, "aexecute(...)")

    async def aexecute(
        self,
        name: str | os.PathLike[str],
        *,
        checkpoint: str | None = None,
        resume: str | None = None,
        rerun_indeterminate: bool = False,
        observe: Observe = lambda _: None,
        **rules: Any,
    ) -> RunResult:
        """`execute`, for code with an event loop."""
        context = self._context or local_context(self.dispatcher)
        plan = plan_of(self._load_steps(name), "chain", self.dispatcher, rules)
        prepare = partial(
            self.prepare_run, plan, checkpoint=checkpoint, resume=resume,
            rerun_indeterminate=rerun_indeterminate, observe=observe,
        )  # fmt: skip
        run = await off_loop(context, prepare, plan)
        return run.with_outputs(await run.run())

    def prepare_run(
        self,
        plan: Plan | None,
        *,
        checkpoint: str | None = None,
        resume: str | None = None,
        rerun_indeterminate: bool = False,
        **watch: Any,
    ) -> DrivenRun:
        """The run of the plan, ready to be driven, under its checkpoint name; without a plan, the
        run that `resume` names, as it was started. Raises `ClinvkError`."""
        context = self._context or local_context(self.dispatcher)
        name = checkpoint or resume
        if name is not None and plan is not None and plan.rules.ephemeral:
            raise ConfigError("an ephemeral run is not saved, so it has no checkpoint",
                              "leave out --ephemeral, or --checkpoint")  # fmt: skip
        old = self._find_folder(resume) if resume is not None else None
        before = old.id if old is not None else None
        if old is not None:
            bring_missing(old, context.env, trusted=True)
        if old is not None and (plan is None or _is_same_plan(plan, old.plan())):
            select = partial(
                select_to_resume, rerun_indeterminate=rerun_indeterminate, retry_failed=True,
                rerun_dependents=True,
            )  # fmt: skip
            return ResumedRun(context, old, select, **watch)
        assert plan is not None  # noqa: S101 - or what would it run?
        watch["on_begun"] = lambda run: self._assign_checkpoint(name, run, before)
        if old is not None:
            return ReplacingRun(
                context, plan, old, rerun_indeterminate=rerun_indeterminate, **watch
            )
        if checkpoint is not None:
            before = self._check_free(checkpoint)
        return DrivenRun(context, plan, **watch)

    def list_checkpoints(self) -> list[dict[str, Any]]:
        """Each checkpoint: `name`, `run`, `at`, `state`, `steps`, `completed`, `source`."""
        return [self._checkpoint_data(name) for name in self.checkpoints.names()]

    def checkpoint(self, name: str) -> RunResult:
        """The progress of the chain of a checkpoint, with the answers of its steps. Raises
        `CheckpointNotFound`, `SessionError`."""
        folder = self._find_folder(name)
        return folder.with_outputs(folder.result())

    def find_interrupted(self, name: str) -> list[Outcome]:
        """The steps of a checkpoint that were interrupted, and that `resume` runs again only with
        `rerun_indeterminate`. Raises `CheckpointNotFound`, `SessionError`."""
        cluster = self._context.cluster if self._context else None
        return find_interrupted(self._find_folder(name), self.dispatcher.store, cluster)

    def plan(self, name: str) -> Plan:
        """The steps of a checkpoint, as they were started. Raises `CheckpointNotFound`,
        `SessionError`."""
        return self._find_folder(name).plan()

    def delete_checkpoint(self, name: str) -> bool:
        """Delete the name; returns whether it existed. The run is kept until it is cleaned up."""
        try:
            self.checkpoints.delete(name)
        except CheckpointNotFound:
            return False
        return True

    def _load_steps(self, name: str | os.PathLike[str]) -> Tasks:
        if isinstance(name, str) and name in self._registered:
            return self._registered[name]
        if isinstance(name, str) and not Path(name).is_file():
            for suffix in SUFFIXES:
                path = self.home / "workflows" / f"{name}{suffix}"
                if os.sep not in name and path.is_file():
                    return path
            known = ", ".join(self.workflows()) or "none"
            raise ConfigError(
                f"unknown workflow {name!r}", f"known: {known}; or pass the path of its file"
            )
        return Path(name)

    def _find_folder(self, name: str) -> RunFolder:
        run = self.checkpoints.find_run_id(name)
        try:
            return RunStore(self.home).find(run)
        except RunNotFound:
            raise SessionError(
                f"the run {run} of checkpoint {name!r} is gone",
                f"start over with: clinvk checkpoints delete {name}",
            ) from None

    def _assign_checkpoint(self, name: str | None, run: DrivenRun, before: str | None) -> None:
        """Assign the name to the run, which belonged to the run `before` when it was checked.
        Raises `CheckpointTaken` if another process was faster; the run is deleted then."""
        if name is None or run.folder is None:
            return
        try:
            self.checkpoints.assign_if_unchanged(name, run.folder.id, before)
        except CheckpointTaken:
            run.folder.delete_locked()
            raise

    def _check_free(self, name: str) -> str | None:
        """The run with the name, if any. Raises `SessionError` if that has not finished."""
        try:
            known = self.checkpoints.find_run_id(name)
        except CheckpointNotFound:
            return None
        about = self._checkpoint_data(name)
        if about["state"] not in ("done", "gone"):
            raise SessionError(
                f"checkpoint {name!r} already exists: {about['completed']} of {about['steps']} "
                "steps done",
                f"resume it with: clinvk chain --resume {name}; "
                f"or start over with: clinvk checkpoints delete {name}",
            )
        return known

    def _checkpoint_data(self, name: str) -> dict[str, Any]:
        about = {"name": name, "run": None, "at": None}
        unknown = {"steps": 0, "completed": 0, "source": ""}
        try:
            found = self.checkpoints.read(name)
            about |= {"run": found["run"], "at": found["at"]}
            said = RunStore(self.home).find(found["run"]).summary()
        except RunNotFound:
            return {**about, "state": "gone", **unknown}
        except ClinvkError:
            return {**about, "state": "damaged", **unknown}
        return {
            **about, "state": said["state"], "steps": said["total_tasks"],
            "completed": said["counts"].get("done", 0), "source": said["source"],
        }  # fmt: skip


def _is_same_plan(plan: Plan, kept: Plan) -> bool:
    plan = Plan.from_json(plan.to_json())  # as it would be read from its file
    tasks = tuple(map(_as_written, kept.tasks))
    written = plan.tasks
    if len(written) == len(tasks):
        written = tuple(map(_as_placed, written, kept.tasks))
    return (written, plan.rules, plan.loops) == (tasks, kept.rules, kept.loops)


def _as_placed(task: Task, kept: Task) -> Task:
    """The task as it is written, with a worktree if it got one only since its files go to a cluster by
    git."""
    is_remote = kept.worktree is not None and bool(kept.worktree.remote)
    return replace(task, worktree=task.worktree or Worktree()) if is_remote else task


def _as_written(task: Task) -> Task:
    """The task without what was recorded about its worktree when the run started."""
    return replace(task, worktree=task.worktree.as_written) if task.worktree else task


AgentFlowManager = WorkflowManager
