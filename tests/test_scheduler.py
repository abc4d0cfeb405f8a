"""Many tasks: in which order, how many at a time, what failures and limits do, and how it ends."""

import fcntl
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from clinvk.config import loading
from clinvk.dispatch.dispatcher import Dispatcher
from clinvk.engine.driven_run import DrivenRun
from clinvk.engine.executor import LocalExecutor
from clinvk.engine.rerun import unfinished
from clinvk.engine.resumed_run import ResumedRun
from clinvk.engine.run_context import local_context
from clinvk.engine.scheduling import backoff
from clinvk.engine.scheduling.scheduler import Scheduler
from clinvk.errors import ClinvkError, ConfigError, SessionError
from clinvk.model.outcome import Outcome, RunResult
from clinvk.model.plan import Halt, Plan, Task, with_keys
from clinvk.model.progress import Change
from clinvk.model.result import Failure
from clinvk.plans import halt, parse, preflight
from clinvk.plans.taskfile.defaults import Defaults
from clinvk.runs.folder import RunFolder, RunStore
from tests.conftest import (
    END,
    PROTOCOL,
    START,
    CommandLine,
    Home,
    is_alive,
    living,
    pid_in,
    say,
    stubborn,
)
from tests.stores import keep
from tests.test_store_file import small_disk  # noqa: F401 - a fixture

pytestmark = pytest.mark.anyio

LIMIT = say(type="end", error="usage limit", status=429)
SERVER = say(type="end", error="overloaded", status=529)
NAP = "sleep 0.15\n"
EPHEMERAL = {"ephemeral": {"argv": ["--keep-nothing"]}}
FOREVER = "while :; do sleep 0.1; done\n"


class Many:
    """Runs plans in a home, and knows what its made-up CLIs did."""

    def __init__(self, home: Home, folder: Path) -> None:
        self.home = home
        self.log = folder / "log"
        self.folder = folder
        self.changes: list[Change] = []
        self.run: DrivenRun | None = None

    def backend(self, name: str, script: str = END, **manifest: Any) -> None:
        """A CLI that notes when it starts and ends, with its prompt in `$p`."""
        self.home.backend(
            name,
            f'p=$(cat)\ncd {self.folder}\necho "+ {name} $p" >>log\ntrap \'echo "- {name} $p" >>log\' EXIT\n'
            + START + script, **manifest,
        )  # fmt: skip

    def lines(self) -> list[list[str]]:
        return (
            [line.split() for line in self.log.read_text().splitlines()]
            if self.log.exists()
            else []
        )

    def starts(self) -> list[str]:
        """The prompts, in the order in which they were begun."""
        return [line[2] for line in self.lines() if line[0] == "+"]

    def most(self, backend: str | None = None) -> int:
        """How many ran at a time, at most."""
        now = most = 0
        for sign, name, *_ in self.lines():
            if backend in (None, name):
                now += 1 if sign == "+" else -1
                most = max(most, now)
        return most

    def dispatcher(self) -> Dispatcher:
        return keep(Dispatcher(loading.load(self.home.env), env=self.home.env))

    def plan(self, tasks: list[Any], kind: str = "parallel", **rules: Any) -> Plan:
        defaults = {"backend": "fake", "workdir": str(self.home.work)} | rules.pop("defaults", {})
        where = "steps" if kind == "chain" else "tasks"
        data = {where: tasks, "defaults": defaults, **rules}
        return parse.parse_plan(data, "t", kind, Defaults())

    def prepared(self, plan: Plan) -> DrivenRun:
        self.run = DrivenRun(local_context(self.dispatcher()), plan, observe=self.changes.append)
        return self.run

    async def __call__(self, tasks: list[Any], **rules: Any) -> RunResult:
        """What comes of them; with their outputs."""
        run = self.prepared(self.plan(tasks, **rules))
        with anyio.fail_after(60):
            return run.with_outputs(await run.run())

    def kinds(self) -> list[str]:
        return [c.kind for c in self.changes if c.kind != "event"]


@pytest.fixture
def many(home: Home, tmp_path: Path) -> Many:
    return Many(home, tmp_path)


def states(result: RunResult) -> list[str]:
    return [outcome.state for outcome in result.results]


def kinds(result: RunResult) -> list[str | None]:
    return [outcome.error.kind if outcome.error else None for outcome in result.results]


# Order, and how many at a time


async def test_a_task_begins_after_what_it_needs(many: Many):
    many.backend("fake", NAP + END)
    tasks = [
        {"name": "c", "prompt": "c", "needs": ["a", "b"]},
        {"name": "b", "prompt": "b", "needs": "a"},
        {"name": "a", "prompt": "a"},
        {"name": "d", "prompt": "d"},
    ]
    result = await many(tasks, max_parallel=4)
    assert result.ok
    order = [(sign, p) for sign, _, p in many.lines()]
    assert order.index(("-", "a")) < order.index(("+", "b")) < order.index(("-", "b"))
    assert order.index(("-", "b")) < order.index(("+", "c"))
    assert order.index(("+", "d")) < order.index(("+", "b"))


async def test_an_answer_goes_into_the_prompts_that_name_it(many: Many):
    many.backend("fake", 'printf \'{"type":"end","text":"<%s>"}\\n\' "$p"\n')
    result = await many([
        {"name": "a", "prompt": "one"}, {"name": "b", "prompt": "two", "needs": "a"},
        {"name": "c", "prompt": "{{tasks.a.output}}+{{tasks.b.output}}=\\{{x}}"},
        {"name": "d", "prompt": "{{tasks.c.session}}/{{tasks.c.backend}}."},
    ])  # fmt: skip
    run = result.id
    assert [o.output for o in result.results] == [
        "<one>", "<two>", "<<one>+<two>={{x}}>", f"<{run}.c/fake.>"
    ]  # fmt: skip


