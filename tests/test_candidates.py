"""Tasks with several candidates, of which the best one counts."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import psutil
import pytest

import clinvk as api
from tests.applied_runs import FILES, Repository
from tests.conftest import CommandLine, Home, wait_for
from tests.everywhere import everywhere
from tests.stores import keep
from tests.test_ranking import WORK, write_backends

CHECK_FAILED = 65
TELLING = """#!/bin/bash
echo {name} >> {calls}
cat > {calls}-{name}
for n in $(seq {lines}); do echo "line $n of {name}"; done > made.txt
echo '{{"type": "end", "text": "done by {name}"}}'
"""


@pytest.fixture
def repository(home: Home) -> Repository:
    write_backends(home)
    return Repository(home.work, FILES)


def write_plan(home: Home, name: str = "plan.json", **data: Any) -> str:
    path = home.path.parent / name
    path.write_text(json.dumps(data))
    return str(path)


def run(clinvk: CommandLine, home: Home, *args: str, **data: Any) -> dict[str, Any]:
    command = "chain" if "steps" in data else "parallel"
    done = clinvk(command, write_plan(home, **data), "--json", *args)
    assert done.stdout, done
    found = json.loads(done.stdout)
    assert found["exit_code"] == done.returncode
    assert isinstance(found, dict)
    return found


def by_name(found: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {task["name"]: task for task in found["results"]}


def states(found: dict[str, Any]) -> dict[str, str]:
    return {task["name"]: task["state"] for task in found["results"]}


FIX = {"name": "fix", "prompt": "fix it", "check": "test -e made.txt"}


@everywhere
def test_the_best_candidate_is_the_result_of_the_task(
    clinvk: CommandLine, home: Home, repository: Repository
):
    found = run(clinvk, home, tasks=[
        FIX | {"candidates": ["short", "bad", "long"], "score": "grep -c . made.txt"},
        {"name": "after", "prompt": "say {{tasks.fix.output}}; {{tasks.fix.diff}}", "backend": "echo",
         "needs": ["fix"]},
    ])  # fmt: skip
    assert states(found) == {
        "fix[short]": "done", "fix[bad]": "failed", "fix[long]": "done", "fix": "done", "after": "done",
    }  # fmt: skip
    assert (found["exit_code"], found["total_tasks"], found["completed"], found["failed"]) == (
        0, 2, 2, 0)  # fmt: skip
    fix, best = by_name(found)["fix"], by_name(found)["fix[long]"]
    for name in ("output", "backend", "session_id", "worktree", "check"):
        assert fix[name] == best[name], name
    assert (fix["output"], fix["backend"], fix["usage"]) == ("done by long", "long", None)
    decision = fix["decision"]
    assert (decision["best"], decision["decided_by"]) == ("fix[long]", "score")
    assert [c["name"] for c in decision["candidates"]] == ["fix[long]", "fix[short]", "fix[bad]"]
    assert [c["score"] for c in decision["candidates"]] == [9, 1, None]
    assert "check failed" in decision["candidates"][2]["problem"]
    assert best["candidate_of"] == "fix"
    said = by_name(found)["after"]["output"]
    assert "say done by long" in said
    assert "+line 9 of long" in said
    assert repository.status() == ""
    assert repository.git("for-each-ref", "refs/clinvk").count("\n") == 2  # all are kept

    shown = clinvk.json("runs", "show", "--json")
    assert by_name(shown)["fix"]["decision"] == decision
    assert (clinvk.json("runs", "list", "--json")["runs"][0]["counts"]) == {"done": 2}
    one = clinvk("runs", "show", "last", "fix").stdout
    assert "Ranking: fix[long] is best: its score is 9 (fix[short]: 1)" in one
    assert "2. fix[short]: check passed, score 1, 1 line in 1 file" in one
    assert "done by long" in one
    assert "Candidate of: fix" in clinvk("runs", "show", "last", "fix[bad]").stdout


@everywhere
def test_a_decision_is_shown_in_the_table_and_in_the_progress(
    clinvk: CommandLine, home: Home, repository: Repository
):
    plan = write_plan(home, tasks=[FIX | {"candidates": ["long", "short", "bad"]}])
    done = clinvk("parallel", plan)
    assert done.returncode == 0, done
    assert "fix: fix[short] is best: it changed 1 line (fix[long]: 9)" in done.stdout
    assert "1 task: 1 done" in done.stdout
    assert done.stdout.count("done by short") == 1
    assert "done by long" not in done.stdout
    assert "fix: choosing between its candidates" in done.stderr
    assert "on short - fix[short] is best" in done.stderr
    assert "1 result is not applied" in done.stderr
    assert "retry" not in done.stderr
    lines = clinvk("parallel", plan, "-o", "stream-json").stdout.splitlines()
    ended = [line["result"] for line in map(json.loads, lines) if "result" in line]
    assert ended[-1]["decision"]["best"] == "fix[short]"


def test_a_task_that_only_chooses_has_no_rate_limit(
    clinvk: CommandLine, home: Home, repository: Repository
):
    (home.path / "limits").mkdir(mode=0o700)  # one was remembered once
    found = run(clinvk, home, tasks=[FIX | {"candidates": ["long", "short"]}])
    assert by_name(found)["fix"]["decision"]["best"] == "fix[short]"


@everywhere
def test_reports_say_which_candidate_was_chosen(
    clinvk: CommandLine, home: Home, repository: Repository
):
    plan = write_plan(home, tasks=[FIX | {"candidates": ["long", "short", "bad"]}])
    names = [home.path.parent / f"report.{suffix}" for suffix in ("md", "html", "xml")]
    words = [word for path in names for word in ("--report", str(path))]
    summary = home.path.parent / "summary"
    env = {"GITHUB_ACTIONS": "true", "GITHUB_STEP_SUMMARY": str(summary)}
    done = clinvk("parallel", plan, *words, env=env)
    assert done.returncode == 0, done
    assert "::error" not in done.stdout
    markdown, html, xml = (path.read_text() for path in names)
    assert "- **fix**: fix\\[short\\] is best" in markdown
    assert "  3. fix\\[bad\\]: check failed" in markdown
    assert "Unfinished" not in markdown
    assert "<strong>fix</strong>: fix[short] is best" in html
    assert "Unfinished" not in html
    assert "<failure" not in xml
    assert '<skipped message="failed: check failed' in xml
    assert '<property name="candidate_of" value="fix" />' in xml
    assert '<property name="decision" value="fix[short] is best' in xml


@everywhere
def test_a_task_fails_if_all_of_its_candidates_do(
    clinvk: CommandLine, home: Home, repository: Repository
):
    home.backend("broken", "exit 9\n")
    tasks = [
        FIX | {"candidates": ["bad", "broken"]},
        {"name": "after", "needs": ["fix"], "prompt": "x"},
    ]
    found = run(clinvk, home, tasks=[tasks[0], tasks[1] | {"backend": "echo"}])
    fix = by_name(found)["fix"]
    assert (found["exit_code"], found["failed"], found["skipped"]) == (1, 1, 1)
    assert fix["error"]["message"].startswith("none of the 2 candidates succeeded: fix[bad]: check")
    assert "; fix[broken]: " in fix["error"]["message"]
    assert f"clinvk runs retry {found['id']} fix" in fix["error"]["hint"]
    assert (fix["backend"], fix["decision"]["best"]) == (None, None)
    assert by_name(found)["after"]["error"]["message"] == "skipped: depends on 'fix', which failed"
    done = clinvk("runs", "apply", "last", "fix")
    assert "task 'fix' has chosen none of its candidates" in done.stderr
    found = run(clinvk, home, tasks=[FIX | {"candidates": 2, "backend": "bad"}])
    assert found["exit_code"] == CHECK_FAILED
    home.backend("bad", WORK.format(name="bad", lines=1, file="made.txt"))
    done = clinvk("runs", "retry", "--json")
    assert (done.returncode, states(json.loads(done.stdout))) == (
        0, {"fix[1]": "done", "fix[2]": "done", "fix": "done"})  # fmt: skip


def test_a_candidate_without_a_score_comes_after_those_with_one(
    clinvk: CommandLine, home: Home, repository: Repository
):
    home.backend("two", WORK.format(name="two", lines=1, file="made.txt"))
    score = "case $(cat made.txt) in *long*) echo 0;; *two*) echo none;; *) exit 3;; esac"
    plan = write_plan(home, tasks=[FIX | {"candidates": ["short", "two", "long"], "score": score}])
    done = clinvk("parallel", plan)
    assert "fix: fix[long] is best: its score is 0 (fix[short]: none)" in done.stdout
    assert f"fix: fix[short] has no score: the command failed: {score} (exit code 3)" in done.stderr
    assert "fix: fix[two] has no score: the command printed no number" in done.stderr


@everywhere
def test_a_failed_candidate_does_not_stop_a_run(
    clinvk: CommandLine, home: Home, repository: Repository
):
    tasks = [
        FIX | {"candidates": ["bad", "short"]},
        {"name": "b", "prompt": "x", "backend": "echo"},
    ]
    found = run(clinvk, home, fail_fast=True, max_parallel=1, tasks=tasks)
    assert set(states(found).values()) == {"done", "failed"}
    assert (found["exit_code"], found["state"], found["why"]) == (0, "done", None)


def test_only_the_best_candidates_are_applied(
    clinvk: CommandLine, home: Home, repository: Repository
):
    found = run(clinvk, home, tasks=[FIX | {"candidates": ["long", "short"]}])
    assert [t["name"] for t in clinvk.json("runs", "diff", "--json")["tasks"]] == ["fix"]
    done = clinvk("runs", "apply")
    assert done.returncode == 0, done
    assert repository.status() == "A  made.txt"
    assert (home.work / "made.txt").read_text() == "line 1 of short\n"
    trees = home.path / "worktrees" / found["id"]
    assert [p.name for p in trees.iterdir() if p.is_dir()] == ["fix-long"]
    again = clinvk.json("runs", "apply", "last", "fix[short]", "--json")
    assert [(t["name"], t["state"]) for t in again["tasks"]] == [("fix[short]", "already applied")]
    repository.git("reset", "--quiet", "--hard")
    done = clinvk("runs", "apply", "last", "fix[long]")
    assert done.returncode == 0, done
    assert (home.work / "made.txt").read_text().count("of long") == 9


def test_a_resolved_conflict_of_the_best_candidate_is_checked_again(
    clinvk: CommandLine, home: Home, repository: Repository, tmp_path: Path
):
    home.backend("fixer", """#!/bin/bash
