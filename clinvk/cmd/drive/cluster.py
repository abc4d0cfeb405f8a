"""`--cluster`: where tasks run, from the command line, the environment or the configuration."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated

import typer
from msgspec.structs import replace

from clinvk.cmd.options.holding import until_end
from clinvk.config import loading
from clinvk.config.extras import require_extra
from clinvk.errors import ClinvkError, ConfigError, UsageError

if TYPE_CHECKING:
    from clinvk.cluster.address import Address
    from clinvk.config.schema import Loaded
    from clinvk.dispatch.dispatcher import Dispatcher
    from clinvk.engine.run_context import RunContext
    from clinvk.model.outcome import Outcome
    from clinvk.model.plan import Plan
    from clinvk.runs.control import StopElsewhere
    from clinvk.runs.log import RunLog

URL_VARIABLE = "CLINVK_CLUSTER_URL"
FLAG, INSECURE = " --cluster URL", " --insecure"
HERE = "none"  # in place of an address: on this machine, whatever the configuration says
MAX_PARALLEL = (
    100  # tasks that are sent to a cluster at a time, unless something else was asked for
)

ClusterUrl = Annotated[
    str | None,
    typer.Option(
        "--cluster", metavar="URL", help="Run the tasks on the workers of a cluster: redis://HOST."
    ),
]
# Of `clinvk worker` and `clinvk workers`.
ClusterAddress = Annotated[
    str | None,
    typer.Option(
        "--cluster", metavar="URL",
        help="Address of the cluster, redis://HOST (default: cluster.url of the configuration).",
    ),
]  # fmt: skip
Insecure = Annotated[
    bool,
    typer.Option("--insecure", help="Allow a cluster on another machine without a password."),
]


def cluster_url(given: str | None, loaded: Loaded) -> str | None:
    """The address of the cluster to use; None: none. Raises `UsageError`."""
    if given == HERE:
        return None
    if given is not None and not given.strip():
        raise UsageError(
            "--cluster is empty", "pass redis://HOST:6379/0, or none to run on this machine"
        )
    return given or os.environ.get(URL_VARIABLE) or loaded.config.cluster.url or None


def find_address(given: str | None, loaded: Loaded, *, insecure: bool) -> Address:
    """The address of the cluster. Raises `UsageError` without one, `ConfigError` for an invalid
    one."""
    if given == HERE:
        raise UsageError(
            "this needs a cluster, and --cluster none means none",
            "pass --cluster redis://HOST:6379/0; or leave it out, to use that of the configuration",
        )
    url = cluster_url(given, loaded)
    if url is None:
        raise UsageError(
            "the address of the cluster is missing",
            "pass --cluster redis://HOST:6379/0, or set it: clinvk config set cluster.url URL",
        )
    # Only with a cluster.
    from clinvk.cluster.address import parse

    return parse(url, insecure=insecure)


def wants_worktree(loaded: Loaded, given: str | None, *about_worktrees: object) -> bool:
    """Whether flags about worktrees ask for some, without --worktree: the files of tasks that come by git
    are in worktrees."""
    comes_by_git = bool(loaded.config.cluster.git) and cluster_url(given, loaded) is not None
    return comes_by_git and any(value not in (None, False) for value in about_worktrees)


def adapt(loaded: Loaded, given: str | None) -> Loaded:
    """The configuration for where the tasks run: a cluster has room for more of them."""
    key = "parallel.max_workers"
    if cluster_url(given, loaded) is None or loaded.origin(key) != "default":
        return loaded
    parallel = replace(loaded.config.parallel, max_workers=MAX_PARALLEL)
    return replace(loaded, config=replace(loaded.config, parallel=parallel))


def open_place(
    loaded: Loaded, given: str | None, *, insecure: bool
) -> tuple[Dispatcher, RunContext]:
    """Where the tasks of a new run are run. Raises `ClinvkError`."""
    if cluster_url(given, loaded) is None:
        return _here(loaded, is_chosen=given == HERE)
    return _on_cluster(loaded, find_address(given, loaded, insecure=insecure), insecure=insecure)


def open_place_of(
    loaded: Loaded, begun_on: str | None, given: str | None, *, insecure: bool
) -> tuple[Dispatcher, RunContext]:
    """Where the tasks of an existing run are run: where it was begun (on the cluster of this address,
    without its password), unless the command line says something else. Raises `ClinvkError`."""
    if given is not None:
        return open_place(loaded, given, insecure=insecure)
    if begun_on is None:
        return _here(loaded, is_chosen=True)
    known = cluster_url(None, loaded)
    if known is not None and _recorded_address(known) == begun_on:
        return open_place(loaded, known, insecure=insecure)
    if "…" in begun_on:
        raise UsageError(
            f"the run is on the cluster {begun_on}, and its password is not known here",
            "pass --cluster URL, or set it: clinvk config set cluster.url URL",
        )
    return open_place(loaded, begun_on, insecure=insecure)


def open_place_of_run(
    loaded: Loaded, run: RunLog, given: str | None, *, insecure: bool
) -> tuple[Dispatcher, RunContext]:
    """The same, of a run that may be recorded in the cluster: then it is run at the address where it
    was found, however its submitter wrote that. Raises `ClinvkError`."""
    begun_on = run.plan().cluster
    if begun_on is not None and is_recorded_there(run):
        return open_place(loaded, given, insecure=insecure)
    return open_place_of(loaded, begun_on, given, insecure=insecure)


def flags_for_cluster(run: RunLog | None, plan: Plan) -> str | None:
    """What a command needs to find the cluster of a run again, to be shown; None if the run is on this
    machine. A password is not recorded, so it has to be passed again."""
    if run is None or plan.cluster is None:
        return None
    if is_recorded_there(run):
        return run.where
    known = None
    with suppress(ClinvkError):  # a broken one that this command does not use
        known = cluster_url(None, loading.load(os.environ))
    if "…" in plan.cluster:
        return FLAG if _recorded_address(known or "") != plan.cluster else ""
    return INSECURE if _needs_consent(plan.cluster) else ""


def flags_of(given: str | None, loaded: Loaded, *, insecure: bool) -> str:
    """What a command needs to find the cluster of this command, to be shown: not what is configured."""
    is_known = given in (None, HERE) or given == cluster_url(None, loaded)
    flags = "" if is_known else FLAG
    return flags + INSECURE * insecure


def _needs_consent(url: str) -> bool:
    """Whether the address is one that only `--insecure` allows."""
    # Only with a cluster.
    from clinvk.cluster.address import parse

    try:
        parse(url)
    except ConfigError:
        return True
    return False


def is_recorded_there(run: RunLog) -> bool:
    """Whether a run of a cluster is recorded there."""
    # Only with a cluster.
    from clinvk.cluster.log.run import RedisRun

    return isinstance(run, RedisRun)


def _recorded_address(url: str) -> str | None:
    """The address as a run records it; None if it is invalid."""
    # Only with a cluster.
    from clinvk.cluster.address import parse

    with suppress(ConfigError):
        return parse(url, insecure=True).shown
    return None


def stopper(
    loaded: Loaded, given: str | None, run: str, *, insecure: bool, now: bool
) -> StopElsewhere | None:
    """Stops what a run has left running on the workers; None if the user wants it to be left."""
    if given == HERE:
        return None

    def stop(plan: Plan, outcomes: Sequence[Outcome]) -> str | None:
        if plan.cluster is None:
            return None
        # Only with a cluster.
        from clinvk.cluster.left import find_address, stop_left

        known = cluster_url(None, loaded)
        address = find_address(plan.cluster, given, known, insecure=insecure)
        return stop_left(address, run, outcomes, now=now)

    return stop


def why_waiting(
    loaded: Loaded, given: str | None, plan: Plan, outcomes: Sequence[Outcome], *, insecure: bool
) -> dict[int, str]:
    """Why tasks of a run that goes on wait for a worker, by their position; empty if it is not on a
    cluster, or if that cannot be reached."""
    if plan.cluster is None:
        return {}
    url = cluster_url(given, loaded)
    if url is None or (given is None and _recorded_address(url) != plan.cluster):
        url = plan.cluster  # without its password
    # Only with a cluster.
    from clinvk.cluster.address import parse
    from clinvk.cluster.waiting import read_reasons

    with suppress(ClinvkError):
        address = parse(url, insecure=insecure)
        return read_reasons(address, plan, outcomes, loaded.config.default_backend)
    return {}


def _here(loaded: Loaded, *, is_chosen: bool) -> tuple[Dispatcher, RunContext]:
    # Only once the flags are valid: it is a third of the start.
    from clinvk.dispatch.dispatcher import Dispatcher
    from clinvk.engine.run_context import local_context

    dispatcher = until_end(Dispatcher(loaded))
    return dispatcher, replace(local_context(dispatcher), is_chosen=is_chosen)


def _on_cluster(
    loaded: Loaded, address: Address, *, insecure: bool
) -> tuple[Dispatcher, RunContext]:
    # Only with a cluster.
    from clinvk.dispatch.dispatcher import Dispatcher

    with require_extra("cluster", "a cluster"):
        # Slow, and extras.
        import celery  # noqa: F401
        import redis  # noqa: F401

    # Only with a cluster.
    from clinvk.cluster.context import Cluster, cluster_context, with_cluster_store

    dispatcher = until_end(with_cluster_store(Dispatcher(loaded), address))
    cluster = until_end(Cluster(dispatcher, address))
    for warning in cluster.check(insecure=insecure):
        print(f"clinvk: {warning}", file=sys.stderr)
    return dispatcher, cluster_context(dispatcher, cluster)
