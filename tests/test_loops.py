"""Loops in chains: steps that are repeated until a condition holds, for as long as that helps."""

import json
import math
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import clinvk as package
from clinvk.api import tasks as fanout
from clinvk.api.workflow import WorkflowManager
from clinvk.config import loading
from clinvk.dispatch.dispatcher import Dispatcher
from clinvk.errors import ClinvkError, ConfigError
from clinvk.model.outcome import RunResult
from clinvk.model.plan import Plan
from clinvk.model.request import Request
from clinvk.model.result import Failure
from clinvk.model.usage import Usage
from clinvk.plans import parse
from clinvk.plans.loops.condition import ConditionError, check_condition, holds
from clinvk.plans.loops.findings import FINDINGS, count_findings, describe_findings
from clinvk.plans.taskfile.defaults import Defaults
from clinvk.reports.github import workflow_commands
from clinvk.runs.folder import RunStore
from clinvk.testing import FakeBackend, FakeExecutor, Reply, fake_backend
from tests.conftest import CommandLine, Home, wait_for
from tests.desk import kill
from tests.everywhere import everywhere
from tests.stores import keep

CLEAN = "length(steps.review.findings) == `0`"
LOOP = {"steps": ["fix", "review"], "until": CLEAN, "max": 3}


def found(count: int) -> Reply:
    """The answer of a reviewer who has found that much."""
    findings = [
        {"file": f"f{i}.py", "line": i or None, "severity": "high", "message": "it\nis wrong."}
        for i in range(count)
    ]
    answer = {"findings": findings}
    return Reply(text=json.dumps(answer), structured=answer)


def steps(**keys: Any) -> list[dict[str, Any]]:
    """A step that fixes and one that reviews; `keys` are more of the first one."""
    return [
        {"name": "fix", "backend": "fixer", "prompt": "do it", "again": "{{previous}}", **keys},
        {"name": "review", "backend": "reviewer", "schema": "findings", "prompt": "look"},
    ]


LAST = {"name": "report", "backend": "fixer", "prompt": "{{steps.fix.output}} in the end"}


class Shop:
    """A home with two made-up CLIs."""

    def __init__(self, home: Home, clinvk: CommandLine) -> None:
        self.home = home
        self.clinvk = clinvk
        self.fixer = self.backend("fixer", [f"fixed {n}" for n in range(1, 9)])
        self.reviewer = self.backend("reviewer", [found(0)])

    def backend(self, name: str, answers: Any) -> FakeBackend:
        return fake_backend(self.home.path, name, answers)

    def reviews(self, *counts: int) -> None:
        self.reviewer = self.backend("reviewer", [found(count) for count in counts])

    def dispatcher(self) -> Dispatcher:
        return keep(Dispatcher(loading.load(self.home.env), env=self.home.env))

    def run(self, steps: list[Any], repeat: Any = LOOP, **rules: Any) -> RunResult:
        """A run of these steps, here and now."""
        rules = {"workdir": self.home.work, **rules}
        return fanout.chain(steps, dispatcher=self.dispatcher(), repeat=repeat, **rules)

    def file(self, steps: list[Any], repeat: Any = LOOP, **keys: Any) -> str:
        data = {"steps": steps, "repeat": repeat, **keys}
        (self.home.work / "chain.yaml").write_text(json.dumps(data))
        return "chain.yaml"

    def plan(self, steps: list[Any], repeat: Any = LOOP, **rules: Any) -> Plan:
        data = {"steps": steps, "repeat": repeat, **rules}
        return parse.parse_plan(data, "chain.yaml", "chain", Defaults())


@pytest.fixture
def shop(home: Home, clinvk: CommandLine) -> Shop:
    return Shop(home, clinvk)


def states(result: RunResult) -> dict[str, str]:
    return {o.name: "not needed" if o.is_not_needed else o.state for o in result.results}


def message(result: RunResult, name: str) -> str:
    error = next(o.error for o in result.results if o.name == name)
    return error.message if error else ""


# When a loop ends