async def test_no_more_run_at_a_time_than_are_allowed(many: Many):
    for name in ("fake", "other"):
        many.backend(name, NAP + END)
    tasks = [{"prompt": f"p{i}", "backend": ("fake", "other")[i % 2]} for i in range(10)]
    result = await many(tasks, max_parallel=3, max_parallel_per_backend={"fake": 1})
    assert result.ok
    assert len(many.starts()) == 10
    assert many.most() <= 3
    assert many.most("fake") == 1
    assert many.most("other") == 2


async def test_tasks_begin_in_the_order_of_the_plan(many: Many):
    many.backend("fake")
    await many([f"p{i}" for i in range(6)], max_parallel=1)
    assert many.starts() == [f"p{i}" for i in range(6)]


# Failures


BAD = 'case "$p" in bad*) ' + say(type="end", error="it went wrong").strip() + ";; *) " + END.strip() + ";; esac\n"  # fmt: skip


async def test_a_failure_alone_ends_nothing_else(many: Many):
    many.backend("fake", BAD)
    result = await many(["bad", "good", "bad2", "good2"])
    assert states(result) == ["failed", "done", "failed", "done"]
    assert (result.state, result.exit_code) == ("failed", 1)
    assert kinds(result)[0] == "backend"


async def test_fail_fast_ends_what_runs_and_starts_nothing_more(many: Many):
    together = "until [ $(grep -c '+ fake slow' log) = 2 ]; do sleep 0.02; done\n"
    many.backend("fake", f'case "$p" in slow*) {FOREVER} ;; esac\n{together}{BAD}')
    result = await many(["slow1", "bad", "slow2", "good", "good2"], fail_fast=True, max_parallel=3)
    assert states(result) == ["cancelled", "failed", "cancelled", "cancelled", "cancelled"]
    assert kinds(result) == ["cancelled", "backend", "cancelled", "not_started", "not_started"]
    assert "1 of 1 tasks failed" in (result.why or "")
    assert result.exit_code == 1
    assert set(many.starts()) == {"slow1", "bad", "slow2"}


async def test_halt_soon_lets_what_runs_come_to_its_end(many: Many):
    last = "until grep -q -- '- fake bad2' log; do sleep 0.02; done; sleep 1"
    many.backend("fake", f'case "$p" in slow*) {last};; esac\n{BAD}')
    tasks = ["slow", "bad1", "bad2", "good"]
    result = await many(tasks, halt="soon,fail=2", max_parallel=2)
    assert states(result) == ["done", "failed", "failed", "cancelled"]


async def test_halt_by_a_share_waits_until_a_share_means_something(many: Many):
    many.backend("fake", BAD)
    tasks = ["bad1", "bad2", "g1", "g2", "g3", "bad3", "g4", "g5"]
    result = await many(tasks, halt="now,fail=50%", max_parallel=1)
    assert states(result) == [
        "failed", "failed", "done", "done", "done", "failed", "cancelled", "cancelled",
    ]  # fmt: skip
    assert "3 of 6 tasks failed (halt: now,fail=50%)" in (result.why or "")


@pytest.mark.parametrize("text", ["never", "soon,fail=3", "now,fail=10%", "now,fail=12.5%"])
def test_a_halt_is_told_as_it_is_written(text: str):
    assert halt.format_halt(halt.parse_halt(text)) == text


@given(st.integers(1, 100), st.integers(0, 100), st.floats(1, 100))
def test_a_halt_never_comes_before_its_number(count: int, failed: int, percent: float):
    assert halt.is_reached(Halt("soon", count=count), failed, 100) == (failed >= count)
    reached = halt.is_reached(Halt("now", percent=percent), failed, 100)
    assert reached == (failed >= 3 and failed >= percent)


async def test_what_needs_a_failed_task_is_skipped_and_says_why(many: Many):
    many.backend("fake", BAD)
    result = await many([
        {"name": "a", "prompt": "bad"}, {"name": "b", "prompt": "b", "needs": "a"},
        {"name": "c", "prompt": "{{tasks.b.output}}"}, {"name": "d", "prompt": "d"},
    ])  # fmt: skip
    assert states(result) == ["failed", "skipped", "skipped", "done"]
    assert "depends on 'a', which failed" in result.results[1].error.message
    assert "depends on 'b', which was skipped" in result.results[2].error.message
    assert result.results[2].attempts == 0
    assert sorted(many.starts()) == ["bad", "d"]


async def test_three_thousand_that_need_each_other_are_skipped_at_once(many: Many):
    many.backend("fake", BAD)
    tasks = [{"name": f"t{i}", "prompt": "bad", "needs": f"t{i - 1}" if i else []} for i in range(3_001)]  # fmt: skip
    with anyio.fail_after(60):
        result = await many(tasks)
    assert result.counts == {"failed": 1, "skipped": 3_000}
    kept = RunStore(many.home.path).find("last").result()
    assert kept.counts == result.counts
    assert kept.results[3_000].error == result.results[3_000].error


async def test_a_step_may_go_on_after_a_failure(many: Many):
    many.backend("fake", BAD)
    result = await many(
        ["bad1", "after: {{previous}}", "last"], kind="chain", stop_on_failure=False
    )
    assert states(result) == ["failed", "done", "done"]
    result = await many(["bad1", "after: {{previous}}", "last"], kind="chain")
    assert states(result) == ["failed", "skipped", "skipped"]


# Tried again


COUNT = 'n=$(cat "n-$p" 2>/dev/null || echo 0); n=$((n+1)); echo $n >"n-$p"\n'