cat > /dev/null
echo resolved > made.txt
echo '{"type": "end", "text": "resolved"}'
""")  # fmt: skip
    check = f"cat made.txt >> {tmp_path}/checked"
    run(clinvk, home, tasks=[FIX | {"candidates": ["long", "short"], "check": check}])
    (tmp_path / "checked").unlink()
    repository.commit({"made.txt": "mine\n"})
    assert "conflicts with" in clinvk("runs", "apply").stderr
    done = clinvk("runs", "apply", "--resolve", "fixer")
    assert done.returncode == 0, done
    assert (tmp_path / "checked").read_text() == "resolved\n"
    assert (home.work / "made.txt").read_text() == "resolved\n"


def test_losers_do_not_keep_a_run_whose_best_result_was_taken(
    clinvk: CommandLine, home: Home, repository: Repository
):
    found = run(clinvk, home, tasks=[FIX | {"candidates": ["long", "short"]}])
    refused = clinvk("runs", "delete", found["id"], "--yes")
    assert "neither applied nor dropped: fix\n" in refused.stderr
    clinvk("runs", "apply")
    done = clinvk("runs", "delete", found["id"], "--yes")
    assert done.returncode == 0, done
    assert repository.git("for-each-ref", "refs/clinvk") == ""
    found = run(clinvk, home, tasks=[FIX | {"candidates": ["long", "short"]}])
    asked = clinvk("runs", "drop", found["id"]).stderr
    assert asked.startswith("fix: 2 candidates, 1 file, +10 -0, "), asked
    dropped = clinvk.json("runs", "drop", found["id"], "--yes", "--json")
    assert [t["name"] for t in dropped["dropped"]] == ["fix[long]", "fix[short]"]
    assert repository.git("for-each-ref", "refs/clinvk") == ""


def test_candidates_are_numbered_and_may_name_a_model(
    clinvk: CommandLine, home: Home, repository: Repository
):
    plan = write_plan(home, defaults={"backend": "short"}, tasks=[
        {"name": "a", "prompt": "x", "candidates": 2},
        {"name": "b", "prompt": "x", "candidates": ["long", {"backend": "echo", "model": "m"}, "long"],
         "score": "echo 1", "score_order": "lower", "judge": "echo"},
        {"name": "c", "prompt": "x", "candidates": "long, echo:m"},
        {"name": "d", "prompt": "x"},
    ])  # fmt: skip
    found = clinvk.json("parallel", plan, "--dry-run", "--json")["tasks"]
    assert [(t["name"], t["backend"]) for t in found] == [
        ("a[1]", "short"), ("a[2]", "short"), ("a", "-"),
        ("b[long-1]", "long"), ("b[echo:m]", "echo"), ("b[long-2]", "long"), ("b", "echo"),
        ("c[long]", "long"), ("c[echo:m]", "echo"), ("c", "-"), ("d", "short"),
    ]  # fmt: skip
    task = {t["name"]: t for t in found}
    assert task["b[echo:m]"]["options"] == {"model": "m"}
    assert task["b[echo:m]"]["worktree"] is True
    assert task["b[long-1]"]["candidate_of"] == "b"
    assert task["b"]["candidates"] == ["b[long-1]", "b[echo:m]", "b[long-2]"]
    assert (task["b"]["score"], task["b"]["score_order"], task["b"]["judge"]) == (
        "echo 1", "lower", "echo")  # fmt: skip
    text = clinvk("parallel", plan, "--dry-run").stdout
    assert "b[long-1], b[echo:m], b[long-2]" in text
    assert "score=echo 1 score_order=lower judge=echo" in text
    assert "4 tasks" in text


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ({"candidates": []}, "tasks[0].candidates: the list is empty"),
        ({"candidates": 0}, "tasks[0].candidates: 0 is not a number of candidates"),
        ({"candidates": -1}, "tasks[0].candidates: -1 is not a number of candidates"),
        ({"candidates": True}, "tasks[0].candidates: expected a whole number"),
        ({"candidates": 1_000_000}, "tasks[0].candidates: there are 1,000,000 candidates; the max"),
        ({"candidates": ["short", 5]}, "tasks[0].candidates[1]: expected a backend"),
        ({"candidates": ["short", ""]}, "tasks[0].candidates[1]: '' is not a backend"),
        ({"candidates": ["nope"]}, "tasks[0] 'x[nope]': unknown backend 'nope'"),
        ({"candidates": [{"backend": "short", "modle": "m"}]},
         "tasks[0].candidates[0].modle: unknown key 'modle'; did you mean 'model'?"),
        ({"candidates": [{"backend": 5}]}, "tasks[0].candidates[0].backend: expected"),
        ({"candidates": [{"approval": "maybe"}]}, "tasks[0].candidates[0].approval: 'maybe' is not"),
        ({"candidates": [{"check": "true"}]}, "tasks[0].candidates[0].check: it is the same for all"),
        ({"candidates": ["short"], "backend": "long"},
         "tasks[0].backend: its candidates name their backends"),
        ({"candidates": ["short"], "worktree": False},
         "tasks[0].worktree: each candidate needs a worktree"),
        ({"candidates": ["short"], "score": " "}, "tasks[0].score: ' ': it is empty"),
        ({"candidates": ["short"], "score_order": "lower"}, "tasks[0].score_order: there is no score"),
        ({"candidates": ["short"], "score": "x", "score_order": "up"},
         "tasks[0].score_order: 'up' is not one of"),
        ({"candidates": ["short"], "judge": "a b"}, "tasks[0].judge: 'a b' is not a backend"),
        ({"candidates": ["short"], "judge": "nope"}, "unknown backend 'nope'"),
        ({"score": "echo 1"}, "tasks[0].score: there are no candidates"),
        ({"judge": "echo"}, "tasks[0].judge: there are no candidates"),
    ],
)  # fmt: skip
def test_bad_candidates_are_named_with_their_place(
    clinvk: CommandLine, home: Home, repository: Repository, task: dict[str, Any], message: str
):
    done = clinvk("parallel", write_plan(home, tasks=[{"name": "x", "prompt": "x", **task}]))
    assert message in done.stderr
    assert done.returncode == (2 if "unknown backend" in message else 3)
    assert not (home.path / "runs").exists()


@pytest.mark.parametrize("is_first", [True, False])
@pytest.mark.parametrize("command", ["parallel", "chain"])
def test_a_written_name_is_not_that_of_a_candidate(
    clinvk: CommandLine, home: Home, repository: Repository, command: str, is_first: bool
):
    tasks = [{"name": "a", "prompt": "x", "backend": "short", "candidates": 2},
             {"name": "a[1]", "prompt": "x", "backend": "short"}]  # fmt: skip
    ordered = list(reversed(tasks)) if is_first else tasks
    key = "steps" if command == "chain" else "tasks"
    done = clinvk(command, write_plan(home, **{key: ordered}))
    place = f"{key}[{ordered.index(tasks[1])}].name"
    assert f"{place}: 'a[1]' is the name of a candidate of 'a'" in done.stderr
    assert done.returncode == 3
    assert not (home.path / "runs").exists()
    # Beyond the number of the candidates, it is a name like others.
    tasks[1]["name"] = "a[3]"
    assert clinvk(command, write_plan(home, **{key: ordered}), "--dry-run").returncode == 0


def test_candidates_need_a_repository_and_sessions(clinvk: CommandLine, home: Home, tmp_path: Path):
    write_backends(home)
    plan = write_plan(home, tasks=[FIX | {"candidates": ["short", "long"]}])
    done = clinvk("parallel", plan)
    assert "tasks[0] 'fix[short]': " in done.stderr
    assert "is not in a git repository, so it has no worktrees" in done.stderr
    assert "or leave out the candidates" in done.stderr
    Repository(home.work, FILES)
    plan = write_plan(home, tasks=[FIX | {"candidates": ["echo", "echo"]}])
    done = clinvk("parallel", plan, "--ephemeral")
    assert "leave out --ephemeral, or the candidates" in done.stderr
    steps = [FIX | {"candidates": ["short", "long"]}, "{{previous}}"]
    chain = write_plan(home, pass_session=True, steps=steps)
    assert "several candidates cannot continue one session" in clinvk("chain", chain).stderr


def test_candidates_are_set_for_all_tasks_and_can_be_left_out(
    clinvk: CommandLine, home: Home, repository: Repository
):
    (home.path.parent / "plan.csv").write_text(
        'name,prompt,candidates\none,x,"long,short"\ntwo,x,2\nthree,x,\n'
    )
    found = clinvk.json(
        "parallel", str(home.path.parent / "plan.csv"), "-b", "short", "--dry-run", "--json"
    )
    assert [t["name"] for t in found["tasks"]] == [
        "one[long]", "one[short]", "one", "two[1]", "two[2]", "two", "three"]  # fmt: skip
    plan = write_plan(home, defaults={"candidates": ["long", "{{n}}"], "score": "cat {{n}}"},
                      matrix={"n": ["short"]},
                      tasks=[{"name": "a", "prompt": "x"},
                             {"name": "b", "prompt": "x", "candidates": None}])  # fmt: skip
    found = clinvk.json("parallel", plan, "-b", "echo", "--dry-run", "--json")
    assert [t["name"] for t in found["tasks"]] == ["a[long]", "a[short]", "a", "b"]
    assert found["tasks"][2]["score"] == "cat short"


@everywhere
def test_flags_give_candidates_to_all_tasks(
    clinvk: CommandLine, home: Home, repository: Repository
):
    words = ("parallel", "--prompt", "do {{line}}", "-b", "echo", "--candidates", "long,short")
    done = clinvk(
        *words, "--score", "grep -c . made.txt", "--lowest", "--check", "test -e made.txt", "--json",
        stdin="one\n",
    )  # fmt: skip
    decision = by_name(json.loads(done.stdout))["one"]["decision"]
    assert (decision["best"], decision["decided_by"]) == ("one[short]", "score")
    chain = write_plan(home, steps=["x"])
    found = clinvk.json("chain", chain, "-b", "echo", "--candidates", "2", "--judge", "echo:m",
                        "--dry-run", "--json")  # fmt: skip
    assert [t["name"] for t in found["tasks"]] == ["1[1]", "1[2]", "1"]
    assert found["tasks"][2]["judge"] == "echo:m"
    for flags, message in (
        (("--candidates", "0"), "--candidates: 0 is not a number of candidates"),
        (("--candidates", "2", "--lowest"), "--lowest: there is no score"),
        (("--judge", "echo"), "--judge: there are no candidates"),
    ):
        done = clinvk("parallel", "--format", "lines", "-b", "echo", *flags, stdin="one\n")
        assert message in done.stderr, (flags, done)


@everywhere
def test_unchanged_candidates_lose_and_answers_alone_can_win(
    clinvk: CommandLine, home: Home, repository: Repository
):
    found = run(clinvk, home, tasks=[{"name": "a", "prompt": "x", "candidates": ["echo", "short"]},
                                     {"name": "b", "prompt": "x", "candidates": ["echo", "echo"]}])  # fmt: skip
    a, b = by_name(found)["a"]["decision"], by_name(found)["b"]["decision"]
    assert (a["best"], a["candidates"][1]["problem"]) == ("a[short]", "it changed nothing")
    assert a["summary"] == "a[short] is the only one that changed anything"
    assert (b["best"], b["decided_by"]) == ("b[echo-1]", None)
    assert "first of several that are equally good" in b["summary"]


JUDGE = """#!/bin/bash
cat > {folder}/prompt-$$
echo judge >> {folder}/calls
grep -q "fix\\[" {folder}/prompt-$$ && exit 3
answer=1
grep -B99 "+line 1 of other" {folder}/prompt-$$ | grep -q "Answer 2 begins" && answer=2
printf '{{"type": "end", "text": "{{\\\\"best\\\\": %s, \\\\"why\\\\": \\\\"x\\\\"}}"}}\\n' $answer
"""


@everywhere
def test_the_judge_is_only_asked_between_equals(
    clinvk: CommandLine, home: Home, repository: Repository, tmp_path: Path
):
    home.backend("other", WORK.format(name="other", lines=1, file="made.txt"))
    home.backend("judge", JUDGE.format(folder=tmp_path))
    task = FIX | {"judge": "judge"}
    found = run(clinvk, home, tasks=[task | {"candidates": ["long", "short"]}])
    assert by_name(found)["fix"]["decision"]["decided_by"] == "diff"
    assert not (tmp_path / "calls").exists()
    found = run(clinvk, home, tasks=[task | {"candidates": ["short", "long", "other", "bad"]}])
    decision = by_name(found)["fix"]["decision"]
    assert (decision["best"], decision["decided_by"]) == ("fix[other]", "judge"), decision
    assert decision["summary"] == "fix[other] is best: the judge chose it"
    assert by_name(found)["fix"]["session_id"] == f"{found['id']}.fix-other"
    assert (tmp_path / "calls").read_text() == "judge\njudge\n"
    home.backend("judge", "exit 9\n")
    found = run(clinvk, home, tasks=[task | {"candidates": ["short", "other"]}])
    decision = by_name(found)["fix"]["decision"]
    assert (decision["best"], decision["decided_by"]) == ("fix[short]", None)
    assert "; the judge did not answer: " in decision["summary"]


# In a chain.


def test_steps_continue_with_what_was_chosen(
    clinvk: CommandLine, home: Home, repository: Repository
):
    home.backend("add", """#!/bin/bash
