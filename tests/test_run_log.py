"""The records of a run, in a directory and in Redis: the same rules for both."""

import json
import os
import signal
import subprocess
from typing import Any

import anyio
import pytest

from clinvk.api.tasks import plan_of
from clinvk.engine.driven_run import DrivenRun
from clinvk.engine.run_context import local_context
from clinvk.errors import SessionError, UsageError
from clinvk.model.events import Delta, Text, Tool
from clinvk.model.outcome import Outcome
from clinvk.model.plan import Plan, Task, with_keys
from clinvk.model.progress import Change
from clinvk.model.result import Failure, Result
from clinvk.model.usage import Usage
from clinvk.runs import control, retention
from clinvk.runs.checkpoints import Checkpoints
from clinvk.runs.event_log import EventLog
from clinvk.runs.follow import NOW, RunFollower
from clinvk.runs.journal import Journal
from clinvk.runs.log import RunLog, RunNotFound, Runs
from tests.conftest import Home, wait_for
from tests.desk import Desk, desk, ends, kill
from tests.run_logs import KINDS, address_of, drive_here, open_at, start_driver

__all__ = ["desk"]

PLAN = with_keys(Plan(kind="parallel", tasks=tuple(Task(name=n, prompt=n) for n in "abcd"), source="t.yaml"))  # fmt: skip


@pytest.fixture(params=KINDS)
def address(request: pytest.FixtureRequest, home: Home) -> str:
    return address_of(request.param, home, request)


@pytest.fixture
def runs(address: str, home: Home) -> Runs:
    return open_at(address, home.path)


def same(data: Any) -> Any:
    return data


def result(text: str, **more: Any) -> Result:
    return Result(ok=True, text=text, backend="fake", exit_code=0, **more)


async def write_attempt(
    journal: Journal, index: int, answer: str, number: int = 1, **more: Any
) -> None:
    await journal.record_started(index, number, backend="fake", session=f"s{index}")
    with EventLog(journal.folder.open_events(index), journal.scrub) as log:
        await log.add(Tool(id="1", name="Read", input={"path": "x"}))
        await log.add(Delta(text=answer))
        await log.end(result(answer, session_id=f"s{index}"))
        outcome = Outcome(index=index, name="", state="done", attempts=number, **more)
        await journal.record_ended(outcome, log.detach())


def write_some(run: RunLog) -> None:
    """Task a is done, b has failed, c is cut off, and d has not begun."""

    async def write() -> None:
        with Journal(run, same) as journal:
            journal.record_begin(PLAN, rerun=[])
            await write_attempt(journal, 0, "answer a", usage=Usage(input=3, output=4), cost=0.5)
            await journal.record_started(1, 1, backend="fake", session="s1")
            failure = Failure("server", "no", "later")
            await journal.record_ended(
                Outcome(index=1, name="", state="failed", error=failure, attempts=1)
            )
            await journal.record_started(2, 1, backend="fake", session="s2")
            with EventLog(run.open_events(2), same) as log:
                await log.add(Tool(id="1", name="Write", input={}))

    with run.lock():
        anyio.run(write)


# What is stored


def test_a_new_run_has_its_plan_and_has_not_begun(runs: Runs):
    run = runs.create(PLAN)
    assert run.plan() == PLAN
    assert run.plan(trusted=True) == PLAN
    assert run.result().counts == {"queued": 4}
    assert run.read_journal() == []
    assert run.is_idle()
    about = run.summary()
    assert (about["id"], about["kind"], about["total_tasks"]) == (run.id, "parallel", 4)


def test_what_was_written_is_read(runs: Runs):
    run = runs.create(PLAN)
    write_some(run)
    found = run.result()
    assert [o.state for o in found.results] == ["done", "failed", "indeterminate", "queued"]
    assert (found.state, found.usage.total, found.cost) == ("interrupted", 7, 0.5)
    assert [o.output for o in run.with_outputs(found).results] == ["answer a", "", "", ""]
    assert run.with_output(found.results[0]).output == "answer a"
    assert [e["type"] for e in run.events(0)] == ["tool", "text", "result"]
    assert [e["type"] for e in run.events(2)] == ["tool"]
    assert run.events(3) == []
    assert run.answer(0)["content"] == "answer a"
    assert run.answer(2) == {}
    assert [line["event"] for line in run.read_journal()] == ["begin", "started", "ended", "started", "ended", "started"]  # fmt: skip