@pytest.mark.parametrize(("failure", "exit_code"), [
    (SERVER, 0), ("exit 0\n", 0), (say(type="end", error="no", status=401), 1),
    (say(type="end", error="bad option"), 1), ("exit 3\n", 1),
])  # fmt: skip
async def test_only_what_passes_is_tried_again(many: Many, failure: str, exit_code: int):
    many.backend("fake", f"{COUNT}if [ $n -lt 3 ]; then\n{failure}else\n{END}fi\n")
    result = await many(["p"], retries=2, retry_delay=0.02)
    assert result.exit_code == exit_code
    (outcome,) = result.results
    assert outcome.attempts == len(many.starts()) == (3 if exit_code == 0 else 1)
    if exit_code == 0:
        assert many.kinds() == ["started", "retry", "started", "retry", "started", "ended"]
        assert outcome.session_id == f"{result.id}.1.3"
        assert outcome.error is None


async def test_a_task_is_tried_as_often_as_it_says_itself(many: Many):
    many.backend("fake", SERVER)
    tasks = [{"prompt": "a"}, {"prompt": "b", "retries": 0}, {"prompt": "c", "retries": 2}]
    result = await many(tasks, retries=1, retry_delay=0.02)
    assert states(result) == ["failed"] * 3
    assert sorted(many.starts()) == ["a", "a", "b", "c", "c", "c"]


async def test_the_usage_of_all_attempts_is_added_up(many: Many):
    failed = say(type="end", error="x", status=500, usage={"input": 3, "output": 1})
    many.backend("fake", f"{COUNT}if [ $n -lt 2 ]; then\n{failed}else\n{END}fi\n")
    result = await many(["p"], retries=1, retry_delay=0.02)
    assert result.results[0].usage.input == 13
    assert result.results[0].usage.output == 6


def test_waits_between_tries_double_up_to_a_minute():
    class Even(random.Random):
        def uniform(self, a: float, b: float) -> float:
            return 1.0

    waits = [backoff.backoff_seconds(2, n, Even()) for n in range(1, 10)]
    assert waits == [2, 4, 8, 16, 32, 60, 60, 60, 60]
    assert backoff.backoff_seconds(2, 5_000, Even()) == 60


@given(st.floats(0.01, 1e3), st.integers(1, 5_000), st.randoms(use_true_random=False))
def test_no_two_tasks_wait_in_step_and_none_for_ever(delay: float, tries: int, chance: Any):
    assert 0 < backoff.backoff_seconds(delay, tries, chance) <= 1.5 * backoff.MAX_RETRY_DELAY


async def test_the_scheduler_waits_longer_before_each_try(many: Many):
    many.backend("fake", SERVER, **EPHEMERAL)
    plan = many.plan(["p"], retries=3, retry_delay=0.05, ephemeral=True)
    asks = preflight.check_plan(plan, many.dispatcher().selector).tasks
    outcomes = [Outcome(index=0, name="1", backend="fake")]
    waits: list[float] = []

    def observe(change: Change) -> None:
        if change.until:
            waits.append((change.until - datetime.now(UTC)).total_seconds())

    await Scheduler(
        LocalExecutor(many.dispatcher()), plan, asks, outcomes, run_id=None, journal=None,
        output_of=lambda _: "", observe=observe, rng=random.Random(1),
    ).run()  # fmt: skip
    chance = random.Random(1)
    wanted = [backoff.backoff_seconds(0.05, n, chance) for n in (1, 2, 3)]
    assert len(waits) == 3
    assert all(0 < got <= want + 0.01 for got, want in zip(waits, wanted, strict=True))
    assert outcomes[0].attempts == 4


# Limits


async def test_a_limit_pauses_its_backend_alone(many: Many):
    many.backend("fake", f"{COUNT}if [ $p = one ] && [ $n = 1 ]; then\n{LIMIT}else\n{END}fi\n")
    many.backend("other")
    tasks = [{"prompt": p} for p in ("one", "two")] + [
        {"prompt": f"o{i}", "backend": "other"} for i in range(3)
    ]
    result = await many(tasks, max_parallel=4, max_parallel_per_backend={"fake": 1}, limit_wait=0.8)
    assert result.ok
    begun = many.starts()
    assert max(map(begun.index, ("o0", "o1", "o2"))) < begun.index("two")
    assert begun.count("one") == 2  # the limit used up none of its retries: it had none
    assert many.kinds().count("limit") == 1


async def test_waits_for_a_limit_grow_until_a_success(many: Many):
    many.backend("fake", f"{COUNT}if [ $n -lt 4 ]; then\n{LIMIT}else\n{END}fi\n")
    result = await many(["p"], limit_wait=0.05)
    assert result.ok
    limits = [c for c in many.changes if c.kind == "limit"]
    waits = [(c.until - c.outcome.ended_at).total_seconds() for c in limits]
    assert len(waits) == 3
    assert waits[0] < waits[1] < waits[2]


RETRY_AT = [
    {**e, "set": {**e["set"], "retry_at": "retry_at"}} if e["emit"] == "failed" else e
    for e in PROTOCOL["events"]
]


async def test_a_moment_that_the_provider_names_is_heeded(many: Many):
    at = datetime.now(UTC) + timedelta(seconds=2)
    limit = say(type="end", error="usage limit", status=429, retry_at=at.isoformat())
    many.backend(
        "fake", f"{COUNT}if [ $n = 1 ]; then\n{limit}else\ndate +%s.%N >when\n{END}fi\n",
        events=RETRY_AT,
    )  # fmt: skip
    assert (await many(["p"], limit_wait=0.01)).ok
    assert float((many.folder / "when").read_text()) >= at.timestamp()


