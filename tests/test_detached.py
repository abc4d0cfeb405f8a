"""Detached runs: recorded in Redis, driven by any process, followed and cancelled from any other."""

import os
import signal
from contextlib import aclosing
from datetime import timedelta
from typing import Any

import anyio
import pytest
from msgspec.structs import replace

import clinvk as api
from clinvk.api.tasks import plan_of
from clinvk.cluster.drive import drive, submit
from clinvk.cluster.log import runs as records
from clinvk.cluster.log import sinks
from clinvk.cluster.log.run import RedisRun, plan_data
from clinvk.cluster.log.runs import RedisRuns
from clinvk.cluster.log.sinks import MAX_LINE, MAX_TEXT, shorten_line
from clinvk.disk.jsonl import decode_line, encode
from clinvk.engine.run_context import local_context
from clinvk.errors import SessionError, UsageError
from clinvk.model.outcome import Outcome
from clinvk.model.plan import Worktree
from clinvk.runs.follow import RunFollower
from clinvk.runs.journal import Journal
from clinvk.runs.log import RunNotFound
from tests.conftest import Home, wait_for
from tests.desk import Desk, desk, ends, kill
from tests.run_logs import open_redis, start_driver
from tests.stores import RedisServer, keep

__all__ = ["desk"]


@pytest.fixture
def runs(home: Home, redis_url: str) -> RedisRuns:
    return keep(open_redis(redis_url, home.path, detached=True))


def submitted(desk: Desk, runs: RedisRuns, *tasks: Any, **rules: Any) -> RedisRun:
    dispatcher = desk.dispatcher()
    rules = {"max_parallel": 1, "workdir": desk.home.work, **rules}
    plan = plan_of(list(tasks), "parallel", dispatcher, rules)
    return submit(local_context(dispatcher), plan, runs)


def started(desk: Desk, url: str, run: RedisRun) -> Any:
    desk.drivers.append(driver := start_driver(desk.home, url, run.id))
    return driver


def states(run: RedisRun) -> list[str]:
    return [o.state for o in run.result().results]


def same(data: Any) -> Any:
    return data


# Submitting


def test_a_run_that_was_submitted_is_queued_until_a_process_drives_it(
    desk: Desk, runs: RedisRuns, redis_url: str
):
    run = submitted(desk, runs, "a", "b")
    assert (run.result().state, states(run)) == ("queued", ["queued", "queued"])
    assert (run.summary()["state"], run.summary()["counts"]) == ("queued", {"queued": 2})
    follower = RunFollower(run)
    assert follower.poll() == []
    assert not follower.ended
    assert ends(started(desk, redis_url, run), 60)[:2] == (0, "done\n")
    assert [c.kind for c in follower.changes() if c.kind == "ended"] == ["ended", "ended"]
    assert run.summary()["state"] == "done"
    assert ends(started(desk, redis_url, run), 60)[:2] == (0, "done\n")
    assert desk.starts() == ["a", "b"]


def test_many_tasks_are_submitted_with_few_commands(
    desk: Desk, runs: RedisRuns, redis_server: RedisServer
):
    def commands() -> int:
        with runs.server.errors():
            return int(runs.server.client.info("stats")["total_commands_processed"])

    before = commands()
    run = submitted(desk, runs, *(f"task {i}" for i in range(10_000)))
    assert commands() - before <= 10
    assert run.summary()["total_tasks"] == 10_000
    assert len(run.plan().tasks) == 10_000


@pytest.mark.parametrize(
    ("tasks", "rules", "said"),
    [
        (["x"], {"ephemeral": True}, "ephemeral"),
        (["x"], {"output_dir": "out"}, "--output-dir"),
        ([{"prompt": "x", "worktree": True}], {}, "worktree"),
        (["use sk-ant-api03-abcdefghijklmnopqrstuvwxyz0123456789"], {}, "secret"),
    ],
)
def test_what_a_detached_run_cannot_do_is_refused_before_anything_is_recorded(
    desk: Desk, runs: RedisRuns, tasks: list[Any], rules: dict[str, Any], said: str
):
    with pytest.raises(UsageError) as caught:
        submitted(desk, runs, *tasks, **rules)
    assert said in f"{caught.value.message} {caught.value.hint}"
    assert runs.ids() == []


