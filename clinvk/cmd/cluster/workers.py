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
HEADERS = (
    "NODE", "STATE", "BACKEND", "SLOTS", "LABELS", "LOGIN", "RUNNING", "CLI", "HEARTBEAT",
)  # fmt: skip
# The first to go on a narrow terminal. A task is sent to a worker by its backend and its labels.
DROPPED_FIRST = ("CLI", "HEARTBEAT", "RUNNING", "LOGIN")
LABELS_WIDTH = 20  # cells in which labels are put beside each other


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
    is_screen = sys.stdout.isatty()
    headers: list[str] = list(HEADERS)
    if is_screen and not any(state.node.labels for state in found):
        headers.remove("LABELS")
    rows = [row for state in found for row in _rows(state, is_screen=is_screen)]
    printer.print_table(
        headers, [[row.get(name, "") for name in headers] for row in rows],
        shrinks=["RUNNING", "CLI"], spared=DROPPED_FIRST, state="STATE",
    )  # fmt: skip


def _rows(state: NodeState, *, is_screen: bool) -> list[dict[str, str]]:
    """One for each backend; what is true of the whole node is in the first one. On a screen, its labels
    are in as many as they need."""
    rows: list[dict[str, str]] = []
    data = state.to_json()
    for name, facts in data["backends"].items():
        running = [
            f"{one_line(run.run)} {run.task + 1} ({format_running(run.seconds)})"
            for run in state.running
            if run.backend == name
        ]
        rows.append(
            {
                "BACKEND": name,
                "SLOTS": f"{facts['used']}/{facts['slots']}",
                "CLI": one_line(facts["version"] or "-"),
                "LOGIN": _login(facts),
                "RUNNING": ", ".join(running) or "-",
            }
        )
    labels = list(map(one_line, data["labels"]))
    lines = _packed(labels) if is_screen else [", ".join(labels)]
    rows += [{} for _ in range(len(lines) - len(rows))]
    for row, line in zip(rows, lines, strict=False):
        row["LABELS"] = line
    heartbeat = f"{format_running(state.silent)} ago"
    rows[0] |= {"NODE": state.name, "STATE": state.state, "HEARTBEAT": heartbeat}
    rows[0]["LABELS"] = rows[0].get("LABELS") or "-"
    return rows


def _packed(labels: list[str]) -> list[str]:
    """The labels in lines that are hardly longer than the longest of them."""
    room = max([LABELS_WIDTH, *map(len, labels)])
    lines: list[str] = []
    for label in labels:
        if lines and len(lines[-1]) + len(", ") + len(label) <= room:
            lines[-1] += f", {label}"
        else:
            lines.append(label)
    return lines


def _login(facts: dict[str, Any]) -> str:
    """Whether the CLI is logged in, and until when that account is at a rate limit."""
    if facts["limit_until"] is None:
        return str(facts["login"])
    # Only at a rate limit.
    from clinvk.dispatch.limit_check import format_time

    until = datetime.fromisoformat(facts["limit_until"])
    return f"{facts['login']}, limit until {format_time(until)}"