def test_a_moment_that_has_passed_is_believed_once():
    chance, now = random.Random(1), 100.0
    past = Failure("limit", "x", None, datetime.now(UTC) - timedelta(hours=1))
    first = backoff.pause_after_limit(past, 0, 30, now, chance)
    later = backoff.pause_after_limit(past, 1, 30, now, chance)
    assert (first.until, first.count) == (now + backoff.CLOCK_MARGIN, 1)
    assert later.until > now + 50
    assert (
        backoff.pause_after_limit(Failure("limit", "x"), 3_000, 30, now, chance).until < now + 1_000
    )


async def test_a_success_that_began_before_a_limit_does_not_end_the_wait(many: Many):
    many.backend(
        "fake", f"{COUNT}if [ $p = slow ]; then sleep 0.5; elif [ $n = 1 ]; then\n{LIMIT}exit\nfi\n{END}"
    )  # fmt: skip
    result = await many(["slow", "limited"], max_parallel=2, limit_wait=1.2)
    assert result.ok
    limit = next(c for c in many.changes if c.kind == "limit")
    again = [c for c in many.changes if c.kind == "started"][-1]
    assert again.outcome.started_at >= limit.until - timedelta(milliseconds=100)


async def test_a_limit_may_end_the_run_with_what_is_left_waiting(many: Many):
    many.backend("fake", LIMIT)
    many.backend("other")
    result = await many(
        ["a", {"prompt": "b", "backend": "other"}, "c", {"prompt": "d", "needs": "3"}],
        on_limit="fail", max_parallel_per_backend={"fake": 1},
    )  # fmt: skip
    assert states(result) == ["failed", "done", "waiting", "waiting"]
    assert (result.state, result.exit_code) == ("waiting", 75)
    assert many.starts().count("a") == 1
    assert "c" not in many.starts()
    folder = RunStore(many.home.path).find("last")
    assert folder.result().exit_code == 75
    run = ResumedRun(local_context(many.dispatcher()), folder)
    many.backend("fake")
    assert states(await run.run()) == ["done"] * 4


async def test_a_limit_that_would_take_too_long_ends_the_run_at_once(many: Many):
    many.backend("fake", LIMIT)
    many.backend("other")
    with anyio.fail_after(60):
        result = await many(
            ["a", "b", {"prompt": "c", "backend": "other", "needs": "1"}],
            limit_wait="10m", max_wait="1m", max_parallel=1,
        )  # fmt: skip
    assert states(result) == ["waiting"] * 3
    assert result.exit_code == 75
    assert result.results[0].error.kind == "limit"
    assert (
        result.results[2].error.message == "a task that it needs is waiting for a rate limit to end"
    )


async def test_what_needs_a_task_that_waits_for_a_limit_waits_whatever_else_succeeds(many: Many):
    many.backend("fake", LIMIT)
    many.backend("other", NAP + END)
    other = {"backend": "other"}
    result = await many(
        ["a", {"prompt": "b", **other}, {"prompt": "c", "needs": ["1", "2"], **other}],
        limit_wait="10m", max_wait="1m", max_parallel=2,
    )  # fmt: skip
    assert states(result) == ["waiting", "done", "waiting"]
    assert result.exit_code == 75
    assert "c" not in many.starts()
    many.backend("fake")
    run = ResumedRun(local_context(many.dispatcher()), RunStore(many.home.path).find("last"))
    assert states(await run.run()) == ["done"] * 3


async def test_a_limit_may_switch_to_another_backend(many: Many):
    many.backend("fake", LIMIT)
    many.backend("other", 'echo "$*" >argv\n' + END)
    tasks = [{"prompt": p, "model": "big", "max_turns": 3} for p in ("a", "b")]
    with anyio.fail_after(60):
        result = await many(tasks, on_limit="switch:other", limit_wait="10m", max_parallel=1)
    assert result.ok
    assert [o.backend for o in result.results] == ["other", "other"]
    assert [line[1:] for line in many.lines() if line[0] == "+"] == [
        ["fake", "a"], ["other", "a"], ["other", "b"],
    ]  # fmt: skip
    argv = (many.folder / "argv").read_text()
    assert "--max-turns 3" in argv
    assert "--model" not in argv


async def test_a_run_does_not_wait_too_long_for_one_backend_because_of_another(many: Many):
    for name in ("fake", "other"):
        many.backend(name, LIMIT)
    with anyio.fail_after(60):
        result = await many(
            ["a", "b"], on_limit="switch:other", limit_wait="10m", max_wait="1m", max_parallel=1
        )
    assert states(result) == ["waiting", "waiting"]


async def test_a_task_waits_for_its_own_backend_when_the_other_is_limited_for_long(many: Many):
    at = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    many.backend("fake", f"{COUNT}if [ $n = 1 ]; then\n{LIMIT}else\n{END}fi\n")
    many.backend(
        "other", say(type="end", error="usage limit", status=429, retry_at=at), events=RETRY_AT
    )
    with anyio.fail_after(60):
        result = await many(["a"], on_limit="switch:other", limit_wait=0.5, max_wait="1m")
    assert states(result) == ["done"]
    assert result.results[0].backend == "fake"


# Budgets


