"""Many tasks from Python: `clinvk.parallel`, `clinvk.chain`, `clinvk.compare`.

    result = clinvk.parallel(["review a.py", "review b.py"], backend="claude", max_parallel=2)
    for task in result.results:
        print(task.name, task.state, task.output)

Errors before anything runs raise `ClinvkError`; the failure of a task is in the result, as
everywhere.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from clinvk.api.ranking import check_score, score_candidates
from clinvk.api.recorded import found_run, off_loop, placed
from clinvk.api.sync import blocking
from clinvk.disk.empty import EMPTY
from clinvk.disk.reading import read_named
from clinvk.dispatch.dispatcher import Dispatcher
from clinvk.engine.driven_run import DrivenRun
from clinvk.engine.rerun import select_to_resume, select_to_retry
from clinvk.engine.resumed_run import ResumedRun
from clinvk.engine.run_context import RunContext, local_context
from clinvk.errors import ConfigError, UsageError
from clinvk.model.candidates.ranking import Ranking
from clinvk.model.outcome import RunResult
from clinvk.model.plan import Kind, Plan
from clinvk.plans import comparison, formats, halt, parse, schema
from clinvk.plans.comparison import Verdict
from clinvk.plans.ranking import rank
from clinvk.plans.taskfile.defaults import Defaults
from clinvk.plans.taskfile.worktree import worktree_of
from clinvk.process.threads import in_thread

if TYPE_CHECKING:
    from clinvk.engine.executor import Executor
    from clinvk.model.progress import Change
    from clinvk.worktrees.results.applied import Applied

Tasks = str | os.PathLike[str] | Sequence[str | Mapping[str, Any]] | Mapping[str, Any]
Observe = Callable[["Change"], None]
OF_COMPARISON = (  # arguments of a comparison that are no options
    "judge", "cwd", "timeout", "tags", "sequential", "worktree", "retries", "on_limit", "max_wait",
    "fallback", "labels", "ignore_limit", "budget", "ephemeral",
)  # fmt: skip


async def aparallel(
    tasks: Tasks,
    *,
    cluster: str | None = None,
    insecure: bool = False,
    dispatcher: Dispatcher | None = None,
    executor: Executor | None = None,
    observe: Observe = lambda _: None,
    **rules: Any,
) -> RunResult:
    """Run many tasks; returns their results in order, with their answers.

    `tasks` is a list of prompts and mappings with the keys of a task, the path of a task file, or
    the data of one. `rules` are the other keys of such a file (`max_parallel=4`, `fail_fast=True`,
    `retries=2`, `on_limit="wait"`, `fallback=["codex"]`, `budget={"tokens": 100_000}`,
    `ephemeral=True`, `defaults={…}` …); keys of a task (`backend="claude"`, `timeout=60`) apply to all tasks. `observe` is called
    with each `Change`. `executor` runs the tasks in place of this machine: see `clinvk.testing`;
    with `cluster`, the workers of the cluster at that address do, which needs a password unless it is on
    this machine or `insecure`. Raises `ClinvkError`."""
    async with placed(dispatcher, cluster, insecure=insecure) as (where, context):
        return await _run_plan(context, plan_of(tasks, "parallel", where, rules), observe, executor)


async def achain(
    steps: Tasks,
    *,
    cluster: str | None = None,
    insecure: bool = False,
    dispatcher: Dispatcher | None = None,
    executor: Executor | None = None,
    observe: Observe = lambda _: None,
    **rules: Any,
) -> RunResult:
    """Run steps one after another; a prompt may refer to earlier steps
    (`{{previous}}`, `{{session}}`, `{{steps.NAME.output}}`). Arguments as in `aparallel`, and
    `stop_on_failure`, `pass_working_dir`, `pass_session`, and
    `repeat={"steps": [...], "until": ..., "max": 3}`, which runs steps again until a check passes or
    an expression over their structured answers holds."""
    async with placed(dispatcher, cluster, insecure=insecure) as (where, context):
        return await _run_plan(context, plan_of(steps, "chain", where, rules), observe, executor)


class Comparison(Struct, frozen=True, kw_only=True):
    """The answers of several backends to one prompt: the run with its answers, and the verdict of
    the judge, if there was one."""

    result: RunResult
    verdict: Verdict | None = None
    ranking: Ranking | None = None  # of what was done in worktrees
    applied: Applied | None = None

    @property
    def answers(self) -> dict[str, str]:
        """The answers by backend."""
        return {a.name: a.output for a in comparison.answer_outcomes(self.result)}


async def acompare(
    prompt: str,
    backends: Sequence[str],
    *,
    judge: str | None = None,
    cwd: str | os.PathLike[str] | None = None,
    timeout: float | None = None,  # noqa: ASYNC109 - of each answer, whose program is ended then
    tags: Iterable[str] = (),
    labels: Iterable[str] = (),
    sequential: bool = False,
    retries: int = 0,
    on_limit: str | None = None,
    max_wait: float | str | None = None,
    fallback: str | Sequence[str] = (),
    ignore_limit: bool = False,
    budget: Mapping[str, float] | None = None,
    ephemeral: bool = False,
    worktree: bool | Mapping[str, Any] | None = None,
    score: str | None = None,
    lowest: bool = False,
    apply: bool = False,
    cluster: str | None = None,
    insecure: bool = False,
    dispatcher: Dispatcher | None = None,
    executor: Executor | None = None,
    observe: Observe = lambda _: None,
    **options: Any,
) -> Comparison:
    """Send one prompt to several backends (`["claude", "codex:gpt-5"]`), and let a `judge` choose
    the best answer. `retries`, `on_limit`, `max_wait`, `fallback`, `ignore_limit` and `budget`
    are as in `aparallel`; with `worktree`, each backend works in a git worktree of its own.
    Then `ranking` says which result is best: by its `check`, by the last number that the command
    `score` prints (the `lowest` or the highest), by how few lines it changed, by the judge; with
    `apply`, that one is applied to the files. `options` are those of a run (`approval="auto"`).
    Raises `ClinvkError`."""
    check_score(score)
    if (score is not None or apply) and not worktree:
        raise UsageError("score and apply are about results in worktrees", "pass worktree=True")
    async with placed(dispatcher, cluster, insecure=insecure) as (where, context):
        plan = plan_of_comparison(
            prompt, backends, where, judge=judge, cwd=cwd, timeout=timeout, tags=tags, labels=labels,
            sequential=sequential, worktree=worktree, options=options, retries=retries,
            on_limit=on_limit, max_wait=max_wait, fallback=fallback, ignore_limit=ignore_limit,
            budget=budget, ephemeral=ephemeral,
        )  # fmt: skip
        make = partial(DrivenRun, context, plan, observe=observe, executor=executor)
        run = await off_loop(context, make, plan)
        result = await run.run()
        if score is not None and run.directory is not None:
            await score_candidates(run.directory, score, lowest_wins=lowest, env=where.env)
        result = run.with_outputs(result)
        return Comparison(
            result=result, verdict=comparison.find_verdict(result), ranking=rank(result),
            applied=await _apply_best(where, run) if apply else None,
        )  # fmt: skip


async def _apply_best(dispatcher: Dispatcher, run: DrivenRun) -> Applied | None:
    # Only to apply.
    from clinvk.api.results import apply_best

    folder = run.directory
    if folder is None:
        return None
    return await in_thread(lambda: apply_best(dispatcher, folder, notify=lambda _: None))


async def aresume(
    run: str,
    *,
    rerun_indeterminate: bool = False,
    retry_failed: bool = False,
    cluster: str | None = None,
    insecure: bool = False,
    dispatcher: Dispatcher | None = None,
    executor: Executor | None = None,
    observe: Observe = lambda _: None,
) -> RunResult:
    """Resume an interrupted run: run the tasks that had not started, and none twice; returns its
    result. `run` is its id, a unique prefix of it, or "last". Raises `ClinvkError`."""
    select = partial(
        select_to_resume, rerun_indeterminate=rerun_indeterminate, retry_failed=retry_failed
    )
    async with (
        placed(dispatcher, cluster, insecure=insecure) as (where, context),
        found_run(where.config.home, cluster, run, where.env, insecure=insecure) as folder,
    ):
        make = partial(ResumedRun, context, folder, select, observe=observe, executor=executor)
        return await _resume(context, make)


async def aretry_run(
    run: str = "last",
    tasks: str | Iterable[str] = (),
    *,
    failed: bool = False,
    cluster: str | None = None,
    insecure: bool = False,
    dispatcher: Dispatcher | None = None,
    executor: Executor | None = None,
    observe: Observe = lambda _: None,
) -> RunResult:
    """Run some tasks of a run again: the named ones, however they ended; without names, or with
    `failed`, those that failed; and those skipped because of them. Returns the result of the run. A
    task is named by its name, its key or its number. Raises `UsageError` for an unknown task,
    `SessionError` if there is no such run, or if it is running."""
    select = partial(select_to_retry, names=tasks, failed=failed)
    async with (
        placed(dispatcher, cluster, insecure=insecure) as (where, context),
        found_run(where.config.home, cluster, run, where.env, insecure=insecure) as folder,
    ):
        make = partial(ResumedRun, context, folder, select, observe=observe, executor=executor)
        return await _resume(context, make)


async def _resume(context: RunContext, make: Callable[[], ResumedRun]) -> RunResult:
    resumed = await off_loop(context, make)
    result = await resumed.run()
    return await off_loop(context, lambda: resumed.with_outputs(result))


class PlanRun(DrivenRun):
    """A new run of a plan. `await run()` once; `stop()` from anywhere in the same event loop."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        plan: Plan,
        *,
        observe: Observe = lambda _: None,
        notify: Callable[[str], None] = lambda _: None,
        executor: Executor | None = None,
        on_begun: Callable[[DrivenRun], None] | None = None,
    ) -> None:
        """`observe` is called with each `Change`, and `notify` with each notice. `executor` runs
        the tasks in place of this machine. `on_begun` is called once the run is recorded, before a
        task is started. Raises `ClinvkError` if the plan cannot be started; nothing has happened
        then."""
        super().__init__(
            local_context(dispatcher), plan, observe=observe, notify=notify, executor=executor,
            on_begun=on_begun,
        )  # fmt: skip
        self.dispatcher = dispatcher


