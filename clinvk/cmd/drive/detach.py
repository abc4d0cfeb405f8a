"""`--detach`: a run that a worker of the cluster drives."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from clinvk.cmd.drive.cluster import find_address
from clinvk.cmd.options.holding import until_end
from clinvk.cmd.views.run import RunView
from clinvk.errors import UsageError
from clinvk.terminal import printer

if TYPE_CHECKING:
    from clinvk.config.schema import Loaded
    from clinvk.engine.run_context import RunContext
    from clinvk.model.plan import Plan
    from clinvk.reports import RequestedReport

VERSION = 1  # of the JSON that is printed

Detach = Annotated[
    bool,
    typer.Option(
        "--detach", help="Let a worker of the cluster drive the run; print its id and exit."
    ),
]


def detach_plan(
    loaded: Loaded,
    context: RunContext,
    plan: Plan,
    view: RunView,
    reports: list[RequestedReport],
    given: str | None,
    *,
    insecure: bool,
) -> int:
    """Submit the plan to the cluster and print the id of its run. Raises `ClinvkError`."""
    if reports:
        raise UsageError(
            "a detached run writes no reports on this machine",
            "leave out --report and --junit; later, use: clinvk runs report ID",
        )
    address = find_address(given, loaded, insecure=insecure)
    # Only with a cluster.
    from clinvk.cluster.app import create_app, send_run
    from clinvk.cluster.drive import submit
    from clinvk.cluster.log.runs import open_runs_at

    errors = printer.Printer.for_errors(view.color)
    runs = until_end(open_runs_at(address, loaded.home, detached=True))
    run = submit(context, plan, runs, notify=errors.notice)
    made = until_end(create_app(address))
    send_run(made, run.id)
    if view.format != "text":
        printer.print_json(
            {"version": VERSION, "id": run.id, "state": "queued", "total_tasks": len(plan.tasks)}
        )
        return 0
    print(run.id)
    if not view.quiet:
        where = " --cluster URL" if given else ""
        errors.notice(f"a worker drives the run; watch it with: clinvk runs watch {run.id}{where}")
    return 0