@everywhere
def test_a_loop_ends_as_soon_as_its_condition_holds(shop: Shop):
    shop.reviews(2, 1, 0)
    result = shop.run([*steps(), LAST], repeat={**LOOP, "max": 5})
    assert (result.state, result.exit_code) == ("done", 0)
    assert states(result) == {
        **dict.fromkeys(("fix#1", "review#1", "fix#2", "review#2", "fix#3", "review#3"), "done"),
        **dict.fromkeys(("fix#4", "review#4", "fix#5", "review#5"), "not needed"),
        "report": "done",
    }
    assert message(result, "fix#4") == "the loop reached its goal in round 3"
    assert len(shop.reviewer.calls) == 3
    # Each round knows what the one before has found, and what follows knows the last one.
    assert [json.loads(p)["findings"][0]["file"] for p in shop.fixer.prompts[1:3]] == ["f0.py"] * 2
    assert [shop.fixer.prompts[0], shop.fixer.prompts[3]] == ["do it", "fixed 3 in the end"]


@everywhere
def test_a_loop_that_never_reaches_its_goal_fails_and_says_what_is_left(shop: Shop):
    shop.reviews(3, 2, 1)
    result = shop.run([*steps(), LAST])
    assert (result.state, result.exit_code) == ("failed", 65)
    assert states(result)["review#3"] == "failed"
    assert states(result)["report"] == "skipped"
    last = result.results[5]
    assert last.error is not None
    assert last.error.kind == "loop"
    assert last.error.message == (
        "the loop did not reach its goal in 3 rounds; 1 finding left: f0.py: high: it is wrong"
    )
    assert last.structured == found(1).structured


@everywhere
@pytest.mark.parametrize("second", [2, 3])
def test_a_loop_stops_if_the_number_of_findings_does_not_decrease(shop: Shop, second: int):
    shop.reviews(2, second, 0)
    result = shop.run([*steps(), LAST], repeat={**LOOP, "max": 9})
    assert result.exit_code == 65
    assert len(shop.reviewer.calls) == 2  # nothing more is paid
    assert len(shop.fixer.calls) == 2
    assert (
        f"the loop ended in round 2: the number of findings did not decrease (2, {second})"
        in message(result, "review#2")
    )
    assert states(result)["fix#3"] == "not needed"
    assert states(result)["report"] == "skipped"


def test_other_answers_than_findings_only_end_a_loop_by_its_condition(shop: Shop):
    (shop.home.work / "s.json").write_text('{"type": "object", "properties": {"clean": {}}}')
    answers = [
        Reply(text=json.dumps(a), structured=a) for a in ({"clean": False}, {"clean": False})
    ]
    shop.reviewer = shop.backend("reviewer", answers)
    two = steps()
    two[1]["schema"] = str(shop.home.work / "s.json")
    result = shop.run(two, repeat={**LOOP, "until": "steps.review.clean"})
    assert len(shop.reviewer.calls) == 3
    assert message(result, "review#3") == (
        "the loop did not reach its goal in 3 rounds; it is not true that steps.review.clean"
    )


def test_a_condition_without_a_value_ends_the_loop_at_once(shop: Shop):
    (shop.home.work / "s.json").write_text('{"type": "object", "properties": {"left": {}}}')
    shop.reviewer = shop.backend("reviewer", [Reply(text="{}", structured={"other": 1})])
    two = steps()
    two[1]["schema"] = str(shop.home.work / "s.json")
    result = shop.run(two, repeat={**LOOP, "until": "length(steps.review.left) == `0`"})
    assert result.exit_code == 65
    assert len(shop.reviewer.calls) == 1
    assert message(result, "review#1").startswith(
        "`until` could not be evaluated after round 1: In function length()"
    )


@everywhere
def test_a_step_that_fails_ends_the_chain_with_its_own_code(shop: Shop):
    shop.reviews(1, 0)
    shop.fixer = shop.backend("fixer", ["fixed 1", Failure("backend", "boom"), "never"])
    result = shop.run([*steps(), LAST])
    assert result.exit_code == 1
    assert [*states(result).values()] == [
        "done", "done", "failed", "skipped", "not needed", "not needed", "skipped",
    ]  # fmt: skip
    assert len(shop.fixer.calls) == 2


def test_a_chain_that_continues_after_failures_leaves_its_loop(shop: Shop):
    shop.reviews(1, 1)
    result = shop.run([*steps(), LAST], stop_on_failure=False)
    assert states(result)["review#2"] == "failed"
    assert states(result)["fix#3"] == "not needed"
    assert states(result)["report"] == "done"
    assert shop.fixer.prompts[-1] == "fixed 2 in the end"
    strict = shop.run([*steps(), {**LAST, "needs": "review"}], stop_on_failure=False)
    assert states(strict)["report"] == "skipped"


