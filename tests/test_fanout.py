"""Many tasks from Python: `clinvk.parallel`, `chain` and `resume_run`, and those that are awaited."""

import inspect
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import clinvk as package
from clinvk import RunResult, achain, aparallel, aresume, parallel, resume_run
from clinvk.errors import ClinvkError, ConfigError, SessionError, UsageError
from clinvk.model.outcome import ENDED_STATES
from clinvk.model.progress import Change
from clinvk.model.usage import Usage
from clinvk.runs.folder import RunStore
from clinvk.runs.log import RunNotFound
from tests.conftest import PROJECT, is_alive
from tests.desk import Desk, desk
from tests.everywhere import everywhere

__all__ = ["desk"]

pytestmark = pytest.mark.anyio


def given(desk: Desk, **more: Any) -> dict[str, Any]:
    return {**resumed(desk), "workdir": desk.home.work, **more}


def resumed(desk: Desk) -> dict[str, Any]:
    return {"dispatcher": desk.dispatcher(), "cluster": desk.home.cluster}


def told(result: RunResult) -> list[dict[str, Any]]:
    """What came of each task, but for the times, which are kept in thousandths."""
    times = ("started_at", "ended_at", "duration_seconds")
    return [{k: v for k, v in o.to_json().items() if k not in times} for o in result.results]


def states(result: RunResult) -> list[str]:
    return [outcome.state for outcome in result.results]


# What is to be done


@everywhere
async def test_a_list_holds_prompts_and_mappings(desk: Desk):
    tasks = [
        "a",
        {"name": "second", "prompt": "b", "backend": "other", "tags": ("x",), "meta": {"n": 1}},
    ]
    result = await aparallel(tasks, **given(desk))
    assert result.ok
    first, second = result.results
    assert (first.name, first.output, first.backend) == ("1", "<a>", "fake")
    assert (second.name, second.output, second.backend) == ("second", "<b>", "other")
    assert (second.tags, second.meta) == (("x",), {"n": 1})


async def test_a_whole_mapping_is_what_a_file_would_hold(desk: Desk):
    whole = {
        "tasks": ({"prompt": "{{w}} {{n}}", "matrix": {"n": (1, 2)}},),
        "matrix": {"w": ["a"]},
        "defaults": {"backend": "other", "workdir": desk.home.work},
        "max_parallel": 1,
    }
    result = await aparallel(whole, dispatcher=desk.dispatcher())
    assert [o.output for o in result.results] == ["<a 1>", "<a 2>"]
    assert desk.starts() == ["a 1", "a 2"]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("t.yaml", "max_parallel: 1\ntasks: [a 1, a 2]\n"),
        ("t.json", '{"max_parallel": 1, "tasks": ["a 1", {"prompt": "a 2"}]}'),
        ("t.jsonl", '{"prompt": "a 1"}\n{"prompt": "a 2"}\n'),
        ("t.csv", "prompt,n\na {{n}},1\na {{n}},2\n"),
        ("t.txt", "a 1\na 2\n"),
    ],
)
async def test_a_path_is_that_of_a_file_in_any_format(desk: Desk, name: str, text: str):
    path = desk.home.work / name
    path.write_text(text)
    for said in (path, str(path)):
        result = await aparallel(said, **given(desk, max_parallel=1))
        assert [o.output for o in result.results] == ["<a 1>", "<a 2>"]
        assert result.source == str(path)


@everywhere
async def test_keywords_are_the_keys_of_a_file_and_stand_above_it(desk: Desk):
    whole = {"tasks": ["bad a", "b", "c"], "fail_fast": False, "max_parallel": 3}
    rules = {"fail_fast": True, "max_parallel": 1, "backend": "other", "tags": ["t"], "timeout": 60}
    result = await aparallel(whole, **given(desk, **rules))
    assert states(result) == ["failed", "cancelled", "cancelled"]
    assert (result.state, result.exit_code) == ("failed", 1)
    assert (result.why or "").startswith("1 of 1 tasks failed")
    plan = RunStore(desk.home.path).find("last").plan()
    assert [(t.backend, t.tags, t.timeout) for t in plan.tasks] == [("other", ("t",), 60)] * 3


async def test_a_task_stands_above_the_keywords_and_they_above_the_defaults(desk: Desk):
    tasks = {"tasks": ["a", {"prompt": "b", "model": "mine"}], "defaults": {"model": "least"}}
    await aparallel(tasks, **given(desk, model="theirs"))
    plan = RunStore(desk.home.path).find("last").plan()
    assert [t.options["model"] for t in plan.tasks] == ["theirs", "mine"]