@pytest.mark.parametrize(("budget", "said"), [
    ({"tokens": 20}, "30 of 20 tokens"), ({"cost": 0.15}, "$0.2000 of $0.1500"),
])  # fmt: skip
async def test_a_spent_budget_ends_what_runs_too(
    many: Many, budget: dict[str, Any], said: str, tmp_path: Path
):
    end = "until [ $(grep -c '^+' log) = 3 ]; do sleep 0.02; done\n" + say(
        type="end", text="x", usage={"input": 10, "output": 5}, cost=0.1
    )
    many.backend("fake", f'case "$p" in slow) echo $$ >slow.pid; {FOREVER} ;; esac\n{end}')
    result = await many(["slow", "a", "b", "c", "d"], budget=budget, max_parallel=3)
    assert states(result) == ["cancelled", "done", "done", "cancelled", "cancelled"]
    assert kinds(result) == ["cancelled", None, None, "not_started", "not_started"]
    assert said in (result.why or "")
    assert not is_alive(pid_in(tmp_path / "slow.pid"))


async def test_a_run_that_has_spent_its_budget_starts_nothing_when_it_is_carried_on(many: Many):
    many.backend("fake")
    first = await many(["a", "b"], budget={"tokens": 15}, max_parallel=1)
    assert states(first) == ["done", "cancelled"]
    run = ResumedRun(local_context(many.dispatcher()), RunStore(many.home.path).find("last"))
    again = await run.run()
    assert states(again) == ["done", "cancelled"]
    assert "the budget is spent" in (again.why or "")
    assert again.exit_code == 1


@pytest.mark.parametrize(("cap", "done", "said"), [
    (100, 6, "nearly spent: 90 of 100 tokens, and a task uses about 15"),
    (90, 6, "spent: 90 of 90 tokens"), (105, 7, "spent: 105 of 105 tokens"),
    (10, 1, "spent: 15 of 10 tokens"),
])  # fmt: skip
async def test_no_task_is_started_that_would_break_the_budget(
    many: Many, cap: int, done: int, said: str
):
    many.backend("fake")
    result = await many([f"p{i}" for i in range(9)], budget={"tokens": cap}, max_parallel=1)
    assert states(result) == ["done"] * done + ["cancelled"] * (9 - done)
    assert (result.why or "").endswith(said)


async def test_a_cap_on_what_a_backend_does_not_report_is_refused(many: Many):
    events = [
        {**e, "set": {k: v for k, v in e["set"].items() if "cost" not in k}}
        for e in PROTOCOL["events"]
    ]
    many.backend("fake", events=events)
    with pytest.raises(ConfigError, match=r"budget\.cost: fake does not report it"):
        await many(["a"], budget={"cost": 1})
    assert (await many(["a"], budget={"tokens": 100})).ok


async def test_what_only_shows_its_command_has_no_part_in_the_budget(many: Many):
    many.backend("fake")
    await many([{"prompt": "a", "dry_run": True}], budget={"tokens": 100})
    assert [c.message for c in many.changes if c.kind == "notice"] == []


async def test_a_spent_budget_does_not_wait_for_a_limit_to_end(many: Many):
    many.backend(
        "fake",
        say(type="end", error="usage limit", status=429, usage={"input": 10, "output": 5}),
    )
    with anyio.fail_after(60):
        result = await many(["a", "b"], budget={"tokens": 10}, limit_wait="60s", max_parallel=1)
    assert result.why == "the budget is spent: 15 of 10 tokens"


async def test_who_does_not_say_what_it_took_is_named_once(many: Many):
    many.backend("fake", say(type="start", id="n") + say(type="end", text="yes"))
    changes: list[Change] = []
    run = many.prepared(many.plan(["a", "b"], budget={"tokens": 100}))
    run.observe = changes.append
    assert (await run.run()).ok
    said = [c.message for c in changes if c.kind == "notice"]
    assert said == ["fake does not report its tokens, which are not counted against the budget"]


async def test_a_key_in_an_error_is_nowhere_to_be_seen(many: Many):
    key = "sk-" + "proj-" + "aB3" * 12
    many.backend("fake", say(type="end", error=f"wrong key {key}"))
    result = await many(["a"])
    assert result.results[0].error is not None
    assert "[redacted: openai key]" in result.results[0].error.message
    assert key not in str(result.to_json())


# Time


async def test_a_silent_task_is_ended_and_says_so(many: Many, tmp_path: Path):
    many.backend("fake", f'case "$p" in silent) echo $$ >pid; {FOREVER} ;; esac\n{NAP}{END}')
    for seconds in (0.3, 3, 20):  # a busy machine takes long to begin
        tasks = [{"prompt": "silent", "stall_timeout": seconds}, "good"]
        result = await many(tasks, stall_timeout=60)
        if (tmp_path / "pid").exists():
            break
    assert states(result) == ["failed", "done"]
    assert kinds(result)[0] == "timeout"
    assert f"no output for {seconds:g} s" in result.results[0].error.message
    assert result.results[0].exit_code == 6
    assert not is_alive(pid_in(tmp_path / "pid"))


async def test_a_task_that_talks_is_not_silent(many: Many):
    talk = say(type="delta", text="x")
    for pace in (0.2, 2, 10):  # a busy machine takes long for a short pause
        pauses = f"for i in 1 2 3 4 5 6; do sleep {pace}; {talk.strip()}; done\n"
        many.backend("fake", pauses + END)
        result = await many(["p"], stall_timeout=4 * pace)
        if result.ok:
            break
    assert result.ok


async def test_each_task_has_its_own_time(many: Many):
    many.backend("fake", f'case "$p" in long) {FOREVER} ;; esac\n{END}')
    result = await many([{"prompt": "long", "timeout": 0.3}, "good"], retries=3)
    assert states(result) == ["failed", "done"]
    assert kinds(result)[0] == "timeout"
    assert many.starts().count("long") <= 1  # it was not tried again


# Cancelled


async def until(condition: Callable[[], Any]) -> None:
    with anyio.fail_after(60):
        while not condition():  # noqa: ASYNC110 - it is about files
            await anyio.sleep(0.02)


