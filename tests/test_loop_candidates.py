"""Steps of loops with several candidates: each round starts from what the one before has chosen."""

import json
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import clinvk as api
from clinvk.errors import ConfigError
from clinvk.plans import parse
from clinvk.plans.taskfile.defaults import Defaults
from tests.applied_runs import FILES, Repository
from tests.conftest import CommandLine, Home, wait_for
from tests.desk import kill
from tests.everywhere import everywhere
from tests.needs import need
from tests.stores import keep

need("git")

CHECK_FAILED = 65
# It adds that many lines to those with which it was started, each with the number of the line.
ADDS = """#!/bin/bash
cat > /dev/null
git show HEAD:made.txt 2> /dev/null > made.txt
for n in $(seq {lines}); do echo "{name} $(wc -l < made.txt)" >> made.txt; done
echo '{{"type": "end", "text": "added by {name}"}}'
"""
# It finds something as long as there are fewer than four lines.
REVIEWER = f"""#!{sys.executable}
import json, sys
sys.stdin.read()
with open("made.txt") as made:
    left = 4 - len(made.readlines())
found = [{{"file": "made.txt", "line": 1, "severity": "low", "message": "more"}}] * left
print(json.dumps({{"type": "end", "text": json.dumps({{"findings": found}})}}))
"""
COUNT = "grep -c . made.txt"
ENOUGH = "test $(cat made.txt | wc -l) -ge {lines} || {{ cat made.txt; exit 1; }}"
LINES = {"short": 1, "long": 2}  # that each of them adds
FIX: dict[str, Any] = {
    "name": "fix", "prompt": "fix it", "check": ENOUGH.format(lines=5), "score": COUNT,
    "candidates": ["short", "long"],
}  # fmt: skip
LOOP = {"steps": ["fix"], "until": "check", "max": 4}
LOOK = {"name": "look", "prompt": "{{steps.fix.output}}", "backend": "echo"}


@pytest.fixture
def repository(home: Home) -> Repository:
    for name, lines in LINES.items():
        home.backend(name, ADDS.format(name=name, lines=lines))
    home.backend("none", '#!/bin/bash\ncat >/dev/null\necho \'{"type": "end", "text": "no"}\'\n')
    return Repository(home.work, FILES)


def write_plan(home: Home, *steps: dict[str, Any], **data: Any) -> str:
    path = home.path.parent / "chain.json"
    path.write_text(json.dumps({"steps": steps, "repeat": LOOP, **data}))
    return str(path)


def run(clinvk: CommandLine, home: Home, *steps: dict[str, Any], **data: Any) -> dict[str, Any]:
    done = clinvk("chain", write_plan(home, *steps, **data), "--json")
    assert done.stdout, done
    found = json.loads(done.stdout)
    assert found["exit_code"] == done.returncode
    assert isinstance(found, dict)
    return found