@everywhere
async def test_rules_are_kept(desk: Desk):
    rules = {
        "retries": 2, "retry_delay": 0.5, "on_limit": "fail", "max_wait": "2m",
        "budget": {"tokens": 1000}, "halt": "soon,fail=3", "output_dir": desk.home.work / "out",
        "max_parallel_per_backend": {"fake": 1},
    }  # fmt: skip
    await aparallel(["a"], **given(desk, **rules))
    kept = RunStore(desk.home.path).find("last").plan()
    assert kept.rules.retry_delay == 0.5
    assert (kept.rules.limits.action, kept.rules.limits.max_wait) == ("fail", 120)
    assert (kept.rules.budget.tokens, kept.rules.halt.count) == (1000, 3)
    assert kept.tasks[0].retries == 2
    assert (desk.home.work / "out" / "1.md").read_text().strip() == "<a>"
    assert json.loads((desk.home.work / "out" / "results.json").read_text())["completed"] == 1


async def test_what_is_ephemeral_is_kept_nowhere(desk: Desk):
    result = await aparallel(["a"], **given(desk, backend="echo", ephemeral=True))
    assert (result.id, result.ok) == (None, True)
    assert result.results[0].output.endswith("You said: a")
    assert not (desk.home.path / "runs").exists()
    assert desk.home.ids() == []


@pytest.mark.parametrize(
    ("tasks", "rules", "error", "said"),
    [
        ([], {}, ConfigError, "there are no tasks"),
        (["a", ""], {}, ConfigError, "tasks[1]: the prompt is empty"),
        ([7], {}, ConfigError, "tasks[0]: expected keys and values, or a prompt, found 7"),
        ([{"promt": "a"}], {}, ConfigError, "did you mean 'prompt'?"),
        (["a"], {"max_paralel": 2}, ConfigError, "did you mean 'max_parallel'?"),
        (["a"], {"max_parallel": 0}, ConfigError, "0 is too small"),
        (["a"], {"backend": "none"}, ClinvkError, "none"),
        (["a"], {"timeout": "soon"}, ConfigError, "soon"),
        ([{"prompt": "{{tasks.b.output}}"}], {}, ConfigError, "there is no task 'b'"),
        ("no such.yaml", {}, ConfigError, "no such.yaml: No such file"),
        ({"steps": ["a"]}, {}, ConfigError, "clinvk chain"),
    ],
)
async def test_what_is_wrong_is_raised_before_anything_runs(
    desk: Desk, tasks: Any, rules: dict[str, Any], error: type[ClinvkError], said: str
):
    with pytest.raises(error) as caught:
        await aparallel(tasks, **given(desk, **rules))
    assert said in str(caught.value)
    assert desk.starts() == []
    assert not (desk.home.path / "runs").exists()


async def test_a_mistake_in_a_file_is_told_with_its_line(desk: Desk):
    (path := desk.home.work / "t.yaml").write_text("tasks:\n- a\n- promt: b\n")
    with pytest.raises(
        ConfigError, match=r"t\.yaml: line 3: tasks\[1\]\.promt: unknown key 'promt'"
    ):
        await aparallel(path, **given(desk))


# Watching


@everywhere
async def test_each_change_is_observed(desk: Desk):
    seen: list[Change] = []
    result = await aparallel(["a", "bad b"], **given(desk, observe=seen.append, max_parallel=1))
    kinds = [
        (c.kind, c.outcome.name, c.outcome.state)
        for c in seen
        if c.outcome and c.kind not in ("event", "node")
    ]
    assert kinds == [
        ("started", "1", "running"), ("ended", "1", "done"),
        ("started", "2", "running"), ("ended", "2", "failed"),
    ]  # fmt: skip
    of_first = [c.event.type for c in seen if c.event and c.outcome and c.outcome.index == 0]
    assert of_first[:2] == ["started", "tool"]
    assert states(result) == ["done", "failed"]


# One after the other


@everywhere
async def test_steps_know_what_came_before(desk: Desk):
    steps = ["a", {"name": "two", "prompt": "b {{previous}}"}, "c {{steps.two.output}}"]
    result = await achain(steps, **given(desk))
    assert (result.kind, result.results[2].output) == ("chain", "<c <b <a>>>")
    result = await achain(["bad a", "b"], **given(desk, stop_on_failure=False))
    assert states(result) == ["failed", "done"]
    result = await achain(["a", "b"], **given(desk, pass_session=True))
    assert result.results[0].session_id == result.results[1].session_id
    with pytest.raises(ConfigError, match="nothing comes before"):
        await achain(["{{previous}}"], **given(desk))


# Carrying on