def plan_of(tasks: Tasks, kind: Kind, dispatcher: Dispatcher, rules: Mapping[str, Any]) -> Plan:
    """The plan from the arguments of `aparallel` and `achain`. Raises `ConfigError`."""
    parallel = dispatcher.config.config.parallel
    of_tasks = {k: v for k, v in rules.items() if k in schema.TaskEntry.__struct_fields__}
    of_plan = {k: v for k, v in rules.items() if k not in of_tasks}
    # `retries` and `stall_timeout` are keys of both: those of the plan apply to all tasks.
    defaults = Defaults(
        max_parallel=parallel.max_workers,
        max_parallel_per_backend=parallel.max_parallel_per_backend,
        fail_fast=parallel.fail_fast,
        limits=halt.configured_limits(dispatcher.config.config.unified_flags),
        task=schema.TaskDefaults(**_to_file_data(of_tasks)),
    )
    data, source, text = _read_tasks(tasks, "steps" if kind == "chain" else "tasks")
    whole = data if isinstance(data, dict) else {"steps" if kind == "chain" else "tasks": data}
    return parse.parse_plan({**whole, **_to_file_data(of_plan)}, source, kind, defaults, text)


def plan_of_comparison(
    prompt: str,
    backends: Sequence[str],
    dispatcher: Dispatcher,
    *,
    judge: str | None = None,
    cwd: str | os.PathLike[str] | None = None,
    timeout: float | None = None,
    tags: Iterable[str] = (),
    labels: Iterable[str] = (),
    sequential: bool = False,
    worktree: bool | Mapping[str, Any] | None = None,
    options: Mapping[str, Any],
    **rules: Any,
) -> Plan:
    """The plan from the arguments of `acompare`. Raises `ClinvkError`."""
    defaults = _parallel_defaults(dispatcher, sequential=sequential)
    return comparison.build_plan(
        prompt, list(backends), judge=judge, options=options,
        judge_options=comparison.judge_options(judge, options, dispatcher.selector),
        cwd=EMPTY if cwd == EMPTY else os.path.realpath(cwd) if cwd is not None else None,
        timeout=timeout, tags=tuple(tags), labels=tuple(labels), worktree=worktree_of(worktree),
        rules=parse.parse_rules(_to_file_data(rules), "compare", defaults),
        example='backends=["claude", "codex"]; without any AI CLI: backends=["echo:a", "echo:b"]',
    )  # fmt: skip


