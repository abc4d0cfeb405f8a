"""What a scheduler decides, without a process, a file or a configuration: see `clinvk.testing`."""

import errno
import math
import random
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clinvk.engine.executor import Reporter
from clinvk.engine.scheduling import backoff
from clinvk.engine.scheduling.scheduler import Change, Scheduler
from clinvk.model.events import Delta, Text
from clinvk.model.outcome import Outcome
from clinvk.model.plan import Plan
from clinvk.model.request import Request
from clinvk.model.result import Failure, Result
from clinvk.model.session_ref import NewSession
from clinvk.model.usage import Usage
from clinvk.plans import parse
from clinvk.plans.preflight import Preflight
from clinvk.plans.taskfile.defaults import Defaults
from clinvk.process import wall_clock
from clinvk.process.wall_clock import Clock
from clinvk.testing import FakeExecutor, Reply
from tests.conftest import PROJECT

pytestmark = pytest.mark.anyio

LIMIT = Failure("limit", "usage limit")
SERVER = Failure("server", "overloaded")
BAD = Failure("backend", "it went wrong")
FOREVER = Reply(delay=math.inf)
SPENT = Reply(text="x", usage=Usage(input=10, output=5), cost=0.1)


class Run:
    """A scheduler with its outcomes and changes."""

    def __init__(self, fake: FakeExecutor, plan: Plan, secrets: tuple[str, ...] = ()) -> None:
        self.changes: list[Change] = []
        self.outcomes = [
            Outcome(index=i, name=t.name, key=t.key, backend=t.backend)
            for i, t in enumerate(plan.tasks)
        ]
        needs = [Preflight(backend=t.backend or "fake", secrets=secrets) for t in plan.tasks]
        self.scheduler = Scheduler(
            fake, plan, needs, self.outcomes, run_id=None, journal=None,
            output_of=lambda i: self.outcomes[i].output, observe=self.changes.append,
        )  # fmt: skip

    async def __call__(self) -> "Run":
        with anyio.fail_after(60):
            await self.scheduler.run()
        return self

    @property
    def states(self) -> list[str]:
        return [o.state for o in self.outcomes]

    @property
    def failures(self) -> list[str | None]:
        return [o.error.kind if o.error else None for o in self.outcomes]

    @property
    def why(self) -> str:
        return self.scheduler.end_reason or ""

    def kinds(self) -> list[str]:
        return [c.kind for c in self.changes if c.kind != "event"]


def plan_of(tasks: list[Any], kind: str = "parallel", **rules: Any) -> Plan:
    where = "steps" if kind == "chain" else "tasks"
    data = {where: tasks, "defaults": {"backend": "fake"}, **rules}
    return parse.parse_plan(data, "t", kind, Defaults())


async def run(tasks: list[Any], fake: FakeExecutor, **rules: Any) -> Run:
    return await Run(fake, plan_of(tasks, **rules))()


def prompts(fake: FakeExecutor) -> list[str]:
    return [request.prompt for request in fake.requests]


# Order, and how many at a time


async def test_a_task_starts_after_what_it_needs_and_is_given_its_answer():
    fake = FakeExecutor({"b": "two", "*": "one"})
    tasks = [
        {"name": "c", "prompt": "{{tasks.a.output}} and {{tasks.b.output}}"},
        {"name": "b", "prompt": "b", "needs": "a"}, {"name": "a", "prompt": "a"},
    ]  # fmt: skip
    assert (await run(tasks, fake)).states == ["done"] * 3
    assert prompts(fake) == ["a", "b", "one and two"]


async def test_no_more_tasks_run_at_the_same_time_than_are_allowed():
    fake = FakeExecutor(Reply(delay=0.01))
    assert (await run([f"p{i}" for i in range(9)], fake, max_parallel=3)).states == ["done"] * 9
    assert fake.max_running == 3
    fake = FakeExecutor(Reply(delay=0.01))
    await run(["a", "b", "c"], fake, max_parallel=3, max_parallel_per_backend={"fake": 1})
    assert fake.max_running == 1
    assert prompts(fake) == ["a", "b", "c"]


async def test_what_needs_a_failed_task_is_skipped():
    tasks = [
        {"name": "a", "prompt": "a"}, {"name": "b", "prompt": "b", "needs": "a"},
        {"name": "c", "prompt": "c", "needs": "b"}, {"name": "d", "prompt": "d"},
    ]  # fmt: skip
    fake = FakeExecutor({"a": BAD, "*": "x"})
    found = await run(tasks, fake)
    assert found.states == ["failed", "skipped", "skipped", "done"]
    assert sorted(prompts(fake)) == ["a", "d"]


async def test_a_step_that_may_continue_after_a_failure_does():
    fake = FakeExecutor({"a": BAD, "*": "x"})
    found = await run(["a", "b"], fake, kind="chain", stop_on_failure=False)
    assert found.states == ["failed", "done"]