async def cancelling(many: Many, plan: Plan, *ready: Callable[[], Any], times: int) -> RunResult:
    run = many.prepared(plan)
    result: list[RunResult] = []

    async def go() -> None:
        result.append(await run.run())

    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(go)
            await until(lambda: all(r() for r in ready))
            for n in range(times):
                run.stop("cancelled", now=n > 0)
                await anyio.sleep(0.05)
    return result[0]


@pytest.mark.parametrize("times", [1, 2])
async def test_cancelling_leaves_nothing_alive(many: Many, tree: Path, times: int):
    many.home.backend("fake", stubborn(tree))
    plan = many.plan(["a", "b", "c"], max_parallel=1)
    result = await cancelling(many, plan, (tree / "self").exists, times=times)
    assert states(result) == ["cancelled"] * 3
    assert kinds(result) == ["cancelled", "not_started", "not_started"]
    assert (result.state, result.exit_code) == ("cancelled", 7)
    assert living(tree) == []
    kept = RunStore(many.home.path).find("last").result()
    assert (kept.state, [o.state for o in kept.results]) == ("cancelled", ["cancelled"] * 3)


async def test_a_run_that_was_cancelled_before_it_began_runs_nothing(many: Many):
    many.backend("fake")
    run = many.prepared(many.plan(["a", "b"]))
    run.stop()
    assert states(await run.run()) == ["cancelled", "cancelled"]
    assert many.starts() == []


async def cancelled_while(many: Many, plan: Plan, waits: Callable[[], Any]) -> RunResult:
    """What came of a run that was cancelled a moment after `waits` was so."""
    run = many.prepared(plan)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run.run)
        await until(waits)
        await anyio.sleep(0.3)
        run.stop()
    kept = run.folder.result()
    assert [o.attempts for o in run.outcomes] == [o.attempts for o in kept.results]
    return kept


async def carried_on(many: Many) -> RunResult:
    run = ResumedRun(local_context(many.dispatcher()), RunStore(many.home.path).find("last"))
    return await run.run()


async def test_a_task_that_is_cancelled_while_it_waits_for_a_login_was_not_started(many: Many):
    (login := many.folder / "login.json").write_text("{}")
    os.utime(login, (0, 0))
    many.backend("fake", login={"files": [str(login)], "fresh_minutes": 50})
    (note := many.home.path / "logins" / "fake").parent.mkdir(parents=True)
    note.touch()
    os.utime(note, (0, 0))
    with note.open("r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # somebody else begins with it
        kept = await cancelled_while(many, many.plan(["a"]), lambda: "started" in many.kinds())
    assert many.starts() == []
    assert (states(kept), kinds(kept), kept.results[0].attempts) == (["cancelled"], ["not_started"], 0)  # fmt: skip
    result = await carried_on(many)
    assert (states(result), result.results[0].attempts) == (["done"], 1)


async def test_a_step_that_is_cancelled_while_another_turn_runs_was_not_started(many: Many):
    many.backend("fake")
    plan = many.plan(["a", "b"], "chain", pass_session=True)
    turns: list[Any] = []

    def waits() -> bool:
        for change in many.changes:
            if change.kind == "ended" and not turns:  # somebody goes on with it by hand
                turns.append(many.dispatcher().store.acquire_turn(change.outcome.session_id))
        return many.kinds().count("started") == 2

    many.changes = Watched(waits)
    kept = await cancelled_while(many, plan, waits)
    assert many.starts() == ["a"]
    assert (states(kept), kept.results[1].attempts) == (["done", "cancelled"], 0)
    assert kept.results[1].error.message == "not started: cancelled"
    turns[0].close()
    result = await carried_on(many)
    assert (states(result), [o.attempts for o in result.results]) == (["done"] * 2, [1, 1])


async def test_a_prompt_that_was_never_sent_is_not_in_the_session_that_goes_on(many: Many):
    many.backend("fake")
    plan = many.plan(["a", "b"], "chain", pass_session=True)
    (login := many.folder / "login.json").write_text("{}")
    note = many.home.path / "logins" / "fake"
    held: list[Any] = []

    def waits() -> bool:
        if any(c.kind == "ended" for c in many.changes) and not held:
            os.utime(login, (0, 0))
            note.parent.mkdir(parents=True, exist_ok=True)
            note.touch()
            os.utime(note, (0, 0))
            held.append(note.open("r+b"))
            fcntl.flock(held[0], fcntl.LOCK_EX)  # somebody else begins with it
        return many.kinds().count("started") == 2

    many.backend("fake", login={"files": [str(login)], "fresh_minutes": 50})
    many.changes = Watched(waits)
    assert states(await cancelled_while(many, plan, waits)) == ["done", "cancelled"]
    held[0].close()
    result = await carried_on(many)
    said = many.dispatcher().store.messages(result.results[0].session_id or "")
    assert [m.content for m in said if m.role == "user"] == ["a", "b"]


class Watched(list[Change]):
    """Changes, and what is to be done with each at once."""

    def __init__(self, then: Callable[[], Any]) -> None:
        super().__init__()
        self.then = then

    def append(self, change: Change) -> None:
        super().append(change)
        self.then()


async def test_whoever_leaves_a_run_leaves_nothing_alive(many: Many, tree: Path):
    many.home.backend("fake", stubborn(tree))
    run = many.prepared(many.plan(["a"]))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run.run)
        await until((tree / "self").exists)
        tasks.cancel_scope.cancel()
    assert living(tree) == []
    kept = RunStore(many.home.path).find("last").result()
    assert (kept.state, kept.results[0].state) == ("cancelled", "cancelled")


