"""Where the tasks of a run are run: on this machine, or on the workers of a cluster."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from clinvk.config.extras import require_extra
from clinvk.dispatch.dispatcher import Dispatcher, own_unless
from clinvk.engine.run_context import RunContext, local_context
from clinvk.process.threads import in_thread


@asynccontextmanager
async def placed(
    dispatcher: Dispatcher | None, cluster: str | None
) -> AsyncIterator[tuple[Dispatcher, RunContext]]:
    """A dispatcher, the given one if the tasks run here, and what their run needs. `cluster` is the
    address of the cluster whose workers run them. Raises `ClinvkError`."""
    with own_unless(dispatcher) as where:
        if cluster is None:
            yield where, local_context(where)
            return
        with require_extra("cluster", "a cluster"):
            # Slow, and extras.
            import celery  # noqa: F401
            import redis  # noqa: F401

        # Only with a cluster.
        from clinvk.cluster.address import parse
        from clinvk.cluster.context import Cluster, cluster_context, with_cluster_store

        address = parse(cluster)
        with with_cluster_store(where, address) as there:
            opened = await in_thread(lambda: Cluster(there, address))
            with opened:
                yield there, cluster_context(there, opened)