@everywhere
def test_a_reviewer_whose_answer_does_not_match_is_asked_again_and_then_fails(shop: Shop):
    bad = Reply(text='{"findings": 3}', structured={"findings": 3})
    shop.reviewer = shop.backend("reviewer", [bad, found(0)])
    assert shop.run(steps()).state == "done"
    assert len(shop.reviewer.calls) == 2
    shop.reviewer = shop.backend("reviewer", [bad])
    result = shop.run(steps())
    assert result.exit_code == 1
    assert states(result)["review#1"] == "failed"
    assert result.results[1].error is not None
    assert result.results[1].error.kind == "schema"
    assert states(result)["fix#2"] == "not needed"


@pytest.mark.anyio
async def test_a_loop_runs_in_every_event_loop(shop: Shop):
    shop.reviews(1, 0)
    result = await fanout.achain(
        [*steps(), LAST], dispatcher=shop.dispatcher(), repeat=LOOP, workdir=shop.home.work
    )
    assert [*states(result).values()] == ["done"] * 4 + ["not needed"] * 2 + ["done"]


# Until a check passes

FIXES = {"steps": ["fix", "report"], "until": "check", "max": 4}


def checked(check: str, **keys: Any) -> list[dict[str, Any]]:
    again = "still: {{steps.fix.check}}"
    return [{**steps()[0], "again": again, "check": check, **keys}, LAST]


@everywhere
def test_a_loop_until_a_check_passes_gives_its_output_to_the_next_round(shop: Shop):
    check = "echo x >>tries; test $(wc -l <tries) -ge 3 || { echo not yet $(cat tries); exit 1; }"
    result = shop.run(checked(check), repeat=FIXES)
    assert (result.state, result.exit_code) == ("done", 0)
    assert [*states(result).values()] == ["done"] * 6 + ["not needed"] * 2
    assert [o.check and o.check.state for o in result.results[:5:2]] == [
        "failed", "failed", "unchanged",
    ]  # fmt: skip
    still = shop.fixer.prompts[2]
    assert still.startswith("still: check failed: echo x")
    assert still.endswith("\nnot yet x")
    assert shop.fixer.prompts[1] == "fixed 1 in the end"  # every round is run to its end


@everywhere
def test_a_check_that_fails_in_the_same_way_again_ends_the_loop(shop: Shop):
    result = shop.run(checked("echo no; exit 1"), repeat=FIXES)
    assert result.exit_code == 65
    assert [*states(result).values()][:4] == ["done", "done", "failed", "skipped"]
    assert "the loop ended in round 2: the same failure occurred again" in message(result, "fix#2")
    assert len(shop.fixer.calls) == 3


def test_a_check_that_still_fails_in_the_last_round_fails_the_loop(shop: Shop):
    check = "echo x >>tries; tr '\\n' x <tries; exit 1"
    result = shop.run(checked(check), repeat={**FIXES, "max": 2})
    assert result.exit_code == 65
    assert result.results[2].error is not None
    assert result.results[2].error.kind == "check"
    assert "the loop ended after 2 rounds" in message(result, "fix#2")


@pytest.mark.parametrize(
    ("check", "more"), [("/does/not/exist", {}), ("rm kept; exit 1", {"protect": "kept"})]
)
def test_a_check_that_no_round_can_fix_ends_the_loop_at_once(
    shop: Shop, check: str, more: dict[str, Any]
):
    (shop.home.work / "kept").touch()
    result = shop.run(checked(check, **more), repeat=FIXES)
    assert result.exit_code == 65
    assert len(shop.fixer.calls) == 1


def test_a_check_that_fails_in_another_kind_of_loop_fails_its_step(shop: Shop):
    result = shop.run(steps(check="exit 1"))
    assert (states(result)["fix#1"], result.exit_code) == ("failed", 65)
    assert shop.reviewer.calls == []


# Sessions and directories


@everywhere
def test_the_first_step_keeps_its_session_and_the_others_begin_new_ones(shop: Shop):
    shop.reviews(2, 1, 0)
    result = shop.run(steps())
    first, review, second, again, *_ = result.results
    assert second.session_id == first.session_id
    assert len({o.session_id for o in result.results}) == 4
    assert "--resume" in shop.fixer.calls[1]["args"]
    assert not any("--resume" in call["args"] for call in shop.reviewer.calls)
    assert review.session_id != again.session_id