async def test_a_run_that_was_cut_off_is_carried_on(desk: Desk):
    id_ = desk.cut_off("a", "hold b", "c", until="hold b")
    pid = desk.pid("hold")
    result = await aresume("last", dispatcher=desk.dispatcher())
    assert (result.id, states(result)) == (id_, ["done", "indeterminate", "done"])
    assert not is_alive(pid)
    desk.let_go()
    seen: list[Change] = []
    result = await aresume(
        id_[:4], rerun_indeterminate=True, dispatcher=desk.dispatcher(), observe=seen.append
    )
    assert states(result) == ["done"] * 3
    assert [o.output for o in result.results] == ["<a>", "<hold b>", "<c>"]
    assert {c.outcome.name for c in seen if c.outcome} == {"2"}
    assert desk.starts() == ["a", "hold b", "c", "hold b"]


@everywhere
async def test_what_failed_is_run_again_where_that_is_wanted(desk: Desk):
    first = await aparallel(["a", "bad b", {"prompt": "c", "needs": "2"}], **given(desk))
    assert states(first) == ["done", "failed", "skipped"]
    desk.repair()
    assert first.id
    again = await aresume(first.id, retry_failed=True, **resumed(desk))
    assert states(again) == ["done"] * 3
    assert [o.attempts for o in again.results] == [1, 2, 1]
    assert sorted(desk.starts()) == ["a", "bad b", "bad b", "c"]


@everywhere
async def test_a_run_of_which_nothing_is_left_is_given_as_it_is(desk: Desk):
    first = await aparallel(["a", "bad b"], **given(desk))
    again = await aresume("last", **resumed(desk))
    assert [o.output for o in again.results] == ["<a>", ""]
    assert told(again) == told(first)
    assert (again.id, again.state, again.exit_code) == (first.id, "failed", 1)


async def test_a_run_that_cannot_be_carried_on_says_why(desk: Desk):
    with pytest.raises(RunNotFound, match="no run 'r1'"):
        await aresume("r1", dispatcher=desk.dispatcher())
    _, id_ = desk.begin("hold a", until="hold a")
    with pytest.raises(SessionError, match="is running"):
        await aresume(id_, dispatcher=desk.dispatcher())


# What is given back


@everywhere
async def test_the_result_says_what_the_json_says(desk: Desk):
    result = await aparallel(["a", "bad b"], **given(desk, max_parallel=1))
    assert (result.kind, result.state, result.ok, result.exit_code) == (
        "parallel",
        "failed",
        False,
        1,
    )
    assert result.counts == {"done": 1, "failed": 1}
    assert result.usage == Usage(input=10, output=5)
    assert result.cost is None
    assert result.seconds >= sum(o.seconds for o in result.results) * 0.9
    assert result.started_at
    assert result.ended_at
    done, failed = result.results
    assert (done.ok, failed.ok) == (True, False)
    assert (
        (failed.error.kind, failed.error.message) == ("backend", "boom") if failed.error else False
    )
    data = json.loads(json.dumps(result.to_json()))
    named = ("total_tasks", "completed", "failed", "cancelled", "exit_code", "state", "id")
    assert [data[k] for k in named] == [2, 1, 1, 0, 1, "failed", result.id]
    assert set(ENDED_STATES[1:]) <= set(data)
    assert data["total_duration_seconds"] == round(result.seconds, 3)
    wanted = {"index", "name", "key", "state", "backend", "model", "session_id", "output", "structured",
              "error", "duration_seconds", "exit_code", "usage", "cost", "attempts", "started_at", "check",
              "ended_at", "tags", "meta"}  # fmt: skip
    wanted |= {"node"} if desk.home.cluster else set()
    for outcome, said in zip(result.results, data["results"], strict=True):
        assert set(said) == wanted
        assert (said["output"], said["exit_code"]) == (outcome.output, outcome.exit_code)
    kept = desk.clinvk.json("runs", "show", "--json")
    for said in (*kept["results"], *data["results"]):
        del said["started_at"], said["ended_at"], said["duration_seconds"]
    moving = ("total_duration_seconds", "started_at", "ended_at")
    assert {k: v for k, v in kept.items() if k not in moving} == {
        k: v for k, v in data.items() if k not in moving
    }


# Without an event loop


def test_the_same_without_an_event_loop(desk: Desk):
    result = parallel(["a", "bad b"], **given(desk))
    assert states(result) == ["done", "failed"]
    desk.repair()
    again = resume_run("last", retry_failed=True, dispatcher=desk.dispatcher())
    assert (again.id, again.ok) == (result.id, True)