def by_name(found: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {task["name"]: task for task in found["results"]}


def states(found: dict[str, Any]) -> dict[str, str]:
    return {
        t["name"]: "not needed" if (t["error"] or {}).get("kind") == "not_needed" else t["state"]
        for t in found["results"]
    }


def plan_of(*steps: Any, **data: Any) -> Any:
    return parse.parse_plan({"steps": [*steps], "repeat": LOOP, **data}, "t", "chain", Defaults())


# What a round chooses.


@everywhere
def test_each_round_starts_from_the_best_candidate_of_the_one_before(
    clinvk: CommandLine, home: Home, repository: Repository
):
    found = run(clinvk, home, FIX, LOOK)
    assert found["exit_code"] == 0, [
        (t["name"], t["state"], t["output"], t["error"]) for t in found["results"]
    ]
    task = by_name(found)
    assert states(found) == {
        **{f"fix#{n}{c}": "done" for n in (1, 2, 3) for c in ("[short]", "[long]", "")},
        **dict.fromkeys(("fix#4[short]", "fix#4[long]", "fix#4"), "not needed"),
        "look": "done",
    }
    # Both fail their check in the first two rounds; the better one is the start of the next round.
    assert [task[f"fix#{n}"]["decision"]["best"] for n in (1, 2, 3)] == [
        f"fix#{n}[long]" for n in (1, 2, 3)
    ]
    assert [task[f"fix#{n}"]["check"]["state"] for n in (1, 2, 3)] == ["failed", "failed", "passed"]
    for number in (2, 3):
        start = task[f"fix#{number - 1}"]["worktree"]["commit"]
        for name in (f"fix#{number}[short]", f"fix#{number}[long]", f"fix#{number}"):
            assert task[name]["worktree"]["base"] == start, name
    assert task["look"]["output"].endswith("added by long")
    assert task["fix#4"]["error"]["message"] == "the loop reached its goal in round 3"
    assert found["total_tasks"] == 5


def test_a_candidate_whose_check_passed_comes_before_a_better_score(
    clinvk: CommandLine, home: Home, repository: Repository
):
    check = "grep -q 'short 0' made.txt || { cat made.txt; exit 1; }"
    found = run(clinvk, home, FIX | {"check": check})
    decision = by_name(found)["fix#1"]["decision"]
    assert (decision["best"], decision["decided_by"]) == ("fix#1[short]", "check")
    assert decision["summary"] == "fix#1[short] is best: its check passed"
    assert [c["check"] for c in decision["candidates"]] == ["passed", "failed"]
    assert states(found)["fix#2[short]"] == "not needed"


def test_a_loop_fails_if_no_candidate_of_its_last_round_passes(
    clinvk: CommandLine, home: Home, repository: Repository
):
    found = run(clinvk, home, FIX, LOOK, repeat=LOOP | {"max": 2})
    assert found["exit_code"] == CHECK_FAILED
    assert states(found) == {
        "fix#1[short]": "done", "fix#1[long]": "done", "fix#1": "done",
        "fix#2[short]": "failed", "fix#2[long]": "failed", "fix#2": "failed", "look": "skipped",
    }  # fmt: skip
    message = by_name(found)["fix#2"]["error"]["message"]
    assert message.startswith("none of the 2 candidates succeeded: fix#2[short]: check failed")
    assert message.endswith("; the loop ended after 2 rounds")


def test_a_loop_ends_if_the_best_candidates_fail_in_the_same_way(
    clinvk: CommandLine, home: Home, repository: Repository
):
    found = run(clinvk, home, FIX | {"check": "echo wrong; exit 1", "score": "echo 1"}, LOOK)
    assert (found["exit_code"], states(found)["fix#1"]) == (CHECK_FAILED, "done")
    second = by_name(found)["fix#2"]
    assert second["state"] == "failed"
    assert second["error"]["message"].endswith(
        "the loop ended in round 2: the same failure occurred again"
    )
    assert second["decision"]["best"] == "fix#2[short]"
    assert states(found)["fix#3[short]"] == "not needed"
    shown = clinvk("runs", "show").stdout
    assert "fix#3 " in shown
    assert "fix#3[short]" not in shown
    # What it had chosen can be applied all the same, and both are run again on request.
    done = clinvk("runs", "apply", "last", "fix#1", "fix#2")
    assert done.returncode == 0, done
    assert (home.work / "made.txt").read_text().split()[::2] == ["short"] * 2
    again = json.loads(clinvk("runs", "retry", "--json").stdout)
    assert {n: t["attempts"] for n, t in by_name(again).items() if n.startswith("fix#2")} == {
        "fix#2[short]": 2, "fix#2[long]": 2, "fix#2": 2}  # fmt: skip


@pytest.mark.parametrize("lowest", [False, True])
def test_the_same_failure_with_a_better_score_ends_no_loop(
    clinvk: CommandLine, home: Home, repository: Repository, lowest: bool
):
    """Numbers do not tell failures apart, but a score does."""
    check = "n=$(wc -l < made.txt); test $n -ge 5 || { echo $n lines; exit 1; }"
    score = "echo $((9 - $(wc -l < made.txt)))" if lowest else COUNT
    order = "lower" if lowest else "higher"
    found = run(clinvk, home, FIX | {"check": check, "score": score, "score_order": order})
    assert found["exit_code"] == 0, found
    assert by_name(found)["fix#3"]["decision"]["best"] == "fix#3[long]"
    order = "higher" if lowest else "lower"
    found = run(clinvk, home, FIX | {"check": check, "score": score, "score_order": order})
    assert by_name(found)["fix#2"]["error"]["message"].endswith("the same failure occurred again")


def test_a_candidate_that_fails_ends_no_loop(
    clinvk: CommandLine, home: Home, repository: Repository
):
    home.backend("bad", "#!/bin/bash\ncat > /dev/null\nexit 3\n")
    found = run(
        clinvk, home, FIX | {"candidates": ["bad", "long", "none"]}, repeat=LOOP | {"max": 3}
    )
    assert found["exit_code"] == 0, [
        (t["name"], t["state"], t["output"], t["error"]) for t in found["results"]
    ]
    assert [states(found)[f"fix#{n}[bad]"] for n in (1, 2, 3)] == ["failed"] * 3
    assert by_name(found)["fix#1"]["decision"]["best"] == "fix#1[long]"


@everywhere
def test_a_reviewer_looks_at_what_was_chosen_until_it_finds_nothing(
    clinvk: CommandLine, home: Home, repository: Repository
):
    home.backend("reviewer", REVIEWER)
    review = {"name": "review", "backend": "reviewer", "schema": "findings", "prompt": "look"}
    fix = {k: v for k, v in FIX.items() if k != "check"} | {"again": "also: {{previous}}"}
    until = "length(steps.review.findings) == `0`"
    found = run(clinvk, home, fix, review,
                repeat={"steps": ["fix", "review"], "until": until, "max": 3})  # fmt: skip
    assert found["exit_code"] == 0, [
        (t["name"], t["state"], t["output"], t["error"]) for t in found["results"]
    ]
    task = by_name(found)
    assert {n for n, state in states(found).items() if state == "not needed"} == {
        "fix#3[short]", "fix#3[long]", "fix#3", "review#3"}  # fmt: skip
    assert task["fix#2[short]"]["worktree"]["base"] == task["review#1"]["worktree"]["commit"]
    assert task["review#2"]["worktree"]["base"] == task["fix#2[long]"]["worktree"]["commit"]


def test_a_round_that_was_not_needed_is_named_without_its_candidates(
    clinvk: CommandLine, home: Home, repository: Repository
):
    done = clinvk("chain", write_plan(home, FIX), "--report", "r.md", "--junit", "j.xml")
    assert done.returncode == 0, done
    assert "[12/12] fix#4: – not needed" in done.stderr
    assert "– fix#4: the loop reached its goal in round 3" in done.stdout
    report = (home.work / "r.md").read_text()
    assert "fix\\#3\\[long\\] is best: its score is 6" in report
    for text in (done.stdout, done.stderr, report.replace("\\", "")):
        assert "fix#4[" not in text
    junit = (home.work / "j.xml").read_text()
    assert 'tests="12" failures="0" errors="0" skipped="3"' in junit


# Its results.


def test_a_loop_is_applied_as_one_result_and_its_losers_can_be_dropped(
    clinvk: CommandLine, home: Home, repository: Repository
):
    found = run(clinvk, home, FIX, LOOK)
    assert found["exit_code"] == 0
    shown = clinvk("runs", "show").stderr
    assert "1 result is not applied" in shown
    done = clinvk("runs", "apply", "--commit")
    assert done.returncode == 0, done
    assert "✓ fix#3: 1 file, +6 -0 in 3 rounds" in done.stdout
    assert (home.work / "made.txt").read_text() == "".join(f"long {n}\n" for n in range(6))
    assert repository.git("log", "--format=%s", f"{repository.base}..") == "fix#3: fix it"
    again = clinvk.json("runs", "apply", "--json")
    assert [(t["name"], t["state"]) for t in again["tasks"]] == [
        ("fix#3", "already applied"), ("look", "unchanged")]  # fmt: skip
    # The worktrees of what was applied are gone; those of the others stay until they are dropped.
    folder = home.path / "worktrees" / found["id"]
    assert {p.name for p in folder.iterdir() if p.is_dir()} == {f"fix-{n}-short" for n in (1, 2, 3)}
    assert "+short 2" in clinvk("runs", "diff", "last", "fix#2[short]").stdout
    asked = clinvk("runs", "drop").stderr.splitlines()[:2]
    assert asked == [
        "fix: 3 rounds, 6 candidates, 1 file, +9 -0, 3 of 6 applied before", "look: no changes"]  # fmt: skip
    dropped = clinvk("runs", "drop", "--yes")
    assert "Dropped fix: 3 rounds, 6 candidates, 1 file, +9 -0" in dropped.stdout
    assert f"the commits of the other candidates: clinvk runs show {found['id']}" in dropped.stderr
    shown = clinvk("runs", "show")
    assert "fix#2[short]: dropped 20" in shown.stdout
    assert "not applied" not in shown.stderr
    assert not [p for p in folder.parent.glob("*/*") if p.is_dir()]
    assert repository.git("for-each-ref", "refs/clinvk") == ""


def test_a_loop_that_was_dropped_is_not_to_be_applied(
    clinvk: CommandLine, home: Home, repository: Repository
):
    run(clinvk, home, FIX)
    dropped = clinvk.json("runs", "drop", "--yes", "--json")["dropped"]
    assert [d["name"] for d in dropped] == [
        f"fix#{n}[{c}]" for n in (1, 2, 3) for c in ("short", "long")
    ]
    assert "not applied" not in clinvk("runs", "show").stderr
    assert "dropped 20" in clinvk("runs", "apply").stdout


def test_another_candidate_of_a_round_is_applied_if_it_is_named(
    clinvk: CommandLine, home: Home, repository: Repository
):
    run(clinvk, home, FIX)
    done = clinvk("runs", "apply", "last", "fix#1[short]")
    assert done.returncode == 0, done
    assert (home.work / "made.txt").read_text() == "short 0\n"


def test_clean_removes_the_worktrees_of_all_rounds(
    clinvk: CommandLine, home: Home, repository: Repository
):
    assert run(clinvk, home, FIX)["exit_code"] == 0
    assert clinvk("runs", "clean").returncode == 0
    assert not [p for p in (home.path / "worktrees").glob("*/*") if p.is_dir()]
    assert clinvk("runs", "apply").returncode == 0
    assert (home.work / "made.txt").read_text().count("long") == 6


# Killed, resumed, and run again.


def places(task: dict[str, Any]) -> set[str]:
    """What its refs and its worktree are called."""
    slug = task["worktree"]["ref"].split("/")[3]
    return set() if task.get("decision") else {slug, Path(task["worktree"]["path"]).name}


def forget(home: Home, repository: Repository, run: str, slugs: set[str]) -> None:
    """Remove the worktrees and results of tasks that had not begun yet."""
    for slug in slugs:
        for ref in repository.git(
            "for-each-ref", "--format=%(refname)", f"refs/clinvk/{run}/{slug}/"
        ).split():
            repository.git("update-ref", "-d", ref)
        path = home.path / "worktrees" / run / slug
        if path.exists():
            repository.git("worktree", "remove", "-f", "-f", str(path))
        path.with_suffix(".json").unlink(missing_ok=True)


def test_a_run_that_was_killed_anywhere_repeats_no_candidate(
    clinvk: CommandLine, home: Home, repository: Repository, tmp_path: Path
):
    """After each line of the journal: what had ended stays so, and what follows is run once."""
    calls = tmp_path / "calls"
    for name, lines in LINES.items():
        program = ADDS.format(name=name, lines=lines)
        home.backend(name, program.replace("cat >", f"echo {name} >> {calls}\ncat >", 1))
    # Each round fails in the same way, but with a better score.
    fix = FIX | {"check": "n=$(wc -l < made.txt); test $n -ge 5 || { echo $n lines; exit 1; }"}
    before = run(clinvk, home, fix, LOOK)
    assert before["exit_code"] == 0
    [folder] = (home.path / "runs").iterdir()
    kept = tmp_path / "kept"
    shutil.copytree(folder, kept)
    lines = (kept / "journal.jsonl").read_bytes().splitlines(keepends=True)
    cuts = [
        n for n, line in enumerate(lines, 1) if json.loads(line)["event"] in ("started", "ended")
    ]
    for cut in cuts:
        shutil.rmtree(folder)
        shutil.copytree(kept, folder)
        (folder / "journal.jsonl").write_bytes(b"".join(lines[:cut]))
        begun = [e["task"] for e in map(json.loads, lines[:cut]) if e["event"] == "started"]
        for log in (folder / "tasks").glob("*.jsonl"):
            if int(log.stem) - 1 not in begun:
                log.unlink()
        later = [t for t in before["results"] if t["index"] not in begun and t.get("worktree")]
        forget(home, repository, before["id"], {w for t in later for w in places(t)})
        sessions = [t["session_id"] for t in later if not t.get("decision")]
        assert not sessions or clinvk("sessions", "delete", *sessions, "--yes").returncode == 0
        calls.write_text("")
        found = json.loads(clinvk("runs", "resume", "--json").stdout)
        assert states(found) == states(before), lines[cut - 1]
        done = [before["results"][i] for i in begun]
        asked = [t for t in done if t.get("candidate_of")]
        assert len(calls.read_text().split()) == 6 - len(asked), lines[cut - 1]
        assert [t.get("decision") for t in found["results"]] == [
            t.get("decision") for t in before["results"]
        ]


@pytest.fixture
def started(clinvk: CommandLine) -> Iterator[list[Any]]:
    drivers: list[Any] = []
    yield drivers
    for driver in drivers:
        if driver.poll() is None:
            kill(driver)
        driver.communicate()


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_loop_stopped_in_its_second_round_is_resumed_in_it(
    clinvk: CommandLine, home: Home, repository: Repository, tmp_path: Path, started: list[Any],
    how: signal.Signals,
):  # fmt: skip
    here = tmp_path / "here"
    program = ADDS.format(name="short", lines=1)
    hold = f"if test -s made.txt && ! test -e {here}; then echo $$ > {here}; sleep 600; fi"
    home.backend("short", program.replace("for n", f"{hold}\nfor n", 1))
    plan = write_plan(home, FIX, LOOK)
    driver = clinvk.start("chain", plan, "-q")
    started.append(driver)
    wait_for(lambda: here.exists() and here.read_text(), "the second round", 60)
    os.kill(driver.pid, how)
    driver.communicate(timeout=60)
    found = json.loads(clinvk("runs", "resume", "--json").stdout)
    assert states(found)["fix#2[short]"] == "indeterminate"
    assert states(found)["fix#2"] in ("skipped", "queued", "cancelled"), states(found)
    done = clinvk("runs", "resume", "--rerun-indeterminate", "--json")
    found = json.loads(done.stdout)
    assert (done.returncode, found["state"]) == (0, "done")
    task = by_name(found)
    assert [task[f"fix#{n}[short]"]["attempts"] for n in (1, 2, 3)] == [1, 2, 1]
    assert task["fix#3"]["check"]["state"] == "passed"


def test_a_spent_budget_ends_a_loop_after_its_choice(
    clinvk: CommandLine, home: Home, repository: Repository
):
    check = "echo $RANDOM$RANDOM; exit 1"
    fix = {"name": "fix", "prompt": "x", "check": check, "backend": "echo", "candidates": 2}
    found = run(clinvk, home, fix, budget={"tokens": 1}, max_parallel=2)
    assert found["exit_code"] != 0
    state = states(found)
    # Whichever ends first spends it, and may end the other one.
    assert "done" in {state["fix#1[1]"], state["fix#1[2]"]}
    assert {state[f"fix#{n}[{c}]"] for n in (2, 3, 4) for c in (1, 2)} == {"cancelled"}


def test_retrying_the_last_round_runs_its_candidates_again(
    clinvk: CommandLine, home: Home, repository: Repository
):
    run(clinvk, home, FIX, repeat=LOOP | {"max": 2})
    home.backend("short", ADDS.format(name="short", lines=9))
    found = json.loads(clinvk("runs", "retry", "--json").stdout)
    assert found["exit_code"] == 0, [
        (t["name"], t["state"], t["output"], t["error"]) for t in found["results"]
    ]
    assert {n: t["attempts"] for n, t in by_name(found).items()} == {
        "fix#1[short]": 1, "fix#1[long]": 1, "fix#1": 1, "fix#2[short]": 2, "fix#2[long]": 2, "fix#2": 2,
    }  # fmt: skip
    assert by_name(found)["fix#2"]["decision"]["best"] == "fix#2[short]"


# What is refused, and shown.


@pytest.mark.parametrize(
    ("more", "where", "problem"),
    [
        ({"keep_session": ["look"]}, "repeat.keep_session", "'fix' has several candidates"),
        ({"keep_session": "fix"}, "repeat.keep_session", "'fix' has several candidates"),
        ({"until": "steps.fix.a"}, "repeat.until", "step 'fix' has no schema"),
    ],
)
def test_what_candidates_of_a_loop_cannot_do_is_refused(
    more: dict[str, Any], where: str, problem: str
):
    with pytest.raises(ConfigError) as caught:
        plan_of(FIX, LOOK, repeat=LOOP | {"steps": ["fix", "look"]} | more)
    assert where in caught.value.message
    assert problem in caught.value.message


def test_candidates_of_a_loop_have_one_schema():
    loop = LOOP | {"until": "steps.fix.findings"}
    several = FIX | {"candidates": [{"backend": "a", "schema": "findings"}, "b"]}
    with pytest.raises(ConfigError, match="the candidates of step 'fix' have different schemas"):
        plan_of(several, repeat=loop)
    plan_of(several | {"schema": "findings"}, repeat=loop)


def test_no_step_keeps_its_session_if_rounds_begin_in_new_worktrees():
    plan = plan_of({"name": "first", "prompt": "x"}, FIX,
                   repeat=LOOP | {"steps": ["first", "fix"]})  # fmt: skip
    assert [task.continues for task in plan.tasks] == [None] * len(plan.tasks)
    names = [task.name for task in plan.tasks]
    assert names[:8] == [
        "first#1", "fix#1[short]", "fix#1[long]", "fix#1", "first#2", "fix#2[short]", "fix#2[long]", "fix#2",
    ]  # fmt: skip
    second = plan.tasks[names.index("fix#2")]
    assert names[second.repeats or 0] == "fix#1"


def test_a_dry_run_shows_two_rounds_with_their_candidates(
    clinvk: CommandLine, home: Home, repository: Repository
):
    done = clinvk("chain", write_plan(home, FIX, LOOK), "--dry-run", env={"COLUMNS": "120"})
    assert done.returncode == 0, done
    first = [line.split()[0] for line in done.stdout.splitlines() if line.startswith("fix")]
    assert first == [f"fix#{n}{c}" for n in (1, 2) for c in ("[short]", "[long]", "")]
    assert "repeat fix until the checks pass, in at most 4 rounds" in done.stdout


@everywhere
@pytest.mark.anyio
async def test_candidates_of_a_loop_from_python(
    home: Home, repository: Repository, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(home.work)
    dispatcher = keep(api.Dispatcher(api.load({"CLINVK_HOME": str(home.path)})))
    done = await api.achain([FIX], repeat=LOOP, dispatcher=dispatcher)
    assert done.ok, done
    last = [o for o in done.tasks if o.ok][-1]
    assert (last.name, last.decision and last.decision.best) == ("fix#3", "fix#3[long]")
    assert done.id is not None
    applied = await api.aapply_run(done.id, dispatcher=dispatcher)
    assert [t.name for t in applied.applied] == ["fix#3"]
    assert (home.work / "made.txt").read_text().count("long") == 6
