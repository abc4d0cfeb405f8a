"""`clinvk runs watch`: the progress of a run that another process drives."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from clinvk.cmd.app import CommandModule
from clinvk.cmd.drive import many
from clinvk.cmd.drive.cluster import Insecure, why_waiting
from clinvk.cmd.options import plan
from clinvk.cmd.options import request as opt
from clinvk.cmd.runs.common import LastRun, RunsCluster, open_runs
from clinvk.cmd.views import run
from clinvk.model.progress import why_sent_wait
from clinvk.model.result import EXIT_CODES
from clinvk.process.threads import in_thread
from clinvk.terminal import printer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from clinvk.model.outcome import Outcome
    from clinvk.model.plan import Plan
    from clinvk.runs.log import RunLog

    AskWhy = Callable[[Plan, Sequence[Outcome]], dict[int, str]]

app = CommandModule()


@app.command("watch")
def watch(
    run_id: LastRun = "last",
    as_json: opt.Json = False,
    output_format: opt.Format = None,
    quiet: plan.Quiet = False,
    plain: opt.Plain = False,
    cluster: RunsCluster = None,
    insecure: Insecure = False,
    config: opt.Config = None,
) -> int:
    """Watch a run in progress until it ends, and exit with its exit code.

    Ctrl-C stops watching; the run continues."""
    # 45 ms, and needed only once something runs.
    import anyio

    loaded = opt.load_config(config)
    view = many.build_view(loaded, as_json=as_json, output_format=output_format, quiet=quiet)
    folder = open_runs(loaded, cluster, insecure=insecure).find(run_id)
    viewer = run.create_run_viewer(view)

    def ask(plan: Plan, outcomes: Sequence[Outcome]) -> dict[int, str]:
        return why_waiting(loaded, cluster, plan, outcomes, insecure=insecure)

    try:
        anyio.run(_follow, folder, viewer, ask)
    except KeyboardInterrupt:
        viewer.close()
        printer.Printer.for_errors(view.color).notice(f"run {folder.id} is still running")
        return EXIT_CODES["cancelled"]
    finally:
        viewer.close()
    result = folder.result()
    many.print_result(folder, result, view)
    return result.exit_code


async def _follow(folder: RunLog, viewer: run.RunViewer, ask: AskWhy) -> None:
    # 45 ms, and needed only once something runs.
    import anyio

    # Only to watch, not for `--help`.
    from clinvk.runs.follow import NOW, RunChanges, RunFollower

    follower = await in_thread(lambda: RunFollower(folder, NOW))
    if follower.plan.cluster is not None:
        viewer.ask_why = lambda: why_sent_wait(follower.outcomes, partial(ask, follower.plan))
    viewer.begin_following(
        len(follower.plan.tasks), folder.id, follower.outcomes,
        started_at=follower.started_at, has_deltas=False,
    )  # fmt: skip
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(viewer.live)
        async for change in RunChanges(lambda: follower):
            viewer.observe(change)
        await viewer.flush()
        tasks.cancel_scope.cancel()
