"""The submitter's side of a cluster, with workers that the tests play."""

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import anyio
import pytest

from clinvk.cluster import app as apps
from clinvk.cluster import payload
from clinvk.cluster.address import connect_to, open_client, parse
from clinvk.cluster.files.exchange import Exchange
from clinvk.cluster.keys import AttemptId, Keys, queue_of
from clinvk.cluster.ledger.ledger import Ledger, Owner
from clinvk.cluster.payload import PROTOCOL
from clinvk.cluster.server_errors import Outage
from clinvk.cluster.submitter import feed as feeds
from clinvk.cluster.submitter import following as followings
from clinvk.cluster.submitter.executor import ClusterExecutor
from clinvk.cluster.submitter.sent import Sent
from clinvk.engine.executor import RunningRequest
from clinvk.model.events import Event, Text
from clinvk.model.plan import TaskWorktree, Worktree
from clinvk.model.request import Request
from clinvk.model.result import Result
from clinvk.model.session_ref import NewSession
from clinvk.process.threads import in_thread
from tests.conftest import wait_for
from tests.stores import RedisServer, keep

OWNER = Owner(AttemptId("r1", 0, 1), "a", "n1")


class Reports:
    """A reporter that keeps the notices."""

    def __init__(self) -> None:
        self.notices: list[str] = []

    def on_notice(self, message: str) -> None:
        self.notices.append(message)

    def on_started(self, running: RunningRequest) -> None: ...
    async def on_node(self, node: str) -> None: ...
    async def on_event(self, event: Event) -> None: ...
    def may_continue(self, result: Result) -> str | None: ...


class NoCelery:
    def send_task(self, *_: Any, **__: Any) -> None:
        """The test delivers it."""