def test_the_file_says_which_steps_keep_their_sessions(shop: Shop):
    shop.reviews(1, 0, 0)
    shop.run(steps(), repeat={**LOOP, "keep_session": ["review"]})
    assert [["--resume" in c["args"] for c in b.calls] for b in (shop.fixer, shop.reviewer)] == [
        [False, False], [False, True],
    ]  # fmt: skip


def test_a_session_is_passed_on_past_the_reviewers(shop: Shop):
    shop.reviews(1, 0)
    result = shop.run(
        [{"name": "plan", "backend": "fixer", "prompt": "plan"}, *steps(), LAST], pass_session=True
    )
    by_name = {o.name: o.session_id for o in result.results if o.attempts}
    assert len({by_name[n] for n in ("plan", "fix#1", "fix#2", "report")}) == 1
    assert len({*by_name.values()}) == 3


def test_directories_are_passed_on_as_without_a_loop(shop: Shop):
    shop.reviews(1, 0)
    for name in ("a", "b"):
        (shop.home.work / name).mkdir()
    first, second = steps()
    result = shop.run(
        [
            {"name": "plan", "backend": "fixer", "prompt": "plan", "workdir": shop.home.work / "a"},
            first, {**second, "workdir": shop.home.work / "b"}, LAST,
        ],
        pass_working_dir=True, workdir=None,
    )  # fmt: skip
    assert result.ok, result
    assert [Path(c["cwd"]).name for c in shop.fixer.calls] == ["a", "a", "a", "b"]
    assert [Path(c["cwd"]).name for c in shop.reviewer.calls] == ["b", "b"]


def test_an_ephemeral_loop_cannot_keep_a_session(shop: Shop):
    shop.reviews(1, 0)
    with pytest.raises(ConfigError, match="keep from round to round") as caught:
        shop.run(steps(), ephemeral=True)
    assert "keep_session: []" in (caught.value.hint or "")
    result = shop.run(steps(), repeat={**LOOP, "keep_session": []}, ephemeral=True)
    assert result.ok
    assert [*states(result).values()] == ["done"] * 4 + ["not needed"] * 2


def test_two_loops_follow_each_other(shop: Shop):
    shop.reviews(1, 0, 1, 0)
    second = [
        {"name": "polish", "backend": "fixer", "prompt": "after {{steps.fix.output}}"},
        {**steps()[1], "name": "look"},
    ]
    loops = [
        LOOP,
        {"steps": ["polish", "look"], "until": CLEAN.replace("review", "look"), "max": 2},
    ]
    result = shop.run([*steps(), *second, LAST], repeat=loops)
    assert result.ok
    assert shop.fixer.prompts[2:] == ["after fixed 2", "after fixed 2", "fixed 2 in the end"]


# Runs that were interrupted


def by_prompt(request: Request) -> Reply | str:
    """One finding less in each round; it only depends on the prompt."""
    if request.prompt.startswith("look"):
        return found(3 - int(request.prompt.split()[-1]))
    if request.prompt.startswith("do it"):
        return "1"
    return str(4 - len(json.loads(request.prompt)["findings"]))


REVIEWED = [
    {"name": "fix", "backend": "echo", "prompt": "do it", "again": "{{previous}}"},
    {
        "name": "review", "backend": "echo", "schema": "findings",
        "prompt": "look {{steps.fix.output}}",
    },
    {"name": "report", "backend": "echo", "prompt": "look {{tasks.fix.output}}"},
]  # fmt: skip


