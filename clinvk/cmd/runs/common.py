"""What the subcommands of `runs` share."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated

import typer

from clinvk.cmd.drive.cluster import cluster_url, flags_of
from clinvk.cmd.options.holding import until_end
from clinvk.config import loading
from clinvk.errors import ClinvkError
from clinvk.terminal import printer

if TYPE_CHECKING:
    from clinvk.config.schema import Loaded
    from clinvk.runs.folder import RunStore
    from clinvk.runs.log import Runs

VERSION = 1  # of the JSON that they print


COMPLETION_TIMEOUT = 1.0  # seconds for which a completing shell waits for the ids of a cluster


def complete_runs(ctx: typer.Context, incomplete: str) -> list[str]:
    # Completion and `--help` do not need it.
    from clinvk.runs.folder import RunStore

    try:
        runs = RunStore(loading.find_home(os.environ))
        ids = [folder.id for folder in runs.newest_first()]
    except ClinvkError:  # a completing shell has no place for it
        return []
    there = _ids_of_cluster(ctx.params.get("cluster"))
    return [i for i in ["last", *there, *ids] if i.startswith(incomplete)]


def _ids_of_cluster(given: str | None) -> list[str]:
    """The ids of the newest detached runs; none if there is no cluster, or if it is slow."""
    with suppress(ClinvkError):
        if url := cluster_url(given, loading.load(os.environ)):
            # Only with a cluster.
            from clinvk.cluster.log.quick import ids_within

            return ids_within(url, COMPLETION_TIMEOUT)
    return []


def open_local_runs(loaded: Loaded) -> RunStore:
    # Completion and `--help` do not need it.
    from clinvk.runs.folder import RunStore

    return RunStore(loaded.home)


def open_runs(loaded: Loaded, given: str | None, *, insecure: bool) -> Runs:
    """The runs that a command is about. With `--cluster`, those of that cluster; a run of this machine
    is then found by its id only. With a cluster in the configuration, those of both, and the last one is
    a run of this machine, or was submitted from it; if the cluster cannot be reached, that is said if it
    matters. Raises `ClinvkError`."""
    here = open_local_runs(loaded)
    if (url := cluster_url(given, loaded)) is None:
        return here
    where = flags_of(given, loaded, insecure=insecure)
    # Only with a cluster.
    from clinvk.cluster.log.joined import CutOffRuns, JoinedRuns
    from clinvk.cluster.log.runs import open_runs as open_cluster
    from clinvk.cluster.log.submitted import is_own

    try:
        there = until_end(open_cluster(url, loaded.home, insecure=insecure, where=where))
    except ClinvkError as error:
        if given is not None:
            raise
        return CutOffRuns(here, error, printer.Printer.for_errors().warning)
    if given is None:
        return JoinedRuns([there, here], is_own=is_own, where=where)
    return JoinedRuns([there], [here], where=where)


RunsCluster = Annotated[
    str | None,
    typer.Option(
        "--cluster", metavar="URL",
        help="Runs that were detached on a cluster: redis://HOST. none: of this machine.",
    ),
]  # fmt: skip


OneRun = Annotated[
    str,
    typer.Argument(
        metavar="ID", help="Run id, the beginning of one, or last.", autocompletion=complete_runs
    ),
]
LastRun = Annotated[
    str,
    typer.Argument(
        metavar="[ID]",
        help="Run id or the beginning of one (default: last).",
        autocompletion=complete_runs,
    ),
]
LastRunHere = Annotated[
    str,
    typer.Argument(
        metavar="[ID]",
        help="Run id or the beginning of one (default: last, the newest of this repository).",
        autocompletion=complete_runs,
    ),
]
SomeRuns = Annotated[
    list[str],
    typer.Argument(
        metavar="ID...", help="Run ids, or the beginnings of some.", autocompletion=complete_runs
    ),
]