# Retries


@pytest.mark.parametrize(("failure", "attempts"), [
    (SERVER, 3), (Failure("incomplete", "cut"), 3), (BAD, 1), (Failure("auth", "log in"), 1),
    (Failure("timeout", "too long"), 1), (Failure("schema", "no JSON"), 1),
])  # fmt: skip
async def test_only_failures_that_may_pass_are_retried(failure: Failure, attempts: int):
    fake = FakeExecutor([failure, failure, "at last"])
    found = await run(["p"], fake, retries=2, retry_delay=0.001)
    assert found.outcomes[0].attempts == len(fake.requests) == attempts
    assert found.states == ["done" if attempts == 3 else "failed"]
    assert found.kinds() == ["started", *["retry", "started"] * (attempts - 1), "ended"]


async def test_a_task_that_says_how_often_is_retried_that_often():
    fake = FakeExecutor(SERVER)
    tasks = [{"prompt": "a"}, {"prompt": "b", "retries": 0}, {"prompt": "c", "retries": 2}]
    await run(tasks, fake, retries=1, retry_delay=0.001)
    assert sorted(prompts(fake)) == ["a", "a", "b", "c", "c", "c"]


async def test_usage_and_cost_of_all_attempts_are_added_up():
    failed = Reply(failure=SERVER, usage=Usage(input=3, output=1), cost=0.5)
    found = await run(["p"], FakeExecutor([failed, SPENT]), retries=1, retry_delay=0.001)
    assert found.outcomes[0].usage == Usage(input=13, output=6)
    assert found.outcomes[0].cost == pytest.approx(0.6)


# Limits


async def test_a_limit_is_waited_for_and_counts_as_no_retry():
    fake = FakeExecutor([LIMIT, LIMIT, "yes"])
    found = await run(["p"], fake, limit_wait=0.01)
    assert found.states == ["done"]
    waits = [change.until for change in found.changes if change.kind == "limit"]
    assert len(waits) == 2
    assert waits[0] < waits[1]


async def test_a_limit_pauses_its_backend_alone():
    other = {"backend": "other"}
    fake = FakeExecutor({"a": [LIMIT, "yes"], "*": "yes"})
    tasks = ["a", "b", {"prompt": "x", **other}, {"prompt": "y", **other}]
    found = await run(tasks, fake, limit_wait=0.3, max_parallel_per_backend={"fake": 1})
    assert found.states == ["done"] * 4
    asked = prompts(fake)
    assert max(asked.index("x"), asked.index("y")) < asked.index("b")
    assert asked.count("a") == 2


async def test_a_limit_may_end_what_its_backend_has_left():
    fake = FakeExecutor(LIMIT)
    tasks = ["a", "b", {"prompt": "c", "needs": "2"}]
    found = await run(tasks, fake, on_limit="fail", max_parallel=1)
    assert found.states == ["failed", "waiting", "waiting"]
    assert prompts(fake) == ["a"]


async def test_a_limit_that_takes_too_long_is_not_waited_for():
    late = Failure("limit", "usage limit", retry_at=datetime.now(UTC) + timedelta(hours=1))
    found = await run(["a", "b"], FakeExecutor(late), max_wait="1m", max_parallel=1)
    assert found.states == ["waiting", "waiting"]


async def test_a_limit_may_switch_to_another_backend():
    def answer(request: Request) -> Any:
        return LIMIT if request.backend == "fake" else "yes"

    fake = FakeExecutor(answer)
    found = await run(["a", "b"], fake, on_limit="switch:other", limit_wait="10m", max_parallel=1)
    assert found.states == ["done", "done"]
    assert [r.backend for r in fake.requests] == ["fake", "other", "other"]


# Budgets and halting


@pytest.mark.parametrize(("budget", "why"), [
    ({"tokens": 30}, "the budget is spent: 30 of 30 tokens"),
    ({"cost": 0.15}, "the budget is spent: $0.2000 of $0.1500"),
])  # fmt: skip
async def test_a_spent_budget_cancels_what_runs_and_starts_nothing_more(budget: Any, why: str):
    fake = FakeExecutor({"slow": FOREVER, "*": SPENT})
    found = await run(["slow", "a", "b", "c"], fake, budget=budget, max_parallel=3)
    assert found.states == ["cancelled", "done", "done", "cancelled"]
    assert found.failures == ["cancelled", None, None, "not_started"]
    assert found.why == why


async def test_a_task_that_would_exceed_the_budget_is_not_started():
    fake = FakeExecutor(SPENT)
    found = await run([f"p{i}" for i in range(9)], fake, budget={"tokens": 100}, max_parallel=1)
    assert found.states == ["done"] * 6 + ["cancelled"] * 3
    assert found.why.startswith("the budget is nearly spent: 90 of 100 tokens")