async def test_a_run_that_was_cut_off_goes_on_where_it_was(many: Many):
    many.backend("fake", f'case "$p" in b) {FOREVER} ;; esac\n{END}')
    plan = many.plan(["a", "b", "c"], max_parallel=1)
    await cancelling(many, plan, lambda: "b" in many.starts(), times=1)
    many.backend("fake")
    folder = RunStore(many.home.path).find("last")
    run = ResumedRun(local_context(many.dispatcher()), folder)
    result = await run.run()
    assert states(result) == ["done", "indeterminate", "done"]
    run = ResumedRun(
        local_context(many.dispatcher()), folder, partial(unfinished, rerun_indeterminate=True)
    )
    result = await run.run()
    assert states(result) == ["done"] * 3
    assert result.results[1].attempts == 2
    assert many.starts() == ["a", "b", "c", "b"]


async def test_what_failed_before_does_not_end_a_run_that_is_carried_on(many: Many):
    many.backend("fake", BAD)
    first = await many(["bad", "b", "c"], fail_fast=True, max_parallel=1)
    assert states(first) == ["failed", "cancelled", "cancelled"]
    run = ResumedRun(local_context(many.dispatcher()), RunStore(many.home.path).find("last"))
    assert states(await run.run()) == ["failed", "done", "done"]


async def test_a_task_is_never_lined_up_twice(many: Many):
    many.backend("fake")
    tasks = (
        Task(name="a", prompt="a"),
        Task(name="b", prompt="b", needs=(0,)),
        Task(name="c", prompt="c", needs=(1,), soft=True),
    )
    plan = with_keys(Plan(kind="parallel", tasks=tasks))
    asks = preflight.check_plan(
        replace(plan, tasks=tuple(replace(t, backend="fake") for t in plan.tasks)),
        many.dispatcher().selector,
    ).tasks
    outcomes = [Outcome(index=i, name=t.name, backend="fake") for i, t in enumerate(tasks)]
    outcomes[0] = replace(outcomes[0], state="failed")
    await Scheduler(
        LocalExecutor(many.dispatcher()),
        plan,
        asks,
        outcomes,
        run_id=None,
        journal=None,
        output_of=lambda _: "",
    ).run()
    assert [o.state for o in outcomes] == ["failed", "skipped", "done"]
    assert many.starts() == ["c"]


# What breaks


@pytest.mark.parametrize("moment", ["before", "after"])
async def test_a_store_that_breaks_in_the_middle_fails_what_it_concerns(many: Many, moment: str):
    sessions = many.home.path / "sessions"
    again = f"while [ ! -f {sessions} ]; do rm -rf {sessions}; touch {sessions}; done"
    broken = f'if [ "$p" = b ]; then {again}; fi\n'
    nap = "sleep 0.3\n"  # until the native id has been kept; or has not
    many.backend("fake", nap + broken + END if moment == "after" else broken + START + nap + END)
    result = await many(["a", "b", "c"], max_parallel=1)
    assert states(result) == ["done", "failed", "failed"]
    assert kinds(result)[1:] == ["session", "session"]
    assert result.results[1].output == "It is done."  # it was paid for
    assert many.starts() == ["a", "b"]
    assert RunStore(many.home.path).find("last").result().counts == {"done": 1, "failed": 2}


async def test_a_backend_that_goes_away_fails_its_tasks_alone(many: Many):
    many.backend("fake", 'rm -f "$0"\n' + END)
    many.backend("other")
    result = await many(["a", "b", {"prompt": "c", "backend": "other"}], max_parallel=1)
    assert states(result) == ["done", "failed", "done"]
    assert kinds(result)[1] == "not_installed"
    assert result.results[1].session_id is None


async def test_a_program_that_cancels_a_run_ends_it_as_ctrl_c_does(many: Many, tmp_path: Path):
    many.backend("fake", f'[ "$p" = a ] || {{ echo $$ >"$p.pid"; {START} {FOREVER} }}\n{END}')
    run = many.prepared(many.plan(["a", "b", "c"], max_parallel=1))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run.run)
        await until((tmp_path / "b.pid").exists)
        tasks.cancel_scope.cancel()
    assert not is_alive(pid_in(tmp_path / "b.pid"))
    kept = RunStore(many.home.path).find("last").result()
    assert (kept.state, states(kept)) == ("cancelled", ["done", "cancelled", "cancelled"])
    assert kept.results[1].attempts == 1
    assert kept.results[1].seconds > 0


async def test_who_cancels_a_run_when_all_is_done_cancels_nothing(many: Many):
    many.backend("fake")
    run = many.prepared(many.plan(["a"]))
    with anyio.CancelScope() as scope:
        run.observe = lambda change: scope.cancel() if change.kind == "ended" else None
        await run.run()
    kept = RunStore(many.home.path).find("last").result()
    assert (kept.state, kept.exit_code) == ("done", 0)