def test_the_result_of_an_attempt_that_was_cut_off_is_not_that_of_an_earlier_one(runs: Runs):
    run = runs.create(PLAN)

    async def write() -> None:
        with Journal(run, same) as journal:
            journal.record_begin(PLAN, rerun=[])
            await write_attempt(journal, 0, "first")
            journal.record_begin(PLAN, rerun=[0])
            await journal.record_started(0, 2, backend="fake", session="s0")

    with run.lock():
        anyio.run(write)
    (outcome, *_) = run.result().results
    assert (outcome.state, outcome.attempts) == ("indeterminate", 2)
    assert run.result_of(outcome, alone=False) is None
    assert (run.result_of(outcome, alone=True) or {})["content"] == "first"


def test_a_turn_whose_check_was_running_is_found(runs: Runs):
    run = runs.create(PLAN)

    async def write() -> None:
        with Journal(run, same) as journal:
            journal.record_begin(PLAN, rerun=[])
            await journal.record_started(0, 1, backend="fake", session="s0")
            with EventLog(run.open_events(0), same) as log:
                events = await log.add_turn(result("the work"))
                await journal.record_turn(0, 1, result("the work"), events, changed=True)

    with run.lock():
        anyio.run(write)
    assert run.last_turn(0)["content"] == "the work"
    assert run.last_turn(1) == {}
    progress = run.result().results[0].check_progress
    assert progress is not None
    assert progress.round == 1


def test_secrets_are_not_stored(runs: Runs):
    def scrub(data: Any) -> Any:
        return json.loads(json.dumps(data).replace("hunter2", "[redacted]"))

    run = runs.create(PLAN)

    async def write() -> None:
        with Journal(run, scrub) as journal:
            journal.record_begin(PLAN, rerun=[])
            with EventLog(run.open_events(0), scrub) as log:
                for piece in ("it is hun", "ter", "2"):
                    await log.add(Delta(text=piece))
                await log.add(Text(text="again hunter2"))
                await log.end(result("hunter2"))
            failure = Failure("backend", "hunter2 is wrong")
            await journal.record_ended(Outcome(index=0, name="", state="failed", error=failure))

    with run.lock():
        anyio.run(write)
    stored = json.dumps([run.read_journal(), run.events(0)])
    assert "hunter2" not in stored
    assert "[redacted]" in stored


def test_many_that_write_at_once_are_all_stored_in_order(runs: Runs):
    plan = with_keys(Plan(kind="parallel", tasks=tuple(Task(name=str(i), prompt="p") for i in range(100))))  # fmt: skip
    run = runs.create(plan)

    async def write() -> None:
        with Journal(run, same) as journal:
            journal.record_begin(plan, rerun=[])
            async with anyio.create_task_group() as tasks:
                for i in range(100):
                    tasks.start_soon(write_attempt, journal, i, f"answer {i}")

    with run.lock():
        anyio.run(write)
    found = run.with_outputs(run.result())
    assert [o.output for o in found.results] == [f"answer {i}" for i in range(100)]
    lines = run.read_journal()
    for i in range(100):
        assert [line["event"] for line in lines if line.get("task") == i] == ["started", "ended"]


def test_a_run_that_has_ended_says_so_in_its_summary(runs: Runs):
    run = runs.create(PLAN)
    write_some(run)
    anyio.run(control.abandon_run, run)
    about = run.summary()
    assert (about["state"], about["total_tasks"]) == ("cancelled", 4)
    assert about["counts"] == {"done": 1, "failed": 1, "cancelled": 1, "indeterminate": 1}
    assert about["counts"] == run.result().counts


# Finding and deleting