@pytest.mark.parametrize("longest", [2, 5])
def test_a_run_that_was_killed_anywhere_repeats_no_round(shop: Shop, tmp_path: Path, longest: int):
    """After each line of the journal: what had ended stays so, and what follows is run once."""
    repeat = {**LOOP, "max": longest}
    whole = FakeExecutor(by_prompt)
    result = shop.run(REVIEWED, repeat=repeat, executor=whole)
    assert result.exit_code == (0 if longest == 5 else 65)
    assert result.id
    folder = RunStore(shop.home.path).find(result.id).path
    kept = tmp_path / "kept"
    shutil.copytree(folder, kept)
    lines = (kept / "journal.jsonl").read_bytes().splitlines(keepends=True)
    for cut in range(1, len(lines) + 1):
        shutil.rmtree(folder)
        shutil.copytree(kept, folder)
        (folder / "journal.jsonl").write_bytes(b"".join(lines[:cut]))
        events = [json.loads(line) for line in lines[:cut]]
        begun = [e["task"] for e in events if e["event"] == "started"]
        for log in (folder / "tasks").glob("*.jsonl"):
            if int(log.stem) - 1 not in begun:
                log.unlink()
        rest = FakeExecutor(by_prompt)
        resumed = package.resume_run(result.id, dispatcher=shop.dispatcher(), executor=rest)
        assert states(resumed) == states(result), (cut, lines[cut - 1])
        assert [o.output for o in resumed.results] == [o.output for o in result.results]
        # A step that had begun has its result in its events, so it is not run again.
        assert len(begun) + len(rest.requests) == len(whole.requests)
        assert resumed.exit_code == result.exit_code
        assert [o.error and o.error.message for o in resumed.results] == [
            o.error and o.error.message for o in result.results
        ]


def test_a_review_that_only_its_session_knows_still_decides(shop: Shop):
    """clinvk was killed after the answer was saved, and before the run could note it."""
    shop.reviews(1, 0)
    result = shop.run(steps())
    assert result.id
    run = RunStore(shop.home.path).find(result.id)
    folder = run.path
    lines = (folder / "journal.jsonl").read_bytes().splitlines(keepends=True)
    events = [json.loads(line) for line in lines]
    at = next(i for i, e in enumerate(events) if e["event"] == "started" and e["task"] == 3)
    (folder / "journal.jsonl").write_bytes(b"".join(lines[: at + 1]))
    log = run.events_path(3)
    log.write_bytes(b"".join(log.read_bytes().splitlines(keepends=True)[:-1]))
    calls = len(shop.fixer.calls) + len(shop.reviewer.calls)
    resumed = package.resume_run(result.id, dispatcher=shop.dispatcher())
    assert states(resumed) == states(result)
    assert len(shop.fixer.calls) + len(shop.reviewer.calls) == calls


@pytest.fixture
def started(shop: Shop) -> Iterator[Callable[..., Any]]:
    """Starts `clinvk chain`, and ends it in any case."""
    drivers: list[Any] = []

    def start(*words: str) -> Any:
        drivers.append(driver := shop.clinvk.start("chain", *words, "-q"))
        return driver

    yield start
    for driver in drivers:
        if driver.poll() is None:
            kill(driver)
        driver.communicate()


@pytest.mark.parametrize("where", ["fixer", "reviewer"])
def test_a_loop_killed_in_its_second_round_is_resumed_in_it(
    shop: Shop, started: Callable[..., Any], where: str
):
    shop.reviews(2, 1, 0)
    held = Reply(text="held", delay=math.inf)
    answers = {"fixer": ["fixed 1", held, "fixed 2", "fixed 3", "end"],
               "reviewer": [found(2), held, found(1), found(0)]}[where]  # fmt: skip
    backend = shop.backend(where, answers)
    driver = started(shop.file([*steps(), LAST]))
    wait_for(lambda: len(backend.calls) == 2, "the second round", 30)
    kill(driver)
    result = package.resume_run("last", dispatcher=shop.dispatcher(), rerun_indeterminate=True)
    assert result.exit_code == 0, states(result)
    assert {*states(result).values()} == {"done"}
    assert [len(shop.fixer.calls), len(shop.reviewer.calls)] == (
        [5, 3] if where == "fixer" else [4, 4]
    )


def test_ctrl_c_ends_a_loop_which_can_be_resumed(shop: Shop, started: Callable[..., Any]):
    shop.reviews(1, 0)
    shop.fixer = shop.backend("fixer", ["1", Reply(text="2", delay=math.inf), "2", "3"])
    driver = started(shop.file([*steps(), LAST]))
    wait_for(lambda: len(shop.fixer.calls) == 2, "the second round", 30)
    driver.send_signal(signal.SIGINT)
    assert driver.wait(30) == 7
    data = shop.clinvk.json("runs", "resume", "--rerun-indeterminate", "--json")
    assert (data["state"], data["exit_code"]) == ("done", 0)
    assert [len(shop.fixer.calls), len(shop.reviewer.calls)] == [4, 2]


