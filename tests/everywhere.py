"""Tests of runs that pass on this machine and on a cluster alike: `@everywhere`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from tests.needs import need
from tests.stores import RedisServer

if TYPE_CHECKING:
    from tests.shared_cluster import SharedCluster

# Runs a test twice: its commands find the cluster in the environment, and Python in `home.cluster`.
everywhere = pytest.mark.parametrize("runs_on", ["here", "cluster"], indirect=True)


@pytest.fixture(scope="session")
def shared_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SharedCluster]:
    # It imports conftest, which imports this module.
    from tests.shared_cluster import SharedCluster

    need("redis-server")
    folder = tmp_path_factory.mktemp("cluster")
    (folder / "redis").mkdir()
    server = RedisServer(folder / "redis")
    server.start()
    made = SharedCluster(folder, tmp_path_factory.getbasetemp(), server)
    yield made
    made.close()
    server.kill()


@pytest.fixture
def runs_on(request: pytest.FixtureRequest) -> SharedCluster | None:
    """Where the tasks of a test run: on this machine, unless it is `everywhere`."""
    if getattr(request, "param", "here") == "here":
        return None
    found: SharedCluster = request.getfixturevalue("shared_cluster")
    return found