def _parallel_defaults(dispatcher: Dispatcher, *, sequential: bool) -> Defaults:
    """How many backends may be asked at a time."""
    parallel = dispatcher.config.config.parallel
    return Defaults(
        max_parallel=1 if sequential else parallel.max_workers,
        max_parallel_per_backend=parallel.max_parallel_per_backend,
        limits=halt.configured_limits(dispatcher.config.config.unified_flags, switches=False),
    )


async def _run_plan(
    context: RunContext, plan: Plan, observe: Observe, executor: Executor | None
) -> RunResult:
    make = partial(DrivenRun, context, plan, observe=observe, executor=executor)
    run = await off_loop(context, make, plan)
    result = await run.run()
    return await off_loop(context, lambda: run.with_outputs(result))


def _read_tasks(tasks: Tasks, where: str) -> tuple[Any, str, str]:
    """The data of the file, or the given data; its name; and its text."""
    if isinstance(tasks, Mapping):
        return _to_file_data(dict(tasks)), where, ""
    if isinstance(tasks, (str, os.PathLike)):
        path = Path(tasks)
        try:
            text = read_named(path).decode("utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
            raise ConfigError(f"{path}: {why}", f"pass a file or a list of {where}") from error
        data, form = formats.parse_text(str(path), text)
        return data, str(path), text if form in ("yaml", "json") else ""
    return [_to_file_data(task) for task in tasks], where, ""


def _to_file_data(value: Any) -> Any:
    """The data as in a file: paths as text, tuples as lists."""
    if isinstance(value, Mapping):
        return {str(k): _to_file_data(v) for k, v in value.items()}
    if isinstance(value, (list, tuple, set)):
        return [_to_file_data(v) for v in value]
    return os.fspath(value) if isinstance(value, os.PathLike) else value


parallel = blocking(aparallel)
chain = blocking(achain)
compare = blocking(acompare)
resume_run = blocking(aresume)
retry_run = blocking(aretry_run)