PROGRAM = """
import anyio, clinvk

async def main():
    await clinvk.aparallel(["a", "b"], backend="fake", max_parallel=2)

try:
    anyio.run(main, backend="{backend}")
except KeyboardInterrupt:
    print("interrupted")
"""


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_ctrl_c_ends_the_run_of_a_program_and_all_that_it_started(
    home: Home, tree: Path, backend: str
):
    home.backend("fake", stubborn(tree))
    program = subprocess.Popen(
        [sys.executable, "-c", PROGRAM.format(backend=backend)],
        env=home.env, cwd=home.work, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    pid_in(tree / "self")
    program.send_signal(signal.SIGINT)
    out, _ = program.communicate(timeout=60)
    assert out == "interrupted\n"
    assert living(tree) == []
    assert RunStore(home.path).find("last").result().state == "cancelled"


async def test_an_error_of_the_one_who_watches_ends_what_runs(many: Many, tree: Path):
    many.home.backend("fake", stubborn(tree))

    def observe(change: Change) -> None:
        if change.kind == "event":
            raise BrokenPipeError("the reader has gone")

    run = DrivenRun(local_context(many.dispatcher()), many.plan(["a", "b"]), observe=observe)
    with pytest.raises(BrokenPipeError):
        await run.run()
    assert living(tree) == []


async def test_several_that_cannot_be_kept_are_told_as_one(
    many: Many, monkeypatch: pytest.MonkeyPatch
):
    together = "until [ $(grep -c '^+' log) = 6 ]; do sleep 0.02; done\n"
    many.backend("fake", together + END)
    run = many.prepared(many.plan([f"p{i}" for i in range(6)], max_parallel=6))
    run.create_folder()
    journal = run.folder.path / "journal.jsonl"
    real = os.fsync

    def full(fd: int) -> None:
        if os.fstat(fd).st_size > 2_000 and os.path.samestat(os.fstat(fd), journal.stat()):
            raise OSError(28, "No space left on device")
        real(fd)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ClinvkError, match="No space left on device"):
        await run.run()


FILL = "cat /dev/zero >{}/ballast 2>/dev/null\n"


def test_a_full_disk_ends_the_run_with_a_clear_word_and_loses_nothing(
    small_disk: Path, many: Many, clinvk: CommandLine, home: Home, tmp_path: Path  # noqa: F811
):  # fmt: skip
    fill = "until [ -s long1 ] && [ -s long2 ]; do sleep 0.02; done; " + FILL.format(small_disk)
    many.backend("fake", f'case "$p" in fill) sleep 0.5; {fill} ;; long*) echo $$ >"$p"; {FOREVER} ;; esac\n{END}')  # fmt: skip
    tasks = [{"prompt": p, "backend": "fake"} for p in ("a", "fill", "long1", "long2", "more")]
    done = clinvk("parallel", "-j", "3", stdin=json.dumps(tasks))
    assert done.returncode == 4, done.stderr
    assert "No space left" in done.stderr
    assert "make room" in done.stderr
    assert "then continue with: clinvk runs resume r" in done.stderr
    assert "5 tasks: " in done.stdout
    assert "unexpected" not in done.stderr
    assert "Traceback" not in done.stderr
    for name in ("long1", "long2"):
        assert not is_alive(pid_in(tmp_path / name))
    (small_disk / "ballast").unlink()
    (id_,) = RunStore(home.path).ids()
    folder = RunStore(home.path).find(id_)
    result = folder.result()
    assert result.state == "interrupted"
    assert [o.state for o in result.results][:1] == ["done"]
    assert folder.with_output(result.results[0]).output == "It is done."
    assert {o.state for o in result.results[2:4]} == {"indeterminate"}
    assert result.results[4].state in ("queued", "indeterminate")


async def test_an_output_folder_that_cannot_be_written_is_met_before_anything_runs(many: Many):
    many.backend("fake")
    (many.folder / "file").write_text("")
    with pytest.raises(ClinvkError, match="cannot write to"):
        await many(["a"], output_dir=str(many.folder / "file"))
    assert many.starts() == []
    assert not (many.home.path / "runs").exists()


# What is kept of secrets


async def test_a_secret_is_shown_to_nobody_who_watches(many: Many):
    many.home.env["TOK"] = "h1dden-value"
    many.backend(
        "fake", say(type="delta", text="x") + 'printf \'{"type":"text","text":"it is %s"}\\n\' "$A"\n'
        'printf \'{"type":"end","error":"bad %s"}\\n\' "$A"\n', **EPHEMERAL,
    )  # fmt: skip
    result = await many([{"prompt": "p", "env": {"A": "${TOK}"}}], ephemeral=True)
    shown = repr(result) + repr(
        [(c.outcome, c.event, c.event and c.event.raw) for c in many.changes]
    )
    assert "redacted" in shown
    assert "h1dden-value" not in shown


def test_a_run_of_a_newer_clinvk_is_told(many: Many, tmp_path: Path):
    folder = RunFolder(tmp_path / "r1")
    folder.path.mkdir()
    (folder.path / "plan.json").write_text('{"version": 99}')
    with pytest.raises(ClinvkError, match="newer clinvk"):
        folder.plan()
    (folder.path / "plan.json").write_text('{"version": 1}')
    with pytest.raises(SessionError, match="damaged"):
        folder.plan()


async def test_the_next_attempt_begins_when_the_one_before_is_written_down(
    many: Many, monkeypatch: pytest.MonkeyPatch
):
    failing = {"a": SERVER, "b": LIMIT}
    script = "".join(f"if [ $p = {p} ] && [ $n = 1 ]; then\n{f}exit\nfi\n" for p, f in failing.items())  # fmt: skip
    many.backend("fake", COUNT + script + END)
    real = os.fsync

    def slow(fd: int) -> None:
        time.sleep(0.05)  # in a thread; a disk that is slower than the wait between two tries
        real(fd)

    monkeypatch.setattr(os, "fsync", slow)
    tasks = ["a", {"prompt": "b"}]
    assert (await many(tasks, retries=1, retry_delay=0.001, limit_wait=0.001)).ok
    (folder,) = RunStore(many.home.path).newest_first()
    lines = [json.loads(x) for x in (folder.path / "journal.jsonl").read_bytes().splitlines()]
    for i in (0, 1):
        told = [x["event"] for x in lines if x.get("task") == i]
        assert told == ["started", "ended", "started", "ended"]