@everywhere
def test_a_loop_whose_budget_is_spent_is_resumed(shop: Shop):
    paid = Usage(input=50, output=50)
    fake = FakeExecutor(lambda r: Reply(text="x", usage=paid) if r.prompt == "do it" else found(1))
    rules = {"budget": {"tokens": 100}, "defaults": {"backend": "echo"}}
    result = shop.run([{**s, "backend": "echo"} for s in steps()], executor=fake, **rules)
    assert [*states(result).values()] == ["done"] + ["cancelled"] * 5
    assert len(fake.requests) == 1


def test_a_review_that_is_retried_opens_the_later_rounds_again(shop: Shop):
    shop.reviews(2, 2, 1, 0)
    first = shop.run([*steps(), LAST])
    assert (first.exit_code, states(first)["fix#3"]) == (65, "not needed")
    assert first.id
    nothing = package.resume_run(first.id, dispatcher=shop.dispatcher())
    assert states(nothing) == states(first)
    result = package.retry_run(first.id, dispatcher=shop.dispatcher())
    assert {*states(result).values()} == {"done"}
    assert (result.exit_code, len(shop.reviewer.calls)) == (0, 4)


def test_a_step_retried_in_a_loop_that_had_ended_opens_no_round(shop: Shop):
    shop.reviews(0)
    first = shop.run([*steps(), LAST])
    assert first.id
    result = package.retry_run(first.id, ["fix#1"], dispatcher=shop.dispatcher())
    assert states(result) == states(first)
    assert len(shop.reviewer.calls) == 1


def test_a_checkpoint_of_a_loop_runs_only_what_changed(shop: Shop):
    shop.reviews(1, 0)
    flows = keep(WorkflowManager(shop.dispatcher()))

    def execute(last: str, until: str = CLEAN, **names: str) -> RunResult:
        data = {"steps": [*steps(), {**LAST, "prompt": last}], "repeat": {**LOOP, "until": until}}
        flows.register("flow", data)
        return flows.execute("flow", workdir=shop.home.work, **names)

    assert execute("end", checkpoint="mine").ok
    assert execute("end", resume="mine").ok
    assert (len(shop.fixer.calls), len(shop.reviewer.calls)) == (3, 2)
    changed = execute("another end", resume="mine")
    assert [*states(changed).values()] == ["done"] * 4 + ["not needed"] * 2 + ["done"]
    assert (len(shop.fixer.calls), len(shop.reviewer.calls)) == (4, 2)
    # With another condition, one round had been enough: the second was run before, and stays.
    assert execute("another end", "length(steps.review.findings) <= `1`", resume="mine").ok
    assert len(shop.reviewer.calls) == 2


# Input


@pytest.mark.parametrize(
    ("repeat", "where", "problem"),
    [
        ("fix", "repeat", "expected the keys of a loop"),
        ({**LOOP, "steps": ["fix", "reviw"]}, "repeat.steps[1]", "no step 'reviw'; did you mean"),
        ({**LOOP, "steps": []}, "repeat.steps", "it names no step"),
        ({"until": CLEAN, "max": 3}, "repeat.steps", "it names no step"),
        ({**LOOP, "steps": ["fix", "fix"]}, "repeat.steps[1]", "step 'fix' is there twice"),
        ({**LOOP, "steps": ["review", "fix"]}, "repeat.steps[1]", "'fix' comes before 'review'"),
        ({**LOOP, "steps": ["fix", "end"]}, "repeat.steps[1]", "step 'review' is between"),
        ({**LOOP, "steps": [{"repeat": LOOP}]}, "repeat.steps[0]", "cannot contain another loop"),
        ({**LOOP, "steps": [{"name": "x"}]}, "repeat.steps[0]", "expected the name of a step"),
        ({**LOOP, "repeat": LOOP}, "repeat.repeat", "a loop cannot contain another loop"),
        ([LOOP, LOOP], "repeat[1].steps", "step 'fix' is part of two loops"),
        ({**LOOP, "max": 0}, "repeat.max", "0 is too small; it can be 1 to 50"),
        ({**LOOP, "max": -1}, "repeat.max", "too small"),
        ({**LOOP, "max": 1000}, "repeat.max", "1000 is too large"),
        ({**LOOP, "max": True}, "repeat.max", "expected a whole number"),
        ({**LOOP, "max": "3"}, "repeat.max", "expected a whole number"),
        ({**LOOP, "max": None}, "repeat.max", "how many rounds"),
        ({**LOOP, "until": None}, "repeat.until", "when does the loop end?"),
        ({**LOOP, "until": True}, "repeat.until", "expected an expression"),
        ({**LOOP, "until": " "}, "repeat.until", "it is empty"),
        ({**LOOP, "until": "steps.review.findings["}, "repeat.until", "not JMESPath"),
        ({**LOOP, "until": "steps.fix.x"}, "repeat.until", "step 'fix' has no schema"),
        ({**LOOP, "until": "steps.end.x"}, "repeat.until", "the loop has no step 'end'"),
        ({**LOOP, "until": "steps.review.finding"}, "repeat.until", "has no 'finding'; did you"),
        ({**LOOP, "until": "check"}, "repeat.until", "no step of the loop has a check"),
        ({**LOOP, "untl": CLEAN}, "repeat.untl", "unknown key 'untl'; did you mean 'until'?"),
        ({**LOOP, "keep_session": "end"}, "repeat.keep_session[0]", "is not part of the loop"),
    ],
)  # fmt: skip
def test_an_invalid_loop_is_refused_with_its_place(
    shop: Shop, repeat: Any, where: str, problem: str
):
    with pytest.raises(ConfigError) as caught:
        shop.plan([*steps(), {"name": "end", "prompt": "end"}], repeat)
    assert f"chain.yaml: {where}: " in caught.value.message
    assert problem in caught.value.message


