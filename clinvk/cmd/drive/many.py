"""A run of many tasks on the command line: signals in, progress out, an exit code at the end."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from clinvk.cmd.drive.cluster import flags_for_cluster
from clinvk.cmd.options.json_errors import BrokenRun
from clinvk.cmd.views import summary
from clinvk.cmd.views.run import (
    FORMATS,
    RunView,
    RunViewer,
    create_run_viewer,
    print_line,
)
from clinvk.errors import ClinvkError, UsageError
from clinvk.model.outcome import RunResult
from clinvk.process import ownership
from clinvk.process.groups import unwrap_single_exception
from clinvk.terminal import printer as show
from clinvk.terminal.printer import Printer

if TYPE_CHECKING:
    from clinvk.api.workflow import WorkflowManager
    from clinvk.config.schema import Loaded
    from clinvk.engine.driven_run import DrivenRun
    from clinvk.engine.run_context import RunContext
    from clinvk.model.plan import Plan
    from clinvk.reports import RequestedReport
    from clinvk.runs.log import RunLog


def drive_run(run: DrivenRun, view: RunView, viewer: RunViewer) -> RunResult:
    """The result of the run, which is shown while it is running. The first Ctrl-C starts no more
    tasks and asks those running to stop; the second kills them. Raises `BrokenRun`."""
    # 45 ms, and needed only once something runs.
    import anyio

    ownership.prepare_for_many()
    try:
        try:
            with unwrap_single_exception():
                return anyio.run(_drive_run, run, viewer)
        finally:
            viewer.close()
    except ClinvkError as error:
        if run.folder is not None and run.scheduler is not None:  # it had started
            _report_broken_run(run.folder, run.plan, error, view)
        raise BrokenRun(error, run.folder) from error


def _report_broken_run(folder: RunLog, plan: Plan, error: ClinvkError, view: RunView) -> None:
    """How far a run came that could not continue, and how to resume it."""
    where = flags_for_cluster(folder, plan) or ""
    later = f"then continue with: clinvk runs resume {folder.id}{where}"
    error.hint = f"{error.hint}; {later}" if error.hint else later
    if view.format == "text":
        with suppress(ClinvkError), summary.without_workflow_commands():
            summary.print_summary(folder.result())


async def _drive_run(run: DrivenRun, viewer: RunViewer) -> RunResult:
    # 45 ms, and needed only once something runs.
    import anyio

    # Anyio, 45 ms: needed only once something runs.
    from clinvk.cmd.drive.signals import cancel_reason, watch_signals

    def on_signal(number: Any, count: int) -> None:
        again = " press Ctrl-C again to stop immediately" if number == signal.SIGINT else ""
        stopping = f"stopping…{again}" if count == 1 else "stopping immediately"
        viewer.show_notice(f"{cancel_reason(number)}: {stopping}")
        run.stop(cancel_reason(number), now=count > 1)
        viewer.give_up()

    results: list[RunResult] = []
    async with anyio.create_task_group() as tasks:

        def on_ready() -> None:
            viewer.begin(run)
            tasks.start_soon(viewer.live)

        await tasks.start(watch_signals, on_signal)
        results.append(await run.run(on_ready))
        await viewer.end()
        tasks.cancel_scope.cancel()
    return results[0]


def build_view(
    loaded: Loaded, *, as_json: bool = False, output_format: str | None = None, quiet: bool = False
) -> RunView:
    output = loaded.config.output
    wanted = "json" if as_json else output_format or output.format
    if wanted not in FORMATS:
        raise UsageError(f"-o: {wanted!r} is not one of: {', '.join(FORMATS)}")
    at_once = not loaded.config.parallel.aggregate_output
    return RunView(format=wanted, quiet=quiet, color=output.color, streams_answers=at_once)


def run_plan(context: RunContext, plan: Plan, view: RunView, reports: list[RequestedReport]) -> int:
    """Run the plan and show it; return the exit code."""
    # Only once something is to run: 10 ms.
    from clinvk.engine.driven_run import DrivenRun

    viewer = create_run_viewer(view)
    run = DrivenRun(context, plan, observe=viewer.observe, notify=viewer.show_notice)
    return finish_run(run, drive_run(run, view, viewer), view, reports)


def run_chain(
    manager: WorkflowManager,
    plan: Plan | None,
    view: RunView,
    reports: list[RequestedReport],
    *,
    rerun_indeterminate: bool,
    **names: str | None,
) -> int:
    """Run a chain under the name of its checkpoint and show it; return the exit code."""
    viewer = create_run_viewer(view)
    run = manager.prepare_run(
        plan, **names, rerun_indeterminate=rerun_indeterminate, observe=viewer.observe,
        notify=viewer.show_notice,
    )  # fmt: skip
    name = names.get("checkpoint") or names.get("resume")
    return finish_run(run, drive_run(run, view, viewer), view, reports, name)


def finish_run(
    run: DrivenRun,
    result: RunResult,
    view: RunView,
    reports: list[RequestedReport],
    checkpoint: str | None = None,
) -> int:
    print_result(run, result, view, checkpoint, new=run.new_outcomes(result))
    on_github = os.environ.get("GITHUB_ACTIONS") == "true"
    if not (reports or on_github):
        return result.exit_code or UsageError.exit_code * _has_output_problem(run)
    from clinvk import reports as written  # only where one is wanted

    whole = run.with_outputs(result)
    printer = Printer.for_errors(view.color)
    problems = written.write_reports(reports, whole, run.plan)
    for problem in problems:
        printer.error(problem.message, problem.hint)
    if on_github:
        try:  # keeps stdout intact for a program that reads it
            written.publish_to_github(
                whole, os.environ, sys.stdout if view.format == "text" else sys.stderr
            )
        except UsageError as error:
            printer.warning(error.message, error.hint)
    return result.exit_code or UsageError.exit_code * bool(problems or _has_output_problem(run))


def _has_output_problem(run: DrivenRun) -> bool:
    return run.outputs is not None and run.outputs.problem is not None


def print_result(
    run: DrivenRun | RunLog,
    result: RunResult,
    view: RunView,
    checkpoint: str | None = None,
    *,
    new: set[int] | None = None,
) -> None:
    """Print the result. As text, print only the answers of the tasks at the positions `new` (None:
    all), and what did not succeed."""
    if view.format == "json":
        show.print_json(result_data(run.with_outputs(result)))
        return
    if result.kind == "compare":
        result = run.with_outputs(result)  # it includes what the judge said
    if view.format == "stream-json":
        data = result_data(result)
        del data["results"]
        print_line({**data, "type": "end", "run": result.id})
        return
    # Only to print text.
    from clinvk.engine.driven_run import DrivenRun

    folder, plan = (run.folder, run.plan) if isinstance(run, DrivenRun) else (run, run.plan())
    cluster = flags_for_cluster(folder, plan)
    if result.kind == "compare":
        from clinvk.cmd.views import comparison  # other runs have no use for it

        with summary.without_workflow_commands():
            comparison.print_comparison(result, plan, view, cluster)
        return
    with summary.without_workflow_commands():
        if view.answers and not view.quiet and not view.answers_at_once:
            for outcome in result.answers:
                if new is None or outcome.index in new:
                    summary.print_answer(run.with_output(outcome))
        summary.print_summary(result, new)
    summary.print_next_steps(result, plan, view.color, checkpoint, cluster)
    if any(outcome.worktree is not None for outcome in result.results):
        # Only with worktrees.
        from clinvk.cmd.views import taken

        if folder is not None:
            taken.print_how_to_apply(folder, result, view.color)


def result_data(result: RunResult) -> dict[str, Any]:
    """The object that is printed; of a comparison, with the verdict."""
    if result.kind != "compare":
        return result.to_json()
    # Only comparisons need it.
    from clinvk.plans import ranking

    return ranking.to_json(result)