class Heard(Reports):
    """One that keeps the texts, too."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []

    async def on_event(self, event: Event) -> None:
        if isinstance(event, Text):
            self.texts.append(event.text)


@pytest.fixture
def ledger(redis_url: str) -> Iterator[Ledger]:
    client = connect_to(parse(redis_url))
    yield Ledger(client, Keys.of("t"), lease=30, grace=30)
    client.close()


@pytest.mark.anyio
async def test_an_attempt_is_sent_once_the_server_has_room_for_it(
    own_server: RedisServer, tmp_path: Path
):
    address = parse(own_server.url)
    ledger = Ledger(keep(connect_to(address)), Keys.of(), lease=30, grace=30)
    app = keep(apps.create_app(address))
    nothing: Any = None
    executor = ClusterExecutor(ledger, ledger, app, nothing, "r1", nothing, Outage(address.place))
    request = Request(
        prompt="x", session=NewSession("s"), backend="echo", cwd=tmp_path, attempt=(0, 1)
    )
    reports, results = Reports(), []

    async def run() -> None:
        results.append(await executor.run(request, reports))

    def full() -> bool:
        return any("its memory is full, and it accepts no writes" in n for n in reports.notices)

    await in_thread(lambda: ledger.client.config_set("maxmemory", "1"))
    with anyio.fail_after(120):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run)
            await in_thread(lambda: wait_for(full, "a notice"))
            await in_thread(lambda: ledger.client.config_set("maxmemory", "0"))
            queue = queue_of("echo")
            await in_thread(lambda: wait_for(lambda: ledger.waiting(queue) == 1, "its message"))
            assert (await in_thread(lambda: ledger.claim(OWNER, PROTOCOL))).status == "run"
            done = payload.result_to_json(Result(ok=True, text="y", backend="echo", exit_code=0))
            assert await in_thread(lambda: ledger.finish(OWNER, done, None)) == "ok"
    assert [result.text for result in results] == ["y"]


@pytest.mark.anyio
async def test_a_cancelled_attempt_that_a_worker_refuses_has_ended(ledger: Ledger, tmp_path: Path):
    made: Any = NoCelery()
    nothing: Any = None
    executor = ClusterExecutor(ledger, ledger, made, nothing, "r1", nothing, Outage("here"))
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


class Counting:
    def __init__(self) -> None:
        self.sent = 0

    def send_task(self, *_: Any, **__: Any) -> None:
        self.sent += 1


def test_an_attempt_in_a_long_queue_is_sent_again_ever_more_rarely(ledger: Ledger):
    made: Any = Counting()
    nothing: Any = None
    executor = ClusterExecutor(ledger, ledger, made, nothing, "r1", nothing, Outage("here"))
    sent = Sent(OWNER.attempt, "echo", "tasks.echo")
    executor._waiting[OWNER.attempt.member] = sent, Reports()
    ledger.client.lpush(ledger.keys.waiting("tasks.echo"), "of another run")
    for times, pause in enumerate((300, 600, 1200)):
        sent.at -= pause - 60
        executor._look_after_waiting()
        assert made.sent == times
        sent.at -= 61
        executor._look_after_waiting()
        assert made.sent == times + 1
    ledger.client.delete(ledger.keys.waiting("tasks.echo"))
    sent.at -= 4
    executor._look_after_waiting()
    assert made.sent == 4, "its message is certainly lost"


@pytest.mark.anyio
async def test_a_refusal_does_not_stop_what_a_new_worker_has_taken(ledger: Ledger, tmp_path: Path):
    made: Any = NoCelery()
    nothing: Any = None
    executor = ClusterExecutor(ledger, ledger, made, nothing, "r1", nothing, Outage("here"))
    second = Owner(OWNER.attempt, "b", "n2")
    done = payload.result_to_json(Result(ok=True, text="y", backend="echo", exit_code=0))
    reports, results = Reports(), []

    async def run() -> None:
        request = Request(
            prompt="x", session=NewSession("s"), backend="echo", cwd=tmp_path, attempt=(0, 1)
        )
        results.append(await executor.run(request, reports))

    with anyio.fail_after(120):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run)
            await in_thread(
                lambda: wait_for(lambda: ledger.claim(OWNER, PROTOCOL).status == "run", "a claim")
            )
            assert ledger.refuse(OWNER, b'{"node":"n1","reason":"no space"}') == "ok"
            assert ledger.claim(second, PROTOCOL).status == "run"  # it does not count as alive yet
            await in_thread(lambda: wait_for(lambda: reports.notices != [], "the refusal", 60))
            await anyio.sleep(0.5)  # the submitter looks for other workers
            assert ledger.beat(second, 0, []).asked == ""
            assert ledger.finish(second, done, None) == "ok"
    assert [result.text for result in results] == ["y"]


@pytest.mark.anyio
async def test_a_cancelled_run_does_not_wait_for_a_server_that_is_gone(
    own_server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(followings, "CANCEL_PATIENCE", 1.0)
    address = parse(own_server.url)
    ledger = Ledger(keep(connect_to(address)), Keys.of(), lease=30, grace=30)
    news = Ledger(keep(open_client(address, None)), Keys.of())
    made: Any = NoCelery()
    nothing: Any = None
    executor = ClusterExecutor(ledger, news, made, nothing, "r1", nothing, Outage(address.place))
    reports, results, running = Reports(), [], []
    reports.on_started = running.append  # type: ignore[method-assign]

    async def run(task: int) -> None:
        request = Request(
            prompt="x",
            session=NewSession(f"s{task}"),
            backend="echo",
            cwd=tmp_path,
            attempt=(task, 1),
        )
        results.append(await executor.run(request, reports))

    with anyio.fail_after(120):  # without this, it is 300 s
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run, 0)
            await in_thread(
                lambda: wait_for(lambda: ledger.claim(OWNER, PROTOCOL).status == "run", "a claim")
            )
            assert ledger.beat(OWNER, 0, [("started", b'{"session":"s0","cwd":""}')]).status == "ok"
            await in_thread(lambda: wait_for(lambda: running != [], "its start", 60))
            async with anyio.create_task_group() as others:
                others.start_soon(run, 1)
                waiting = AttemptId("r1", 1, 1)
                await in_thread(
                    lambda: wait_for(lambda: ledger.state(waiting) == "queued", "the other", 60)
                )
                await in_thread(own_server.kill)
                running[0].cancel("enough")
                others.cancel_scope.cancel()
    assert [result.error.kind for result in results] == ["indeterminate"]
    assert any("a worker may still start it" in notice for notice in reports.notices)


@pytest.mark.anyio
async def test_tasks_that_wait_for_the_git_remote_leave_threads_to_others(
    ledger: Ledger, tmp_path: Path
):
    made: Any = NoCelery()
    nothing: Any = None
    exchange = Exchange(tmp_path, os.environ)
    executor = ClusterExecutor(ledger, ledger, made, nothing, "r1", exchange, Outage("here"))
    wanted = Worktree(remote=f"file://{tmp_path}/none.git", repository=str(tmp_path / "none"))
    late: list[bool] = []
    exchange._lock.acquire()  # as while another task is pushed
    give_up = threading.Timer(60, lambda: (late.append(True), exchange._lock.release()))
    give_up.start()
    async with anyio.create_task_group() as tasks:
        for task in range(50):  # more than there are threads
            request = Request(
                prompt="x", session=NewSession(f"s{task}"), backend="echo", cwd=tmp_path,
                attempt=(task, 1), worktree=TaskWorktree(run="r1", attempt=1, wanted=wanted),
            )  # fmt: skip
            tasks.start_soon(executor.run, request, Reports())
        await anyio.wait_all_tasks_blocked()
        await in_thread(lambda: None)  # such as one that reads the news
        tasks.cancel_scope.cancel()
        if not late:
            give_up.cancel()
            exchange._lock.release()
    assert not late


@pytest.mark.anyio
@pytest.mark.parametrize("most", [feeds.MOST_EARLY, 5_000], ids=["kept", "read again"])
async def test_a_resumed_run_gets_all_news_of_each_attempt_in_order(
    ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int
):
    """Attempts of a killed process, whose news are mixed, are joined one after the other, the last first."""
    monkeypatch.setattr(feeds, "MOST_EARLY", most)
    count, nothing, made = 60, cast("Any", None), cast("Any", NoCelery())

    def request(task: int) -> Request:
        return Request(
            prompt="x",
            session=NewSession(f"s{task}"),
            backend="echo",
            cwd=tmp_path,
            attempt=(task, 1),
        )

    owners = [Owner(AttemptId("r1", task, 1), f"t{task}", "n1") for task in range(count)]
    for owner in owners:
        data = payload.request_to_json(request(owner.attempt.task))
        ledger.submit(owner.attempt, data, PROTOCOL, "1")
        ledger.claim(owner, PROTOCOL)
    for number in range(5):
        for owner in owners:
            text = Text(text=f"{owner.attempt.task} {number} {'x' * 100}")
            ledger.beat(owner, number, [("event", payload.event_to_json(text))])
    for owner in owners:
        answer = str(owner.attempt.task)
        done = Result(ok=True, text=answer, backend="echo", exit_code=0)
        ledger.finish(owner, payload.result_to_json(done), None)
    executor = ClusterExecutor(ledger, ledger, made, nothing, "r1", nothing, Outage("here"))
    executor.forget(1)  # it was recorded
    before = ledger.client.info("commandstats").get("cmdstat_xrange", {"calls": 0})["calls"]
    with anyio.fail_after(120):
        for task in reversed(range(2, count)):
            reports = Heard()
            result = await executor.run(request(task), reports)
            assert result.text == str(task)
            assert [text.split()[:2] for text in reports.texts] == [
                [str(task), str(n)] for n in range(5)
            ]
            executor.forget(task)
        await executor.close()
    calls = ledger.client.info("commandstats").get("cmdstat_xrange", {"calls": 0})["calls"] - before
    assert (calls > 0) is (most < 10_000)
    left = {news.member for news in ledger.read_news("r1", "0", wait=0.001)}
    assert left == {"0.1"}, "nobody has asked for it"
