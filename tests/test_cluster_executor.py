"""The submitter's side of a cluster, with workers that the tests play."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from clinvk.cluster.address import connect_to, parse
from clinvk.cluster.executor import ClusterExecutor
from clinvk.cluster.keys import AttemptId, Keys
from clinvk.cluster.ledger.ledger import Ledger, Owner
from clinvk.cluster.payload import PROTOCOL
from clinvk.engine.executor import RunningRequest
from clinvk.model.events import Event
from clinvk.model.request import Request
from clinvk.model.result import Result
from clinvk.model.session_ref import NewSession
from clinvk.process.threads import in_thread
from tests.conftest import wait_for

OWNER = Owner(AttemptId("r1", 0, 1), "a", "n1")


class Reports:
    """A reporter that nobody reads."""

    def on_notice(self, message: str) -> None: ...
    def on_started(self, running: RunningRequest) -> None: ...
    async def on_node(self, node: str) -> None: ...
    async def on_event(self, event: Event) -> None: ...
    def may_continue(self, result: Result) -> str | None: ...


class NoCelery:
    def send_task(self, *_: Any, **__: Any) -> None:
        """The test delivers it."""


@pytest.fixture
def ledger(redis_url: str) -> Iterator[Ledger]:
    client = connect_to(parse(redis_url))
    yield Ledger(client, Keys.of("t"), lease=30, grace=30)
    client.close()


@pytest.mark.anyio
async def test_a_cancelled_attempt_that_a_worker_refuses_has_ended(ledger: Ledger, tmp_path: Path):
    made: Any = NoCelery()
    nothing: Any = None
    executor = ClusterExecutor(ledger, ledger, made, nothing, "r1", nothing)
    request = Request(
        prompt="x", session=NewSession("s"), backend="echo", cwd=tmp_path, attempt=(0, 1)
    )
    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(executor.run, request, Reports())
            await in_thread(
                lambda: wait_for(lambda: ledger.claim(OWNER, PROTOCOL).status == "run", "a claim")
            )
            await anyio.sleep(0.5)  # the submitter knows it
            tasks.cancel_scope.cancel()
            with anyio.CancelScope(shield=True):
                key = ledger.keys.attempt(OWNER.attempt)
                await in_thread(lambda: wait_for(lambda: ledger.client.hget(key, "cancel"), "it"))
                assert ledger.refuse(OWNER, b'{"node":"n1","reason":"no space"}') == "ok"
    assert ledger.state(OWNER.attempt) == "withdrawn"
