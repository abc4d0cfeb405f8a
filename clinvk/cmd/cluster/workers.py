"""`clinvk workers`: the workers of a cluster."""

from __future__ import annotations

import sys
from datetime import datetime
from typing import TYPE_CHECKING, Any

from clinvk.cmd.app import new_app
from clinvk.cmd.drive.cluster import ClusterAddress, Insecure, find_address, flags_of
from clinvk.cmd.options import request as opt
from clinvk.config.extras import require_extra
from clinvk.terminal import printer
from clinvk.text.duration import format_running
from clinvk.text.sanitize import one_line

if TYPE_CHECKING:
    from clinvk.cluster.nodes import NodeState

app = new_app()

VERSION = 1  # of the JSON


@app.command()
def workers(
    cluster: ClusterAddress = None,
    as_json: opt.Json = False,
    insecure: Insecure = False,
    config: opt.Config = None,
) -> int:
    """List the workers of a cluster, and what they run.

    A worker is gone if it has not been heard of for ten seconds; it is listed for a day. Exits with 1
    if no worker is connected."""
    loaded = opt.load_config(config)
    address = find_address(cluster, loaded, insecure=insecure)
    with require_extra("cluster", "a cluster"):
        # Slow, and an extra.
        import redis
    # The same.
    from clinvk.cluster.address import connect_to
    from clinvk.cluster.keys import Keys
    from clinvk.cluster.nodes import Nodes
    from clinvk.cluster.server import check_server
    from clinvk.cluster.server_errors import explain

    with connect_to(address) as client:
        warnings = check_server(client, address, insecure=insecure)
        try:
            found = Nodes(client, Keys.of(address.name)).read()
        except redis.RedisError as error:
            raise explain(error, address.place, is_tls=address.is_tls) from error
    for warning in warnings:
        print(f"clinvk: {warning}", file=sys.stderr)
    if as_json:
        printer.print_json({"version": VERSION, "workers": [state.to_json() for state in found]})
    else:
        _print_table(found, address.name, flags_of(cluster, loaded, insecure=insecure))
    return 0 if any(state.state != "gone" for state in found) else 1


def _print_table(found: list[NodeState], cluster: str, where: str) -> None:
    if not found:
        print(
            f"no workers in the cluster {cluster!r}; "
            f"start one where the CLIs are: clinvk worker{where}",
            file=sys.stderr,
        )
        return
    printer.print_table(
        ["NODE", "STATE", "BACKEND", "SLOTS", "CLI", "LOGIN", "RUNNING", "LABELS", "HEARTBEAT"],
        [row for state in found for row in _rows(state)],
        shrinks=["RUNNING", "LABELS", "CLI"], spared=["LABELS", "CLI", "RUNNING", "LOGIN"],
        state="STATE",
    )  # fmt: skip


def _rows(state: NodeState) -> list[list[str]]:
    """One for each backend; what is true of the whole node is in the first one."""
    rows: list[list[str]] = []
    data = state.to_json()
    for name, facts in data["backends"].items():
        running = [
            f"{one_line(run.run)} {run.task + 1} ({format_running(run.seconds)})"
            for run in state.running
            if run.backend == name
        ]
        first = not rows
        rows.append(
            [
                state.name if first else "",
                state.state if first else "",
                name,
                f"{facts['used']}/{facts['slots']}",
                one_line(facts["version"] or "-"),
                _login(facts),
                ", ".join(running) or "-",
                (", ".join(map(one_line, data["labels"])) or "-") if first else "",
                f"{state.silent:.0f} s ago" if first else "",
            ]
        )
    return rows


def _login(facts: dict[str, Any]) -> str:
    """Whether the CLI is logged in, and until when that account is at a rate limit."""
    if facts["limit_until"] is None:
        return str(facts["login"])
    # Only at a rate limit.
    from clinvk.dispatch.limit_check import format_time

    until = datetime.fromisoformat(facts["limit_until"])
    return f"{facts['login']}, limit until {format_time(until)}"