file=$(cat | tail -1)
ls > $file
echo "{\\"type\\": \\"end\\", \\"text\\": \\"$(ls | tr '\\n' ' ')\\"}"
""")  # fmt: skip
    found = run(clinvk, home, defaults={"backend": "add"}, steps=[
        {"name": "first", "prompt": "one.txt"},
        FIX | {"candidates": ["long", "bad", "short"], "score": "grep -c . made.txt"},
        {"name": "third", "prompt": "three.txt"},
        {"name": "again", "prompt": "x", "candidates": ["short", "bad"], "check": "test -e broken.txt"},
        {"name": "last", "prompt": "{{steps.fix.output}}\nlast.txt"},
    ])  # fmt: skip
    assert found["exit_code"] == 0, found
    task = by_name(found)
    assert task["fix"]["decision"]["best"] == "fix[long]"
    assert task["third"]["output"].split() == [
        "a.txt", "b.txt", "dir", "made.txt", "one.txt", "three.txt"]  # fmt: skip
    assert task["again"]["decision"]["best"] == "again[bad]"
    assert task["again"]["worktree"]["base"] == task["third"]["worktree"]["commit"]
    assert task["fix"]["worktree"]["base"] == task["first"]["worktree"]["commit"]
    assert (task["fix"]["worktree"]["files"], task["third"]["worktree"]["files"]) == (1, 1)
    done = clinvk("runs", "apply", "--commit")
    assert done.returncode == 0, done
    names = sorted(p.name for p in home.work.glob("*.txt"))
    assert names == ["a.txt", "b.txt", "broken.txt", "last.txt", "made.txt", "one.txt", "three.txt"]
    assert (home.work / "made.txt").read_text().count("of long") == 9
    subjects = repository.git("log", "--format=%s", f"{repository.base}..").splitlines()
    names = [subject.partition(":")[0] for subject in subjects]
    assert names == ["last", "again", "third", "fix", "first"]


def test_a_chain_ends_at_a_step_without_a_result(
    clinvk: CommandLine, home: Home, repository: Repository
):
    steps = [
        FIX | {"candidates": ["bad", "bad"]},
        {"name": "next", "prompt": "x", "backend": "echo"},
    ]
    found = run(clinvk, home, steps=steps)
    assert (found["exit_code"], states(found)["next"]) == (CHECK_FAILED, "skipped")
    found = run(clinvk, home, stop_on_failure=False, steps=[
        steps[0], {"name": "next", "prompt": "why: {{steps.fix.error}}", "backend": "echo"}])  # fmt: skip
    assert "why: none of the 2 candidates succeeded" in by_name(found)["next"]["output"]


# Killed, resumed, and run again.


def telling(home: Home, calls: Path) -> None:
    for name, lines in (("one", 1), ("two", 2)):
        home.backend(name, TELLING.format(name=name, lines=lines, calls=calls))


def kill_at(clinvk: CommandLine, plan: str, place: Path) -> None:
    """Kill the clinvk of a run once the file is there."""
    process = clinvk.start("parallel", plan)
    wait_for(place.exists, f"{place.name}: {process.poll()}", 60)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()


def test_a_run_that_is_killed_while_it_chooses_runs_no_candidate_twice(
    clinvk: CommandLine, home: Home, repository: Repository, tmp_path: Path
):
    calls, here, resumed = tmp_path / "calls", tmp_path / "here", tmp_path / "resumed"
    telling(home, calls)
    score = f"test -e {resumed} || {{ echo $$ > {here}; sleep 60; }}; grep -c . made.txt"
    kill_at(
        clinvk, write_plan(home, tasks=[FIX | {"candidates": ["one", "two"], "score": score}]), here
    )
    assert states(clinvk.json("runs", "show", "--json"))["fix"] == "indeterminate"
    resumed.touch()
    done = clinvk("runs", "resume", "--json")
    left = int(here.read_text())
    wait_for(lambda: not psutil.pid_exists(left), "the end of the score that was left running", 60)
    found = json.loads(done.stdout)
    assert (done.returncode, by_name(found)["fix"]["decision"]["best"]) == (0, "fix[two]")
    assert sorted(calls.read_text().split()) == ["one", "two"]


def test_a_decision_that_was_made_is_not_made_again(
    clinvk: CommandLine, home: Home, repository: Repository, tmp_path: Path
):
    calls, here, scored = tmp_path / "calls", tmp_path / "here", tmp_path / "scored"
    telling(home, calls)
    home.backend(
        "slow",
        f"test -e {here} || {{ touch {here}; sleep 60; }}\n{WORK.format(name='slow', lines=1, file='b')}",
    )
    score = f"echo once >> {scored}; grep -c . made.txt"
    plan = write_plan(home, tasks=[
        FIX | {"candidates": ["one", "two", "bad"], "score": score},
        {"name": "after", "prompt": "{{tasks.fix.output}}", "backend": "slow", "idempotent": True},
    ])  # fmt: skip
    kill_at(clinvk, plan, here)
    found = json.loads(clinvk("runs", "resume", "--json").stdout)
    assert (found["exit_code"], by_name(found)["fix"]["attempts"]) == (0, 1)
    assert scored.read_text() == "once\nonce\n"
    assert sorted(calls.read_text().split()) == ["one", "two"]


def test_a_decision_that_was_not_recorded_before_a_kill_is_found(
    clinvk: CommandLine, home: Home, repository: Repository, tmp_path: Path
):
    """The run is killed right before it records the end of the task: that is cut off here."""
    scored = tmp_path / "scored"
    score = f"echo once >> {scored}; grep -c . made.txt"
    before = run(clinvk, home, tasks=[FIX | {"candidates": ["short", "long"], "score": score}])
    [path] = (home.path / "runs").glob("*/journal.jsonl")
    lines = path.read_bytes().splitlines(keepends=True)
    ends = [i for i, line in enumerate(lines) if b'"event":"ended"' in line]
    path.write_bytes(b"".join(lines[: ends[-1]]))
    found = json.loads(clinvk("runs", "resume", "--json").stdout)
    was, now = by_name(before)["fix"], by_name(found)["fix"]
    for name in ("state", "decision", "output", "worktree", "session_id", "backend"):
        assert now[name] == was[name], name
    assert scored.read_text() == "once\nonce\n"


def test_an_interrupted_candidate_keeps_its_task_from_choosing(
    clinvk: CommandLine, home: Home, repository: Repository, tmp_path: Path
):
    calls, here = tmp_path / "calls", tmp_path / "here"
    telling(home, calls)
    home.backend(
        "slow",
        f"test -e {here} || {{ touch {here}; sleep 60; }}\n{WORK.format(name='slow', lines=1, file='made.txt')}",
    )
    plan = write_plan(home, max_parallel=1, tasks=[FIX | {"candidates": ["two", "slow"]}])
    kill_at(clinvk, plan, here)
    found = json.loads(clinvk("runs", "resume", "--json").stdout)
    assert states(found) == {"fix[two]": "done", "fix[slow]": "indeterminate", "fix": "skipped"}
    assert (
        "depends on 'fix[slow]', which was interrupted" in by_name(found)["fix"]["error"]["message"]
    )
    done = clinvk("runs", "resume", "--rerun-indeterminate", "--json")
    found = json.loads(done.stdout)
    assert (done.returncode, by_name(found)["fix"]["decision"]["best"]) == (0, "fix[slow]")


def test_retrying_a_task_runs_its_candidates_and_chooses_again(
    clinvk: CommandLine, home: Home, repository: Repository, tmp_path: Path
):
    calls = tmp_path / "calls"
    telling(home, calls)
    run(clinvk, home, tasks=[FIX | {"candidates": ["one", "two"]}])
    found = json.loads(clinvk("runs", "retry", "last", "fix", "--json").stdout)
    assert {name: t["attempts"] for name, t in by_name(found).items()} == {
        "fix[one]": 2, "fix[two]": 2, "fix": 2}  # fmt: skip
    home.backend("one", TELLING.format(name="one", lines=5, calls=calls))
    found = json.loads(clinvk("runs", "retry", "last", "fix[one]", "--json").stdout)
    assert {name: t["attempts"] for name, t in by_name(found).items()} == {
        "fix[one]": 3, "fix[two]": 2, "fix": 3}  # fmt: skip
    assert by_name(found)["fix"]["decision"]["best"] == "fix[two]"
    assert "nothing left to run" in clinvk("runs", "resume").stderr


@everywhere
def test_a_budget_counts_candidates(clinvk: CommandLine, home: Home, repository: Repository):
    found = run(clinvk, home, max_parallel=1, budget={"tokens": 1},
                tasks=[{"name": "a", "prompt": "x", "candidates": 3, "backend": "echo"}])  # fmt: skip
    assert states(found) == {
        "a[1]": "done", "a[2]": "cancelled", "a[3]": "cancelled", "a": "cancelled"}  # fmt: skip
    assert "budget is spent" in found["why"]
    done = clinvk("runs", "resume", "--budget-tokens", "100000", "--json")
    assert (done.returncode, set(states(json.loads(done.stdout)).values())) == (0, {"done"})


def test_a_choice_is_made_though_the_last_candidate_has_spent_the_budget(
    clinvk: CommandLine, home: Home, repository: Repository
):
    tasks = [
        {"name": "a", "prompt": "x", "candidates": 2, "backend": "echo"},
        {"name": "b", "prompt": "x", "needs": ["a"], "backend": "echo"},
    ]
    usage = run(clinvk, home, max_parallel=1, tasks=tasks[:1])["usage"]
    budget = {"tokens": usage["input"] + usage["output"]}
    found = run(clinvk, home, max_parallel=1, budget=budget, tasks=tasks)
    assert states(found) == {"a[1]": "done", "a[2]": "done", "a": "done", "b": "cancelled"}


def test_a_candidate_that_waits_for_a_rate_limit_is_waited_for(
    clinvk: CommandLine, home: Home, repository: Repository, tmp_path: Path
):
    home.backend("limited", f"""#!/bin/bash