async def test_a_backend_that_reports_no_usage_is_named_once():
    found = await run(["a", "b"], FakeExecutor("x"), budget={"tokens": 100})
    notices = [c.message for c in found.changes if c.kind == "notice"]
    assert notices == ["fake does not report its tokens, which are not counted against the budget"]


async def test_a_failure_may_end_what_runs_and_start_nothing_more():
    fake = FakeExecutor({"slow": FOREVER, "bad": BAD, "*": "x"})
    found = await run(["slow", "bad", "c"], fake, fail_fast=True, max_parallel=2)
    assert found.states == ["cancelled", "failed", "cancelled"]
    assert found.failures == ["cancelled", "backend", "not_started"]


async def test_failures_may_let_what_runs_come_to_its_end():
    fake = FakeExecutor({"slow": Reply(text="x", delay=0.1), "bad": BAD, "*": "x"})
    found = await run(["slow", "bad", "c"], fake, halt="soon,fail=1", max_parallel=2)
    assert found.states == ["done", "failed", "cancelled"]


# Stopping


@pytest.mark.parametrize("now", [False, True])
async def test_stopping_cancels_what_runs_and_leaves_the_rest_as_it_was(now: bool):
    fake = FakeExecutor(FOREVER)
    found = Run(fake, plan_of(["a", "b", "c"], max_parallel=2))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(found)
        await anyio.wait_all_tasks_blocked()
        assert len(fake.requests) == 2
        found.scheduler.stop("enough", now=now)
    assert found.states == ["cancelled"] * 3
    assert found.failures == ["cancelled", "cancelled", "not_started"]
    assert found.outcomes[0].error.message == "enough"
    assert [o.attempts for o in found.outcomes] == [1, 1, 0]


class NeverStarts(FakeExecutor):
    """Waits for something before it starts, as for another turn of the session."""

    async def run(self, request: Request, reporter: Reporter) -> Result:
        self.requests.append(request)
        reporter.on_notice("waiting for another turn")
        await anyio.sleep_forever()
        raise AssertionError


async def test_a_task_that_is_cancelled_before_it_has_started_counts_as_not_started():
    fake = NeverStarts()
    found = Run(fake, plan_of(["a"]))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(found)
        await anyio.wait_all_tasks_blocked()
        assert len(fake.requests) == 1
        found.scheduler.stop()
    assert (found.failures, found.outcomes[0].attempts) == (["not_started"], 0)
    assert "waiting for another turn" in [c.message for c in found.changes]


# What goes wrong around a task


async def test_an_exception_fails_its_task_alone():
    found = await run(["a", "b"], FakeExecutor({"a": ValueError("odd"), "*": "x"}))
    assert found.states == ["failed", "done"]
    assert found.outcomes[0].error.message == "the task could not be run: ValueError: odd"


async def test_a_task_that_finds_too_few_files_waits_for_another_to_end():
    short = OSError(errno.EMFILE, "Too many open files")
    fake = FakeExecutor({"a": Reply(text="x", delay=0.05), "*": [short, short, "yes"]})
    found = await run(["a", "b", "c"], fake, max_parallel=3)
    assert found.states == ["done"] * 3
    assert [o.attempts for o in found.outcomes] == [1, 1, 1]
    notices = [c.message for c in found.changes if c.kind == "notice"]
    assert notices == ["Too many open files: tasks will only start as others end"]


async def test_a_task_that_can_never_be_started_fails_with_its_reason():
    found = await run(["a", "b"], FakeExecutor(OSError(errno.EMFILE, "Too many open files")))
    assert found.states == ["failed", "failed"]
    assert "Too many open files" in found.outcomes[0].error.message


async def test_a_dry_run_starts_nothing():
    fake = FakeExecutor("x")
    found = await run([{"prompt": "a", "dry_run": True}], fake)
    assert (found.states, fake.requests) == (["done"], [])
    assert found.outcomes[0].output == "fake (fake)"


# What is reported


async def test_events_are_passed_on_without_secrets():
    reply = Reply(text="tell s3cret!", events=(Delta(text="s3"), Text(text="tell s3cret!")))
    found = await Run(FakeExecutor(reply), plan_of(["a"]), secrets=("s3cret!",))()
    events = [c.event for c in found.changes if c.kind == "event"]
    assert len(events) == 1
    assert "s3cret!" not in repr((events, found.outcomes))
    assert "tell" in found.outcomes[0].output


async def test_the_session_that_an_executor_uses_is_known_while_it_runs():
    class Named(FakeExecutor):
        async def run(self, request: Request, reporter: Reporter) -> Result:
            return await super().run(replace_begins(request), reporter)

    found = await run(["a"], Named(Reply(events=(Text(text="x"),))))
    (event,) = [c for c in found.changes if c.kind == "event"]
    assert event.outcome.session_id == found.outcomes[0].session_id == "s1"


