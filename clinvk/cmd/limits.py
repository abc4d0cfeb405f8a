"""`clinvk limits` and `clinvk limits clear`."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clinvk.cmd.app import new_app
from clinvk.cmd.drive.cluster import HERE, Insecure, cluster_url, find_address
from clinvk.cmd.options import request as opt
from clinvk.cmd.options.holding import until_end
from clinvk.config.extras import require_extra
from clinvk.errors import ClinvkError
from clinvk.terminal import printer
from clinvk.text.sanitize import one_line

if TYPE_CHECKING:
    from clinvk.cluster.limits.opened import ClusterLimits
    from clinvk.dispatch.remembered_limits import LimitStore

    Store = LimitStore | ClusterLimits

app = new_app(
    help="Show and forget the rate limits that backends have reported.",
    invoke_without_command=True,
)

VERSION = 1  # of the JSON that it prints


ClusterUrl = Annotated[
    str | None,
    typer.Option(
        "--cluster", metavar="URL", help="Those of the workers of this cluster: redis://HOST."
    ),
]


@app.callback(invoke_without_command=True)
def show(
    ctx: typer.Context,
    as_json: opt.Json = False,
    cluster: ClusterUrl = None,
    insecure: Insecure = False,
    config: opt.Config = None,
) -> None:
    """Show the rate limits that backends have reported.

    A backend that is at its rate limit is not tried again before the limit ends. If the configuration
    names a cluster, the limits of its workers are shown, too."""
    if ctx.invoked_subcommand is None:
        _print_limits(_stores(config, cluster, insecure=insecure), as_json=as_json)


@app.command("list")
def list_(
    as_json: opt.Json = False,
    cluster: ClusterUrl = None,
    insecure: Insecure = False,
    config: opt.Config = None,
) -> None:
    """List the rate limits, the one that ends first at the top."""
    _print_limits(_stores(config, cluster, insecure=insecure), as_json=as_json)


@app.command("clear")
def clear(
    backend: Annotated[
        str | None,
        typer.Argument(
            metavar="[BACKEND]", help="Only those of this backend.",
            autocompletion=opt.complete_backends,
        ),
    ] = None,
    cluster: ClusterUrl = None,
    insecure: Insecure = False,
    config: opt.Config = None,
) -> None:  # fmt: skip
    """Forget the rate limits, so that the backends are tried again."""
    count = sum(store.clear(backend) for store in _stores(config, cluster, insecure=insecure))
    print(f"{count} rate limit{'s' * (count != 1)} forgotten.")


def _print_limits(stores: list[Store], *, as_json: bool) -> None:
    # Only to print them.
    from clinvk.dispatch.remembered_limits import list_limits

    found = list_limits(*stores)
    if as_json:
        printer.print_json({"version": VERSION, "limits": found})
        return
    if not found:
        print("no rate limits", file=sys.stderr)
        return
    has_nodes = any("node" in entry for entry in found)
    head = ["BACKEND", "LIMIT", "ENDS", "IN", "CONFIGURATION", "MESSAGE"]
    rows = [_row(entry) for entry in found]
    if has_nodes:
        head.insert(1, "NODE")
        for row, entry in zip(rows, found, strict=True):
            row.insert(1, one_line(entry.get("node") or "-"))
    printer.print_table(
        head, rows, shrinks=["MESSAGE", "CONFIGURATION"],
        spared=["MESSAGE", "CONFIGURATION", "LIMIT"],
    )  # fmt: skip


def _row(entry: dict[str, Any]) -> list[str]:
    # Only to print them.
    from clinvk.dispatch.limit_check import format_time
    from clinvk.text.duration import format_offset

    until = datetime.fromisoformat(entry["until"])
    which = [word for word in (entry["window"], entry["model"]) if word]
    return [
        entry["backend"],
        one_line(", ".join(which)) or "-",
        format_time(until) + ("?" if entry["reported_until"] else ""),
        format_offset(max(0, round((until - datetime.now(UTC)).total_seconds()))),
        printer.short_path(one_line(entry["config_dir"] or "-")),
        one_line(entry["message"]) or "-",
    ]


def _stores(config: opt.Config, cluster: str | None, *, insecure: bool) -> list[Store]:
    """The limits of this machine, and those of the cluster that is configured; only the latter if it is
    named on the command line."""
    # Only once the flags are valid.
    from clinvk.dispatch.remembered_limits import LimitStore

    loaded = opt.load_config(config)
    found: list[Store] = [] if cluster not in (None, HERE) else [LimitStore(loaded.home)]
    if cluster_url(cluster, loaded) is None:
        return found
    with require_extra("cluster", "a cluster"):
        # Slow, and an extra.
        import redis  # noqa: F401
    # The same.
    from clinvk.cluster.limits.opened import ClusterLimits

    try:
        found.append(until_end(ClusterLimits(find_address(cluster, loaded, insecure=insecure))))
    except ClinvkError as error:
        if not found:
            raise
        print(f"clinvk: the limits of the cluster are left out: {error.message}", file=sys.stderr)
    return found
