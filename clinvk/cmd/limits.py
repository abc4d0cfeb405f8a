"""`clinvk limits` and `clinvk limits clear`."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clinvk.cmd.app import new_app
from clinvk.cmd.options import request as opt
from clinvk.terminal import printer
from clinvk.text.sanitize import one_line

if TYPE_CHECKING:
    from clinvk.dispatch.remembered_limits import LimitStore

app = new_app(
    help="Show and forget the rate limits that backends have reported.",
    invoke_without_command=True,
)

VERSION = 1  # of the JSON that it prints


@app.callback(invoke_without_command=True)
def show(ctx: typer.Context, as_json: opt.Json = False, config: opt.Config = None) -> None:
    """Show the rate limits that backends have reported.

    A backend that is at its rate limit is not tried again before the limit ends."""
    if ctx.invoked_subcommand is None:
        _print_limits(_store(config), as_json=as_json)


@app.command("list")
def list_(as_json: opt.Json = False, config: opt.Config = None) -> None:
    """List the rate limits, the one that ends first at the top."""
    _print_limits(_store(config), as_json=as_json)


@app.command("clear")
def clear(
    backend: Annotated[
        str | None,
        typer.Argument(
            metavar="[BACKEND]", help="Only those of this backend.",
            autocompletion=opt.complete_backends,
        ),
    ] = None,
    config: opt.Config = None,
) -> None:  # fmt: skip
    """Forget the rate limits, so that the backends are tried again."""
    count = _store(config).clear(backend)
    print(f"{count} rate limit{'s' * (count != 1)} forgotten.")


def _print_limits(store: LimitStore, *, as_json: bool) -> None:
    # Only to print them.
    from clinvk.dispatch.remembered_limits import list_limits

    found = list_limits(store)
    if as_json:
        printer.print_json({"version": VERSION, "limits": found})
        return
    if not found:
        print("no rate limits", file=sys.stderr)
        return
    printer.print_table(
        ["BACKEND", "LIMIT", "ENDS", "IN", "CONFIGURATION", "MESSAGE"], [_row(e) for e in found],
        shrinks=["MESSAGE", "CONFIGURATION"], spared=["MESSAGE", "CONFIGURATION", "LIMIT"],
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


def _store(config: opt.Config) -> LimitStore:
    # Only once the flags are valid.
    from clinvk.dispatch.remembered_limits import LimitStore

    return LimitStore(opt.load_config(config).home)