def replace_begins(request: Request) -> Request:
    return Request(prompt=request.prompt, session=NewSession("s1"), cwd=Path("/"))


# Laws


ANSWERS = st.sampled_from(["x", BAD, SERVER, LIMIT, ValueError("odd")])


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    count = draw(st.integers(1, 7))
    tasks: list[dict[str, Any]] = []
    for i in range(count):
        needs = draw(st.sets(st.integers(0, i - 1), max_size=3)) if i else set()
        tasks.append({"name": f"t{i}", "prompt": f"t{i}", "needs": [f"t{n}" for n in needs]})
    rules = {
        "max_parallel": draw(st.integers(1, 4)), "retries": draw(st.integers(0, 2)),
        "retry_delay": 0.001, "limit_wait": 0.001,
        "on_limit": draw(st.sampled_from(["wait", "fail"])), "fail_fast": draw(st.booleans()),
    }  # fmt: skip
    return plan_of(tasks, **rules)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@given(plan=plans(), answers=st.lists(st.lists(ANSWERS, max_size=3), min_size=7, max_size=7))
@settings(max_examples=40, deadline=None)
def test_every_task_ends_and_none_starts_before_its_needs_are_done(
    backend: str, plan: Plan, answers: list[list[Any]]
):
    scripted = {f"t{i}": [*each, "done"] for i, each in enumerate(answers)}
    fake = FakeExecutor(scripted)
    found = Run(fake, plan)
    anyio.run(found, backend=backend)
    assert not {"queued", "running"} & set(found.states)
    ended = [c.outcome.index for c in found.changes if c.kind == "ended" and c.outcome]
    assert sorted(ended) == list(range(len(plan.tasks)))
    assert fake.max_running <= plan.rules.max_parallel
    done: set[int] = set()
    for change in found.changes:
        outcome = change.outcome
        assert outcome is not None
        if change.kind == "started":
            assert set(plan.tasks[outcome.index].needs) <= done
        if change.kind == "ended" and outcome.ok:
            done.add(outcome.index)


def test_neither_the_scheduler_nor_an_attempt_knows_how_a_request_is_run():
    for name in ("scheduler", "attempt"):
        text = (PROJECT / "clinvk" / "engine" / "scheduling" / f"{name}.py").read_text()
        assert "clinvk.dispatch" not in text


# A machine that is suspended


class SuspendedMachine:
    """Clocks of a machine that is suspended for hours while the loop's clock stands still."""

    def __init__(self) -> None:
        self.asleep = 0.0

    def clock(self, *, boottime: bool = True, wall: bool = True) -> Clock:
        return Clock(
            lambda: time.time() + self.asleep * wall,
            lambda: time.monotonic() + self.asleep * boottime,
        )


@pytest.mark.parametrize(("boottime", "wall"), [(True, True), (False, True), (True, False)])
@pytest.mark.parametrize("named", [True, False])
async def test_a_limit_that_ended_while_the_machine_was_suspended_is_over(
    named: bool, boottime: bool, wall: bool, monkeypatch: pytest.MonkeyPatch
):
    """Either clock may miss it: one is set, the other one does not exist on every system."""
    monkeypatch.setattr(wall_clock, "LONGEST_SLEEP", 0.02)
    machine = SuspendedMachine()
    until = datetime.now(UTC) + timedelta(hours=3) if named else None
    fake = FakeExecutor([Failure("limit", "usage limit", retry_at=until), "yes"])
    plan = plan_of(["p"], max_wait="4h", limit_wait="10m")
    found = Run(fake, plan)
    found.scheduler = Scheduler(
        fake, plan, [Preflight(backend="fake")], found.outcomes,
        run_id=None, journal=None, output_of=lambda _: "", observe=found.changes.append,
        clock=machine.clock(boottime=boottime, wall=wall),
    )  # fmt: skip
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(found)
        with anyio.fail_after(60):
            while not any(change.kind == "limit" for change in found.changes):  # noqa: ASYNC110
                await anyio.sleep(0.02)
        await anyio.sleep(0.1)
        assert found.states == ["queued"]
        machine.asleep = 4 * 3600
    assert found.states == ["done"]


async def test_no_wait_for_a_limit_is_longer_than_a_minute_on_the_clock_of_the_loop():
    assert wall_clock.LONGEST_SLEEP <= 60


def test_a_pause_is_never_longer_than_a_week():
    far = Failure("limit", "x", retry_at=datetime.now(UTC) + timedelta(days=9_000))
    pause = backoff.pause_after_limit(far, 0, 30, 100.0, random.Random(1))
    assert pause.until <= 100 + 7 * 86_400 + backoff.CLOCK_MARGIN
    assert pause.ends_at < datetime.now(UTC) + timedelta(days=8)