cat > /dev/null
if [ ! -e {tmp_path}/over ]; then
  touch {tmp_path}/over
  echo '{{"type": "end", "error": "usage limit", "status": 429}}'
  exit 1
fi
echo x > made.txt
echo '{{"type": "end", "text": "late"}}'
""")  # fmt: skip
    found = run(clinvk, home, limit_wait="0.1s", tasks=[FIX | {"candidates": ["long", "limited"]}])
    assert found["exit_code"] == 0, found
    assert by_name(found)["fix"]["output"] == "late"


LIMITED = """#!/bin/bash
cat > /dev/null
echo '{"type": "end", "error": "usage limit", "status": 429}'
exit 1
"""


def test_a_rate_limit_that_is_not_waited_for_is_a_failure_of_the_candidate(
    clinvk: CommandLine, home: Home, repository: Repository
):
    home.backend("limited", LIMITED)
    found = run(clinvk, home, on_limit="fail", tasks=[FIX | {"candidates": ["limited", "short"]}])
    assert (found["exit_code"], by_name(found)["fix"]["decision"]["best"]) == (0, "fix[short]")
    again = json.loads(clinvk("runs", "resume", "--json").stdout)
    assert [t["attempts"] for t in again["results"]] == [1, 1, 1]
    found = run(
        clinvk, home, "--ignore-limit", on_limit="fail", tasks=[FIX | {"candidates": ["limited"]}]
    )
    assert (found["exit_code"], by_name(found)["fix"]["error"]["kind"]) == (75, "limit")


def test_a_rate_limit_of_the_judge_is_waited_for_and_nothing_else_is_repeated(
    clinvk: CommandLine, home: Home, repository: Repository, tmp_path: Path
):
    calls = tmp_path / "calls"
    telling(home, calls)
    home.backend("one", TELLING.format(name="one", lines=2, calls=calls))
    judge = LIMITED.replace(
        "cat", f"[ -e {tmp_path}/over ] && exec {tmp_path}/judge; touch {tmp_path}/over; cat"
    )
    home.backend("judge", judge)
    (tmp_path / "judge").write_text(
        """#!/bin/bash