def test_a_run_is_found_by_its_id_a_prefix_and_its_age(runs: Runs):
    with pytest.raises(RunNotFound, match="no runs yet"):
        runs.find("last")
    first, second = runs.create(PLAN), runs.create(PLAN)
    assert runs.find(first.id).id == first.id
    assert runs.find("last").id in (first.id, second.id)  # they may be as old as each other
    assert {run.id for run in runs.newest_first()} == {*runs.ids()} == {first.id, second.id}
    with pytest.raises(SessionError, match="several runs"):
        runs.find("r")
    with pytest.raises(RunNotFound, match="no run 'x'"):
        runs.find("x")
    first.delete()
    assert runs.ids() == [second.id]
    assert runs.find("r").id == second.id


def test_a_deleted_run_cannot_be_read_or_driven(runs: Runs):
    run = runs.create(PLAN)
    write_some(run)
    run.delete()
    with pytest.raises(SessionError):
        run.plan()
    with pytest.raises(RunNotFound):
        run.lock()
    with pytest.raises(FileNotFoundError):
        run.modified_at()
    assert run.events(0) == []


def test_old_runs_are_cleaned_up_except_those_that_are_driven(runs: Runs, home: Home):
    old, driven = runs.create(PLAN), runs.create(PLAN)
    checkpoints = Checkpoints(home.path)
    before = max(run.modified_at() for run in (old, driven)).replace(year=2100)
    with driven.lock():
        assert retention.clean(runs, checkpoints, before, dry_run=True) == [old.id]
        assert retention.clean(runs, checkpoints, before) == [old.id]
    assert runs.ids() == [driven.id]


# One driver at a time


def test_only_one_process_drives_a_run(runs: Runs):
    run = runs.create(PLAN)
    again = runs.find(run.id)
    with run.lock() as lock:
        lock.note({"a": 1})
        assert again.find_driver() == {"a": 1}
        assert again.result().state == "running"
        with pytest.raises(SessionError, match="is running"):
            again.lock()
        with pytest.raises(SessionError, match="is running"):
            again.delete()
        assert not again.is_idle()
    assert again.find_driver() is None
    assert again.is_idle()
    again.lock().close()


# Following


def changes_of(run: RunLog, position: str = "") -> list[Change]:
    return list(RunFollower(run, position).changes())


def told(changes: list[Change]) -> list[tuple[Any, ...]]:
    return [
        (c.kind, c.outcome and c.outcome.name, c.outcome and c.outcome.state, c.event and c.event.type)
        for c in changes
    ]  # fmt: skip


def test_a_run_is_followed_from_any_change_on(runs: Runs):
    run = runs.create(PLAN)
    write_some(run)
    everything = changes_of(run)
    assert told(everything) == [
        ("started", "a", "running", None),
        ("event", "a", "running", "tool"),
        ("event", "a", "running", "text"),
        ("ended", "a", "done", None),
        ("started", "b", "running", None),
        ("ended", "b", "failed", None),
        ("started", "c", "running", None),
        ("event", "c", "running", "tool"),
        ("ended", "c", "indeterminate", None),
    ]
    assert everything[3].outcome is not None
    assert everything[3].outcome.output == "answer a"
    for i, change in enumerate(everything):
        rest = changes_of(runs.find(run.id), change.position)
        assert told(rest) == told(everything[i + 1 :]), change.position
    with pytest.raises(UsageError, match="no position"):
        RunFollower(run, "999.0")


def test_what_is_written_while_it_is_followed_is_told_once(runs: Runs):
    run = runs.create(PLAN)
    reading = runs.find(run.id)

    async def write() -> list[Change]:
        with Journal(run, same) as journal:
            journal.record_begin(PLAN, rerun=[])
            await write_attempt(journal, 0, "answer a")
            follower = RunFollower(reading, NOW)
            seen = follower.poll()
            await journal.record_started(1, 1, backend="fake", session="s1")
            with EventLog(run.open_events(1), same) as log:
                await log.add(Tool(id="1", name="Read", input={}))
                seen += follower.poll()
                await log.add(Tool(id="2", name="Read", input={}))
                await log.end(result("answer b"))
                seen += follower.poll()
                await journal.record_ended(
                    Outcome(index=1, name="", state="done", attempts=1), log.detach()
                )
            await write_attempt(journal, 2, "answer c")
            return seen + follower.poll()

    with run.lock():
        seen = anyio.run(write)
    assert [(c.kind, c.outcome and c.outcome.name) for c in seen] == [
        ("started", "b"), ("event", "b"), ("event", "b"), ("ended", "b"),
        ("started", "c"), ("event", "c"), ("event", "c"), ("ended", "c"),
    ]  # fmt: skip
    assert [c.outcome.output for c in seen if c.kind == "ended" and c.outcome] == ["answer b", "answer c"]  # fmt: skip


