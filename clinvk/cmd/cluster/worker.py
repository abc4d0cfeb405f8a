"""`clinvk worker`: run tasks of a cluster on this machine."""

from __future__ import annotations

import os
import re
import socket
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from clinvk.cmd.app import new_app
from clinvk.cmd.drive.cluster import URL_VARIABLE, ClusterAddress, Insecure, find_address
from clinvk.cmd.options import request as opt
from clinvk.config.extras import require_extra
from clinvk.errors import UsageError
from clinvk.plans.labels import labels_problem
from clinvk.terminal.printer import Printer
from clinvk.text.duration import parse_duration

if TYPE_CHECKING:
    from clinvk.config.schema import Loaded

app = new_app()

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
SHORTEST_LEASE = 1.0  # seconds


@app.command()
def worker(
    cluster: ClusterAddress = None,
    backends: Annotated[
        list[str] | None,
        typer.Option(
            "--backends", "-b", metavar="NAME=N",
            help="Backends to run, and how many tasks of each at a time (default: one of each that "
            "is installed).",
            autocompletion=opt.complete_backends,
        ),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option("--name", metavar="NAME", help="Name of this node (default: the host's)."),
    ] = None,
    label: Annotated[
        list[str] | None,
        typer.Option("--label", metavar="LABEL", help="Take tasks with this label, too (repeatable)."),
    ] = None,
    drain_timeout: Annotated[
        str | None,
        typer.Option(
            "--drain-timeout", metavar="DURATION",
            help="After SIGTERM, stop tasks that are still running after this long.",
        ),
    ] = None,
    lease: Annotated[
        str | None,
        typer.Option(
            "--lease", metavar="DURATION",
            help="Count a task as lost if its worker is silent for this long (default: 20s).",
        ),
    ] = None,
    drive: Annotated[
        int,
        typer.Option(
            "--drive", min=0, metavar="N",
            help="Drive N detached runs at a time (default: 2).",
            show_default=False,
        ),
    ] = 2,
    insecure: Insecure = False,
    config: opt.Config = None,
) -> int:  # fmt: skip
    """Run tasks of a cluster on this machine, until it is stopped.

    Tasks come from clinvk parallel, chain and compare with --cluster, on any machine. Ctrl-C, or
    SIGTERM, lets running tasks finish; a second one stops them."""
    loaded = opt.load_config(config)
    with require_extra("cluster", "a worker"):
        # Slow, and extras.
        import celery  # noqa: F401
        import redis  # noqa: F401
    # The same.
    from clinvk.cluster.address import connect_to
    from clinvk.cluster.ledger.ledger import LEASE
    from clinvk.cluster.log.lease import LEASE as DRIVER_LEASE
    from clinvk.cluster.server import check_server
    from clinvk.cluster.worker.node import WorkerNode
    from clinvk.cluster.worker.settings import WorkerSettings

    address = find_address(cluster, loaded, insecure=insecure)
    seconds = _seconds("--lease", lease) or LEASE
    if seconds < SHORTEST_LEASE:
        raise UsageError(f"--lease: {lease} is too short", f"at least {SHORTEST_LEASE:g}s")
    settings = WorkerSettings(
        address=address, name=_name(name), slots=_slots(backends, loaded), labels=_labels(label or []),
        config=loaded, env=_environment(), drain_timeout=_seconds("--drain-timeout", drain_timeout),
        lease=seconds, drivers=drive, driver_lease=min(seconds, DRIVER_LEASE),
    )  # fmt: skip
    said = Printer.for_errors()
    with connect_to(address) as client:
        for warning in check_server(client, address, insecure=insecure):
            said.notice(warning)
    return WorkerNode(settings, partial(said.notice_of, f"clinvk worker {settings.name}:")).run()


def _seconds(flag: str, text: str | None) -> float | None:
    if text is None:
        return None
    try:
        return parse_duration(text)
    except ValueError as error:
        raise UsageError(f"{flag}: {error}") from error


def _name(given: str | None) -> str:
    name = given or re.sub(r"[^A-Za-z0-9._-]+", "-", socket.gethostname()).strip("-.") or "worker"
    if not NAME.fullmatch(name):
        raise UsageError(
            f"--name: {name!r} cannot name a node",
            "use letters, digits, '.', '_' and '-', starting with a letter or digit",
        )
    return name


def _labels(given: list[str]) -> tuple[str, ...]:
    if problem := labels_problem(given):
        raise UsageError(f"--label: {problem[0]}", problem[1])
    return tuple(dict.fromkeys(given))


def _environment() -> dict[str, str]:
    """What the programs of tasks get: not the password of the cluster."""
    return {name: value for name, value in os.environ.items() if name != URL_VARIABLE}


def _slots(given: list[str] | None, loaded: Loaded) -> dict[str, int]:
    """How many tasks of each backend run at a time. Raises `ClinvkError`."""
    # A third of the start.
    from clinvk.dispatch.dispatcher import Dispatcher

    with Dispatcher(loaded) as dispatcher:
        selector = dispatcher.selector
        allowed = loaded.config.worker.allow.backends
        if not given:
            found = [
                n for n in selector.installed() if n in allowed or (not allowed and n != "echo")
            ]
            if not found:
                raise UsageError(
                    "no backend is installed", "install one, or name one: --backends echo=2"
                )
            return dict.fromkeys(found, 1)
        slots = dict(
            _read_slot(word) for words in given for word in words.split(",") if word.strip()
        )
        if not slots:
            raise UsageError("--backends is empty", "e.g. claude=2,codex=1, or leave it out")
        for name in slots:
            selector.select(name)
            if allowed and name not in allowed:
                raise UsageError(f"--backends: worker.allow.backends does not have {name}")
        return slots


def _read_slot(word: str) -> tuple[str, int]:
    name, mark, count = word.strip().partition("=")
    if mark and not (count.isdecimal() and int(count) > 0):
        raise UsageError(f"--backends: invalid number {count!r} of {name}", "e.g. claude=2,codex=1")
    return name, int(count) if mark else 1