def test_the_public_names_do_it_in_a_program_of_their_own(desk: Desk):
    code = (
        "import clinvk\n"
        "r = clinvk.parallel(['a', 'bad b'], max_parallel=2)\n"
        "c = clinvk.chain(['a', 'b {{previous}}'])\n"
        "print(r.state, r.exit_code, c.results[1].output, clinvk.resume_run('last').state)\n"
    )
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-c", code], cwd=desk.home.work,
        env=desk.home.env, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    # asyncio tells of slow steps there, and a busy machine is slow.
    told = [line for line in done.stderr.splitlines() if not line.startswith("Executing <")]
    assert (done.stdout, told) == ("failed 1 <b <a>> done\n", [])


@pytest.mark.parametrize(
    ("call", "awaited"),
    [
        (lambda where: package.run("a", dispatcher=where), "clinvk.arun(...)"),
        (lambda where: package.parallel(["a"], dispatcher=where), "clinvk.aparallel(...)"),
        (lambda where: package.chain(["a"], dispatcher=where), "clinvk.achain(...)"),
        (lambda where: package.compare("a", ["b"], dispatcher=where), "clinvk.acompare(...)"),
        (lambda where: package.resume_run("last", dispatcher=where), "clinvk.aresume(...)"),
        (lambda where: package.WorkflowManager(where).execute("x"), "aexecute(...)"),
    ],
)
async def test_inside_of_an_event_loop_one_is_told_what_to_await(
    desk: Desk, call: Any, awaited: str
):
    with pytest.raises(UsageError, match="event loop is running") as caught:
        call(desk.dispatcher())
    assert caught.value.hint
    assert f"await {awaited}" in caught.value.hint
    assert desk.starts() == []


def test_a_runtime_error_of_the_run_itself_is_raised_as_it_is(desk: Desk):
    def fail(_: Change) -> None:
        raise RuntimeError("my own")

    with pytest.raises((RuntimeError, BaseExceptionGroup)) as caught:
        parallel(["a"], observe=fail, **given(desk))
    assert "event loop" not in str(caught.value)


async def test_who_names_too_few_backends_is_told_the_argument(desk: Desk):
    with pytest.raises(UsageError, match="at least two backends") as caught:
        await package.acompare("x", ["echo"], dispatcher=desk.dispatcher())
    assert caught.value.hint
    assert caught.value.hint.startswith('name them: backends=["claude", "codex"]')


@pytest.mark.parametrize("name", ["parallel", "chain", "resume_run"])
def test_those_that_wait_have_the_arguments_of_those_that_are_awaited(name: str):
    other = {"parallel": "aparallel", "chain": "achain", "resume_run": "aresume"}[name]
    waiting, awaited = getattr(package, name), getattr(package, other)
    assert inspect.signature(waiting) == inspect.signature(awaited)
    assert not inspect.iscoroutinefunction(waiting)
    assert inspect.iscoroutinefunction(awaited)


CONSUMER = """\
import clinvk
from pathlib import Path

def use(flows: clinvk.WorkflowManager) -> int:
    result: clinvk.RunResult = clinvk.parallel([{"prompt": "a"}, "b"], max_parallel=2)
    outputs: list[str] = [task.output for task in result.results]
    again: clinvk.RunResult = clinvk.resume_run("last", retry_failed=True)
    chained: clinvk.RunResult = clinvk.chain(Path("x.yaml"), pass_session=True)
    named: clinvk.RunResult = flows.execute("x", checkpoint="y")
    gone: bool = flows.delete_checkpoint("y")
    return result.exit_code + again.exit_code + len(outputs) + chained.exit_code + named.exit_code + gone

async def wait() -> None:
    result: clinvk.RunResult = await clinvk.aparallel(["a"], observe=lambda change: print(change.kind))
    print(result.to_json()["results"])

clinvk.parallel(7)  # wrong
clinvk.resume_run()  # wrong
clinvk.resume_run("last", retry_failed="yes")  # wrong
"""


@pytest.mark.once
def test_who_uses_it_is_checked_by_mypy(tmp_path: Path):
    (tmp_path / "consumer.py").write_text(CONSUMER)
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent", "--no-error-summary",
         f"--cache-dir={PROJECT / '.cache' / 'mypy-consumer'}", "consumer.py"],
        cwd=tmp_path, env={**os.environ, "MYPYPATH": str(PROJECT)}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    lines = [n for n, line in enumerate(CONSUMER.splitlines(), 1) if line.endswith("# wrong")]
    told = [int(line.split(":")[1]) for line in done.stdout.splitlines() if ": error:" in line]
    assert sorted(set(told)) == lines, done.stdout + done.stderr