# A process that drives it


def plan_for(desk: Desk, *tasks: Any, **rules: Any) -> Plan:
    rules = {"max_parallel": 1, "workdir": desk.home.work, **rules}
    return plan_of(list(tasks), "parallel", desk.dispatcher(), rules)


def create(desk: Desk, runs: Runs, plan: Plan) -> RunLog:
    """The run as the process that starts it records it."""
    context = local_context(desk.dispatcher())
    run = DrivenRun(context, plan)
    return runs.create(run.plan)


def begin(desk: Desk, address: str, run: RunLog, until: str) -> subprocess.Popen[str]:
    driver = start_driver(desk.home, address, run.id)
    desk.drivers.append(driver)
    desk.wait_for(until)
    return driver


def test_a_run_is_driven_to_its_end_by_another_process(desk: Desk, runs: Runs, address: str):
    run = create(desk, runs, plan_for(desk, "a", "bad b", {"prompt": "c", "needs": "2"}))
    driver = start_driver(desk.home, address, run.id)
    assert ends(driver, 60)[:2] == (0, "failed\n")
    found = run.with_outputs(run.result())
    assert [o.state for o in found.results] == ["done", "failed", "skipped"]
    assert found.results[0].output == "<a>"
    assert run.summary()["counts"] == {"done": 1, "failed": 1, "skipped": 1}
    assert run.find_driver() is None


def test_a_run_whose_driver_was_killed_is_resumed_and_no_task_is_run_twice(
    desk: Desk, runs: Runs, address: str
):
    run = create(desk, runs, plan_for(desk, "a", "hold b", "c"))
    driver = begin(desk, address, run, "hold b")
    kill(driver)
    os.kill(desk.pid("hold"), signal.SIGKILL)  # as a worker ends what it runs
    wait_for(lambda: run.find_driver() is None, "the end of the lease", 60)
    assert [o.state for o in run.result().results] == ["done", "indeterminate", "queued"]
    second = start_driver(desk.home, address, run.id)
    assert ends(second, 60)[:2] == (0, "failed\n")
    assert [o.state for o in run.result().results] == ["done", "indeterminate", "done"]
    assert desk.starts() == ["a", "hold b", "c"]


def test_a_running_run_is_cancelled_from_another_process(desk: Desk, runs: Runs, address: str):
    run = create(desk, runs, plan_for(desk, "a", "hold b", "c"))
    driver = begin(desk, address, run, "hold b")
    anyio.run(control.cancel, runs.find(run.id))
    assert ends(driver, 60)[1] == "cancelled\n"
    assert [o.state for o in run.result().results] == ["done", "cancelled", "cancelled"]
    assert desk.starts() == ["a", "hold b"]
    with pytest.raises(UsageError, match="has ended already: cancelled"):
        anyio.run(control.cancel, run)


def test_what_is_running_is_followed_to_its_end(desk: Desk, runs: Runs, address: str):
    run = create(desk, runs, plan_for(desk, "a", "hold b", "c"))
    driver = begin(desk, address, run, "hold b")
    follower = RunFollower(runs.find(run.id))
    first = follower.poll()
    assert not follower.ended
    desk.let_go()
    ended = [
        c.outcome.name for c in [*first, *follower.changes()] if c.kind == "ended" and c.outcome
    ]
    assert ended == ["1", "2", "3"]
    assert ends(driver, 60)[0] == 0


def test_a_run_is_driven_in_this_process(desk: Desk, runs: Runs):
    run = create(desk, runs, plan_for(desk, "a", "b"))
    done = anyio.run(drive_here, desk.dispatcher(), run)
    assert done is not None
    assert [o.output for o in run.with_outputs(done).results] == ["<a>", "<b>"]