cat > /dev/null
echo '{"type": "end", "text": "{\\"best\\": 0}"}'
"""
    )
    (tmp_path / "judge").chmod(0o755)
    found = run(
        clinvk, home, limit_wait="0.1s",
        tasks=[FIX | {"candidates": ["one", "two"], "judge": "judge"}],
    )  # fmt: skip
    fix = by_name(found)["fix"]
    assert (found["exit_code"], fix["attempts"]) == (0, 2), found
    assert fix["decision"]["summary"].endswith("equally good; so says the judge")
    assert sorted(calls.read_text().split()) == ["one", "two"]
    (tmp_path / "over").unlink()
    found = run(
        clinvk, home, "--ignore-limit", on_limit="fail",
        tasks=[FIX | {"candidates": ["one", "two"], "judge": "judge"}],
    )  # fmt: skip
    assert (found["exit_code"], by_name(found)["fix"]["attempts"]) == (0, 1)
    assert "; the judge did not answer: " in by_name(found)["fix"]["decision"]["summary"]


def test_a_run_that_is_cancelled_while_it_chooses_can_be_resumed(
    clinvk: CommandLine, home: Home, repository: Repository, tmp_path: Path
):
    calls, here, resumed = tmp_path / "calls", tmp_path / "here", tmp_path / "resumed"
    telling(home, calls)
    score = f"test -e {resumed} || {{ touch {here}; sleep 60; }}; grep -c . made.txt"
    plan = write_plan(home, tasks=[FIX | {"candidates": ["one", "two"], "score": score}])
    process = clinvk.start("parallel", plan)
    wait_for(here.exists, "the score", 60)
    process.send_signal(signal.SIGINT)
    process.communicate()
    assert process.returncode == 7
    resumed.touch()
    done = clinvk("runs", "resume", "--json")
    found = json.loads(done.stdout)
    assert (done.returncode, by_name(found)["fix"]["decision"]["best"]) == (0, "fix[two]")
    assert sorted(calls.read_text().split()) == ["one", "two"]


def test_a_chain_continues_from_its_checkpoint_without_choosing_again(
    clinvk: CommandLine, home: Home, repository: Repository, tmp_path: Path
):
    calls = tmp_path / "calls"
    telling(home, calls)
    home.backend(
        "last", f"test -e {tmp_path}/fixed || exit 9\n{WORK.format(name='last', lines=1, file='b')}"
    )
    plan = write_plan(home, steps=[
        FIX | {"candidates": ["one", "two", "bad"]},
        {"name": "last", "prompt": "{{previous}}", "backend": "last"},
    ])  # fmt: skip
    assert clinvk("chain", plan, "--checkpoint", "c").returncode == 1
    (tmp_path / "fixed").touch()
    done = clinvk("chain", plan, "--resume", "c", "--json")
    found = json.loads(done.stdout)
    assert (done.returncode, by_name(found)["fix"]["attempts"]) == (0, 1)
    assert sorted(calls.read_text().split()) == ["one", "two"]
    assert "fix: fix[one] is best" in clinvk("checkpoints", "show", "c").stdout


# From Python.


@everywhere
@pytest.mark.anyio
async def test_candidates_from_python(
    home: Home, repository: Repository, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(home.work)
    dispatcher = keep(api.Dispatcher(api.load({"CLINVK_HOME": str(home.path)})))
    tasks = ["one", {"name": "two", "prompt": "x", "candidates": 2, "backend": "short"}]
    done = await api.aparallel(
        [tasks[0], {k: v for k, v in tasks[1].items() if k != "backend"}]
        if isinstance(tasks[1], dict)
        else tasks,
        candidates=["long", {"backend": "short"}], score="grep -c . made.txt", dispatcher=dispatcher,
        backend="short",
    )  # fmt: skip
    assert done.ok
    assert [o.name for o in done.tasks] == ["1", "two"]
    first = done.tasks[0]
    assert first.decision is not None
    assert (first.decision.best, first.decision.decided_by) == ("1[long]", "score")
    assert first.decision.candidates[0].score == 9
    assert first.output == "done by long"
    assert [o.name for o in done.results if o.candidate_of == "two"] == ["two[1]", "two[2]"]
    with pytest.raises(api.ConfigError, match=r"tasks\[0\]\.candidates: the list is empty"):
        await api.aparallel([{"prompt": "x", "candidates": []}], dispatcher=dispatcher)
    assert done.id is not None
    applied = await api.aapply_run(done.id, "1", dispatcher=dispatcher)
    assert [t.name for t in applied.applied] == ["1"]
