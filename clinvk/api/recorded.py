"""Where runs are recorded: on this machine, or in a cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from clinvk.dispatch.dispatcher import Dispatcher, own_unless
from clinvk.runs.folder import RunStore
from clinvk.runs.log import Runs

if TYPE_CHECKING:
    from pathlib import Path


def open_runs(home: Path, cluster: str | None) -> tuple[Runs, Callable[[], None]]:
    """The runs of this machine, or of the cluster at this address; and what closes them. Raises
    `ClinvkError`."""
    if cluster is None:
        return RunStore(home), lambda: None
    # Only with a cluster.
    from clinvk.cluster.log import runs

    found = runs.open_runs(cluster, home)
    return found, found.close


@contextmanager
def recorded(
    dispatcher: Dispatcher | None, cluster: str | None
) -> Iterator[tuple[Dispatcher, Runs]]:
    """A dispatcher, the given one if there is one, and the runs. Blocks, with a cluster."""
    with own_unless(dispatcher) as where:
        runs, close = open_runs(where.config.home, cluster)
        try:
            yield where, runs
        finally:
            close()
