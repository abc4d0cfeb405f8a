"""`--detach`: a run that a worker of the cluster drives."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

import typer

from clinvk.cmd.drive.cluster import find_address, flags_of
from clinvk.cmd.options.holding import until_end
from clinvk.cmd.views.run import RunView
from clinvk.errors import UsageError
from clinvk.terminal import printer

if TYPE_CHECKING:
    from clinvk.cluster.address import Address
    from clinvk.config.schema import Loaded
    from clinvk.engine.run_context import RunContext
    from clinvk.model.plan import Plan
    from clinvk.reports import RequestedReport

VERSION = 1  # of the JSON that is printed
# What only the process that submits a run could do, and how to get the same from a detached one.
INSTEAD = {
    "--checkpoint": "resume the run by its id: clinvk runs resume ID{where}",
    "--resume": "resume the run by its id: clinvk runs resume ID{where}",
    "--apply": "later, use: clinvk runs apply ID{where}",
    "--html": "later, use: clinvk runs report ID --format html{where}",
    "--score": "the other criteria, --check and --judge among them, decide on the workers",
}

NOBODY = "no worker is connected, and the run begins once one is: clinvk worker"

Detach = Annotated[
    bool,
    typer.Option(
        "--detach", help="Let a worker of the cluster drive the run; print its id and exit."
    ),
]


def check_detachable(
    loaded: Loaded, cluster: str | None, given: Mapping[str, object], *, insecure: bool
) -> None:
    """Raise `ClinvkError` if there is no cluster, or if a flag is `given` that a detached run cannot
    have."""
    find_address(cluster, loaded, insecure=insecure)
    where = flags_of(cluster, loaded, insecure=insecure)
    for flag, value in given.items():
        if value:
            raise UsageError(
                f"{flag} is not possible with --detach: this process does not wait for the run",
                f"leave out {flag}; {INSTEAD[flag].format(where=where)}",
            )


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
    where = flags_of(given, loaded, insecure=insecure)
    if reports:
        raise UsageError(
            "a detached run writes no reports on this machine",
            f"leave out --report and --junit; later, use: clinvk runs report ID{where}",
        )
    address = find_address(given, loaded, insecure=insecure)
    # Only with a cluster.
    from clinvk.cluster.app import create_app, send_run
    from clinvk.cluster.drive import submit
    from clinvk.cluster.log.runs import open_runs_at

    errors = printer.Printer.for_errors(view.color)
    runs = until_end(open_runs_at(address, loaded.home, detached=True, where=where))
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
        who = "a worker drives the run" if _is_driven(address) else NOBODY
        errors.notice(f"{who}; watch it with: clinvk runs watch {run.id}{run.where}")
    return 0


def _is_driven(address: Address) -> bool:
    """Whether a worker is there to drive the run."""
    # 60 ms, and an extra.
    from redis import RedisError

    # Only with a cluster.
    from clinvk.cluster.address import connect_to
    from clinvk.cluster.keys import Keys
    from clinvk.cluster.nodes import Nodes

    try:
        with connect_to(address) as client:
            nodes = Nodes(client, Keys.of(address.name)).read_facts()
    except RedisError:  # the run was submitted all the same
        return True
    return any(node.state == "live" for node in nodes)