@pytest.mark.parametrize(
    ("more", "where", "problem"),
    [
        ({"prompt": "{{steps.review.output}}"}, "steps[0]", "empty in the first round"),
        ({"again": " "}, "steps[0].again", "the prompt is empty"),
        ({"again": "{{steps.end.output}}"}, "steps[0]", "step 'end' comes after 'fix'"),
        ({"again": "{{steps.reviw.output}}"}, "steps[0]", "there is no step 'reviw'"),
        ({"again": "{{steps.review.error}}"}, "steps[0]", "always empty"),
        ({"prompt": "x {{previous}}"}, "steps[0]", "nothing comes before 'fix'"),
        ({"needs": "review"}, "steps[0]", "step 'review' comes after 'fix'"),
        ({"repeat": LOOP}, "steps[0].repeat", "a loop is a key of the file"),
    ],
)
def test_an_invalid_step_of_a_loop_is_refused_with_its_place(
    shop: Shop, more: dict[str, Any], where: str, problem: str
):
    with pytest.raises(ConfigError) as caught:
        shop.plan([*steps(**more), {"name": "end", "prompt": "end"}])
    assert where in caught.value.message
    assert problem in caught.value.message


def test_another_prompt_for_later_rounds_needs_a_loop(shop: Shop):
    with pytest.raises(ConfigError, match="'end' is not part of a loop"):
        shop.plan([*steps(), {"name": "end", "prompt": "end", "again": "again"}])
    with pytest.raises(ConfigError, match="only a chain has loops"):
        parse.parse_plan({"tasks": steps(), "repeat": LOOP}, "t", "parallel", Defaults())


def test_the_line_of_an_error_is_named(shop: Shop):
    text = f"steps:\n  - {{name: fix, prompt: a}}\nrepeat:\n  steps: [fix]\n  until: {CLEAN}\n"
    (shop.home.work / "chain.yaml").write_text(text)
    done = shop.clinvk("chain", "chain.yaml")
    assert done.returncode == 3
    assert "chain.yaml: line 5: repeat.until: the loop has no step 'review'" in done.stderr


def test_steps_without_a_name_are_repeated_by_their_number(shop: Shop):
    plan = shop.plan(["a", {"prompt": "b", "check": "true"}, "c"], {"steps": [1, 2], "until": "check", "max": 2})  # fmt: skip
    assert [task.name for task in plan.tasks] == ["1#1", "2#1", "1#2", "2#2", "3"]


def test_a_loop_stands_beside_steps_with_several_candidates(shop: Shop):
    several = {"prompt": "go", "candidates": ["fixer", "reviewer"]}
    plan = shop.plan([{**several, "name": "pick"}, *steps(), {**several, "name": "last"}])
    names = [task.name for task in plan.tasks]
    assert names[:4] == ["pick[fixer]", "pick[reviewer]", "pick", "fix#1"]
    (loop,) = plan.loops
    assert [[names[i] for i in positions] for positions in loop.rounds] == [
        [f"fix#{n}", f"review#{n}"] for n in (1, 2, 3)
    ]
    second = plan.tasks[names.index("fix#2")]
    assert (names[second.repeats or 0], names[second.continues or 0]) == ("fix#1", "fix#1")