def test_a_plan_that_is_too_large_is_refused(
    desk: Desk, runs: RedisRuns, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(records, "MAX_PLAN", 1000)
    with pytest.raises(UsageError, match="too large for the cluster"):
        submitted(desk, runs, "x" * 2000)


def test_a_long_event_is_stored_with_shorter_texts():
    line = encode({"type": "result", "content": "x" * MAX_LINE, "ok": True})
    short = decode_line(shorten_line(line))
    assert short is not None
    assert short["ok"] is True
    assert short["content"].startswith("x" * MAX_TEXT + "… [")
    assert shorten_line(b'{"type":"text"}') == b'{"type":"text"}'


def test_of_too_many_events_only_results_are_stored(
    desk: Desk, runs: RedisRuns, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(sinks, "MAX_EVENTS", 100)
    run = submitted(desk, runs, "a")
    with run.lock():
        events = run.open_events(0)
        for _ in range(20):
            events.append([b'{"type":"text","text":"0123456789"}\n'])
        events.append([b'{"type":"result","content":"the end"}\n'])
    found = [e["type"] for e in run.events(0)]
    assert found == [*["text"] * (len(found) - 1), "result"]
    assert 2 <= len(found) <= 5
    assert run.answer(0)["content"] == "the end"


# Drivers that die


def test_a_run_whose_driver_was_killed_is_due_and_another_process_takes_it_over(
    desk: Desk, runs: RedisRuns, redis_url: str
):
    run = submitted(desk, runs, "a", {"prompt": "hold b", "idempotent": True}, "c")
    driver = started(desk, redis_url, run)
    desk.wait_for("hold b")
    assert runs.take_due() == []
    follower = RunFollower(run)
    seen = follower.poll()
    kill(driver)
    os.kill(desk.pid("hold"), signal.SIGKILL)  # as a worker ends what it runs
    assert wait_for(runs.take_due, "the end of the lease", 60) == [run.id]
    assert runs.take_due() == []  # not to be sent twice at once
    seen += follower.poll()
    assert not follower.ended
    assert run.result().state == "running"
    desk.let_go()
    assert ends(started(desk, redis_url, run), 60)[:2] == (0, "done\n")
    seen += follower.changes()
    assert [c.outcome.name for c in seen if c.kind == "ended" and c.outcome] == ["1", "2", "3"]
    assert desk.starts() == ["a", "hold b", "hold b", "c"]
    assert run.result().results[1].attempts == 2
    assert runs.take_due() == []


def test_a_run_that_nobody_takes_is_due_until_that_has_failed_too_often(
    desk: Desk, runs: RedisRuns, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(records, "FIRST_DRIVER", 0.0)
    run = submitted(desk, runs, "a")
    for _ in range(3):
        assert wait_for(lambda: runs.take_due(wait=0.0, restarts=3), "its turn") == [run.id]
    wait_for(lambda: not runs.take_due(wait=0.0, restarts=3) and run.is_idle(), "the end of that")
    assert run.summary()["state"] == "interrupted"


def test_a_driver_that_was_replaced_writes_nothing(desk: Desk, runs: RedisRuns):
    run = submitted(desk, runs, "a", "b")
    lost = []
    run.on_lost = lambda: lost.append(1)
    first = run.lock()
    events = run.open_events(0)

    async def write() -> None:
        with Journal(run, same) as journal:
            journal.record_begin(run.plan(), rerun=[])
            # It slept for longer than its lease, and another process has taken its place.
            driver = runs.server.keys.driver(run.id)
            runs.server.client.hset(driver, mapping={"token": "other", "until": 10**14})
            with pytest.raises(SessionError, match="another process"):
                await journal.record_started(0, 1, backend="fake", session="s")
            with pytest.raises(SessionError, match="another process"):
                journal.append("end", state="done", counts={})
            with pytest.raises(SessionError, match="another process"):
                await events.write([b'{"type":"text"}\n'])

    anyio.run(write)
    first.close()
    assert run.find_driver() is not None
    assert [line["event"] for line in run.read_journal()] == ["begin"]
    assert run.events(0) == []
    assert lost


def test_a_driver_that_slept_continues_if_no_other_took_its_place(desk: Desk, runs: RedisRuns):
    run = submitted(desk, runs, "a")
    driver = runs.server.keys.driver(run.id)

    async def write() -> None:
        with Journal(run, same) as journal:
            runs.server.client.hset(driver, "until", 1)
            await journal.record_ended(Outcome(index=0, name="", state="done", attempts=1))

    with run.lock():
        anyio.run(write)
        wait_for(lambda: run.find_driver() is not None, "the renewal of the lease", 60)
    assert states(run) == ["done"]


def test_a_call_that_is_repeated_since_its_answer_was_lost_is_heeded_once(
    desk: Desk, runs: RedisRuns
):
    run = submitted(desk, runs, "a")
    with run.lock():
        journal, events = run.open_journal(), run.open_events(0)
        for sink in (journal, events):
            real = sink._server.run

            def twice(*args: Any, real: Any = real) -> Any:
                real(*args)
                return real(*args)

            sink._server.run = twice  # type: ignore[method-assign]
        journal.commit([b'{"version":1,"at":"2026-01-01T00:00:00Z","event":"begin"}\n'])
        events.append([b'{"type":"text","text":"x"}\n', b'{"type":"result","content":"y"}\n'])
        del runs.server.run  # type: ignore[method-assign]
    assert len(run.read_journal()) == 1
    assert [e["type"] for e in run.events(0)] == ["text", "result"]


def test_the_events_of_an_attempt_that_goes_on_are_dropped_before_it_is_joined(
    desk: Desk, runs: RedisRuns
):
    run = submitted(desk, runs, "a", "b")
    with run.lock():
        first, second = run.open_events(0), run.open_events(1)
        first.append([b'{"type":"text","text":"1"}\n', b'{"type":"result","content":"one"}\n'])
        second.append([b'{"type":"text","text":"2"}\n'])
        first.append([b'{"type":"text","text":"3"}\n'])
        for index in (0, 1):
            run.drop_unfinished_events(index)
        assert [e["type"] for e in run.events(0)] == ["text", "result"]
        assert run.events(1) == []
        run.open_events(1).append([b'{"type":"result","content":"two"}\n'])
    assert [run.answer(i)["content"] for i in (0, 1)] == ["one", "two"]
    assert [e["type"] for e in run.events(1)] == ["result"]


def test_a_server_that_is_restarted_loses_nothing_of_a_run(desk: Desk, own_server: RedisServer):
    runs = keep(open_redis(own_server.url, desk.home.path, detached=True))
    run = submitted(desk, runs, "a", "hold b", "c")
    driver = started(desk, own_server.url, run)
    desk.wait_for("hold b")
    own_server.kill()
    desk.let_go()
    own_server.start()
    assert ends(driver, 60)[:2] == (0, "done\n")
    assert states(run) == ["done", "done", "done"]
    assert desk.starts() == ["a", "hold b", "c"]


# Cancelling


def test_a_queued_run_is_cancelled_and_no_process_starts_it(
    desk: Desk, runs: RedisRuns, redis_url: str
):
    run = submitted(desk, runs, "a", "b")
    result = api.cancel_run(run.id, cluster=redis_url, dispatcher=desk.dispatcher())
    assert (result.state, result.counts) == ("cancelled", {"cancelled": 2})
    assert runs.take_due() == []
    assert anyio.run(drive, local_context(desk.dispatcher()), run) is None
    assert desk.starts() == []
    with pytest.raises(UsageError, match="has ended already: cancelled"):
        api.cancel_run(run.id, cluster=redis_url, dispatcher=desk.dispatcher())


@pytest.mark.anyio
async def test_a_running_run_is_followed_and_cancelled_from_an_event_loop(
    desk: Desk, runs: RedisRuns, redis_url: str
):
    run = submitted(desk, runs, "a", "hold b", "c")
    driver = started(desk, redis_url, run)
    desk.wait_for("hold b")
    dispatcher = desk.dispatcher()
    kinds = []
    async with aclosing(api.afollow_run(run.id, cluster=redis_url, dispatcher=dispatcher)) as seen:
        async for change in seen:
            kinds.append((change.kind, change.outcome.name if change.outcome else None))
            if change.kind == "started" and kinds[-1][1] == "2":
                result = await api.acancel_run(run.id, cluster=redis_url, dispatcher=dispatcher)
                assert result.state == "cancelled"
    assert [k for k in kinds if k[0] != "event"] == [
        ("started", "1"), ("ended", "1"), ("started", "2"), ("ended", "2"), ("ended", "3"),
    ]  # fmt: skip
    assert ends(driver, 60)[1] == "cancelled\n"
    assert states(run) == ["done", "cancelled", "cancelled"]


# Deleting


def test_ids_and_names_that_mean_another_place_are_not_believed(
    desk: Desk, runs: RedisRuns, redis_url: str
):
    run = submitted(desk, runs, "a")
    client, log = runs.server.client, runs.server.keys.run_log
    runs.server.client.zadd(runs.server.keys.runs(), {"../../work": 10**14})
    client.hset(log("../../work"), mapping=client.hgetall(log(run.id)))  # type: ignore[arg-type]
    assert runs.ids() == [run.id]
    with pytest.raises(RunNotFound):
        runs.at("../../work")
    plan = run.plan()
    worktree = Worktree(slug="t", directory="../t", commit="0" * 40)
    forged = replace(plan, tasks=(replace(plan.tasks[0], worktree=worktree),))
    client.hset(log(run.id), "plan", plan_data(forged))
    with pytest.raises(SessionError, match="damaged"):
        run.plan()


def test_old_runs_of_a_cluster_are_deleted_completely(desk: Desk, runs: RedisRuns, redis_url: str):
    run, queued = submitted(desk, runs, "a"), submitted(desk, runs, "b")
    assert ends(started(desk, redis_url, run), 60)[:2] == (0, "done\n")
    dispatcher = desk.dispatcher()
    gone = api.clean_runs(timedelta(0), cluster=redis_url, dispatcher=dispatcher, dry_run=True)
    assert gone == [run.id]
    assert api.clean_runs(timedelta(0), cluster=redis_url, dispatcher=dispatcher) == [run.id]
    assert runs.ids() == [queued.id]
    with pytest.raises(SessionError, match="is running"):
        api.delete_run(queued.id, cluster=redis_url, dispatcher=dispatcher)
    api.cancel_run(queued.id, cluster=redis_url, dispatcher=dispatcher)
    assert api.delete_run(queued.id, cluster=redis_url, dispatcher=dispatcher) == queued.id
    assert runs.server.client.keys("clinvk:*") == [runs.server.keys.identity.encode()]