# Expressions


@pytest.mark.parametrize(
    "text",
    [
        CLEAN,
        "!(steps.review.findings)",
        "steps.review.findings[?severity=='high'] | length(@) == `0`",
        "steps.*.findings[] | length(@) == `0`",
        "steps.review.findings[0].severity == 'low'",
        'length(steps."the docs".anything) == `0`',
    ],
)
def test_a_condition_is_an_expression_over_the_answers(text: str):
    check_condition(text, {"fix": None, "review": FINDINGS, "the docs": {"type": "object"}})


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("`true`", "it depends on no answer"),
        ("review.findings", "unknown name 'review'; did you mean steps.review?"),
        ("!steps.review.findings", "parentheses after `!`"),
        ("length(steps.review.findings)", "it is a number"),
        ("len(steps.review.findings) == `0`", "unknown function len(); did you mean 'length'?"),
        ("length(steps.review.findings, `1`) == `0`", "length() takes 1 argument, not 2"),
        ("length(steps.review.findings) == 0", "not JMESPath"),
    ],
)
def test_an_invalid_condition_is_found_before_anything_runs(text: str, problem: str):
    with pytest.raises(ConditionError) as caught:
        check_condition(text, {"fix": None, "review": FINDINGS})
    assert problem in str(caught.value)


def test_the_value_of_a_condition_is_true_or_false():
    answers = {"review": {"findings": [], "n": 0}}
    assert holds(CLEAN, answers)
    assert not holds("steps.review.findings", answers)
    for text in ("steps.review.n", "length(steps.review.nothing)"):
        with pytest.raises(ConditionError):
            holds(text, answers)


def test_findings_are_counted_and_described():
    answer = found(7).structured
    assert count_findings([None, "text", {"findings": 1}, []]) is None
    assert count_findings([answer, {"findings": []}]) == 7
    assert describe_findings([{"findings": ["odd\x1b[31m", {"file": "a"}]}]) == "odd; a"
    assert describe_findings([answer]).endswith("; and 2 more")


# What is shown


def test_a_dry_run_shows_the_loop_and_starts_nothing(shop: Shop):
    path = shop.file([*steps(), LAST], {**LOOP, "max": 9})
    shown = shop.clinvk("chain", path, "--dry-run").stdout
    assert f"repeat fix, review until {CLEAN}, in at most 9 rounds" in shown
    assert "schema=findings" in shown
    assert ("fix#2" in shown, "fix#3" in shown) == (True, False)
    data = shop.clinvk.json("chain", path, "--dry-run", "--json")
    assert data["loops"] == [{"steps": ["fix", "review"], "until": CLEAN, "max": 9}]
    assert len(data["tasks"]) == 19
    assert shop.fixer.calls == []


@everywhere
def test_reports_show_rounds_that_were_not_needed_as_no_problem(shop: Shop):
    shop.reviews(1, 0)
    path = shop.file([*steps(), LAST])
    done = shop.clinvk("chain", path, "--junit", "j.xml", "--report", "r.md")
    assert done.returncode == 0
    assert "not needed" in done.stdout
    assert "fix#3, review#3: the loop reached its goal in round 2" in done.stdout
    assert 'skipped="2"' in (shop.home.work / "j.xml").read_text()
    result = RunStore(shop.home.path).find("last").result()
    assert [*workflow_commands(result)] == []
    assert shop.clinvk("runs", "show").returncode == 0
    assert "the loop reached its goal in round 2" in (shop.home.work / "r.md").read_text()


def test_findings_is_a_schema_of_every_command(shop: Shop):
    done = shop.clinvk("-b", "reviewer", "--schema", "findings", "-o", "json", "look")
    assert json.loads(done.stdout)["structured"] == {"findings": []}
    result = package.run(
        "look", backend="reviewer", schema="findings", dispatcher=shop.dispatcher()
    )
    assert result.structured == {"findings": []}
    with pytest.raises(ClinvkError, match="not JSON"):
        package.run("look", backend="reviewer", schema="finding", dispatcher=shop.dispatcher())
