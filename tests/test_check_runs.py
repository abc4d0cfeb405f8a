"""Checks of the tasks of a run: in its file, its journal, its reports, and after it was killed."""

import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

import clinvk as api
from clinvk.errors import ClinvkError, UsageError
from tests.conftest import CommandLine, Home, wait_for
from tests.everywhere import everywhere
from tests.needs import need_root
from tests.test_checks import CHECK_FAILED, prompts, worker
from tests.test_store_file import mount


def write_plan(home: Home, **data: Any) -> str:
    (home.work / "plan.json").write_text(json.dumps(data))
    return "plan.json"


def run(clinvk: CommandLine, home: Home, *args: str, **data: Any) -> dict[str, Any]:
    command = "chain" if "steps" in data else "parallel"
    done = clinvk(command, write_plan(home, **data), "--json", *args)
    assert done.stdout, done
    found = json.loads(done.stdout)
    assert found["exit_code"] == done.returncode
    assert isinstance(found, dict)
    return found


@everywhere
def test_a_failed_check_fails_the_task_and_skips_what_needs_it(clinvk: CommandLine, home: Home):
    home.backend("fake", worker("touch a"))
    found = run(clinvk, home, retries=3, defaults={"backend": "fake"}, tasks=[
        {"name": "one", "prompt": "x", "check": ["true", "echo no; exit 5"]},
        {"name": "two", "prompt": "x", "needs": ["one"]},
    ])  # fmt: skip
    one, two = found["results"]
    assert (one["state"], one["error"]["kind"], one["exit_code"]) == (
        "failed",
        "check",
        CHECK_FAILED,
    )
    assert (one["check"]["state"], one["check"]["exit_code"], one["check"]["output"]) == (
        "failed", 5, "no")  # fmt: skip
    assert (one["attempts"], two["state"], two["check"]) == (1, "skipped", None)
    assert found["exit_code"] == CHECK_FAILED


@everywhere
def test_other_failures_make_the_exit_code_of_a_run_1(clinvk: CommandLine, home: Home):
    home.backend("fake", worker("touch a"))
    home.backend("broken", "exit 9\n")
    found = run(clinvk, home, check="false", tasks=[
        {"prompt": "x", "backend": "fake"}, {"prompt": "x", "backend": "broken"},
    ])  # fmt: skip
    assert found["exit_code"] == 1
    assert [task["state"] for task in found["results"]] == ["failed", "failed"]
    assert found["results"][1]["check"] is None


@everywhere
def test_the_nearest_check_counts(clinvk: CommandLine, home: Home):
    """Of a task, of `defaults`, of the file."""
    home.backend("fake", worker("touch a"))
    tasks = [
        {"name": "own", "prompt": "x", "check": "echo own"},
        {"name": "general", "prompt": "x"},
    ]
    for level, defaults in (("file", {}), ("defaults", {"check": "echo defaults"})):
        found = run(
            clinvk, home, tasks=tasks, check="echo file", defaults={"backend": "fake", **defaults}
        )
        assert [t["check"]["output"] for t in found["results"]] == ["own", level]
    found = run(clinvk, home, "--check", "echo flag", tasks=tasks, defaults={"backend": "fake"})
    assert [t["check"]["output"] for t in found["results"]] == ["own", "flag"]


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        ({"tasks": [{"prompt": "x", "rounds": 2}]}, "rounds: there is no check"),
        ({"tasks": [{"prompt": "x", "check": ""}]}, "tasks[0].check: '': it is empty"),
        ({"tasks": [{"prompt": "x", "check": []}]}, "tasks[0].check: it is empty"),
        ({"check": [], "tasks": ["x"]}, "check: it is empty"),
        ({"defaults": {"check": ""}, "tasks": ["x"]}, "defaults.check: '': it is empty"),
        ({"check": "true", "tasks": [{"prompt": "x", "check": None}]}, ""),
        ({"tasks": [{"prompt": "x", "check": "true", "check_timeout": 0}]},
         "tasks[0].check_timeout: 0 is not a number of seconds greater than 0"),
        ({"check": "true", "check_timeout": "0", "tasks": ["x"]},
         "check_timeout: 0 is not a number of seconds greater than 0"),
        ({"tasks": [{"prompt": "x", "check": ["true", " "]}]}, "it is empty"),
        ({"tasks": [{"prompt": "x", "check": 3}]}, "check"),
        ({"tasks": [{"prompt": "x", "check": "true", "rounds": -1}]}, "too small"),
        ({"check": "true", "check_timeout": "soon", "tasks": ["x"]}, "invalid duration"),
        ({"protect": ["/etc"], "tasks": ["x"]}, "not relative"),
        ({"ephemeral": True, "check": "true", "rounds": 1, "tasks": ["x"]}, "rounds: an ephemeral"),
        ({"protect": "tests", "tasks": ["x", "y"]}, "needs its directory for itself"),
        ({"tasks": [{"prompt": "x", "expect_change": True}, {"prompt": "y", "workdir": "sub"}]},
         "needs its directory for itself"),
    ],
)  # fmt: skip
def test_a_file_whose_checks_cannot_work_is_invalid(
    clinvk: CommandLine, home: Home, data: dict[str, Any], problem: str
):
    home.backend("fake", worker(), ephemeral={"argv": []})
    (home.work / "sub").mkdir()
    done = clinvk("parallel", write_plan(home, **data), "-b", "fake")
    if not problem:
        assert done.returncode == 0
        return
    assert (done.returncode, problem in done.stderr) == (3, True), done
    assert prompts(home) == []


def test_python_refuses_a_check_that_checks_nothing():
    for check, problem in (("", "it is empty"), ([], "it is empty"), (["true", ""], "it is empty")):
        with pytest.raises(ClinvkError, match=problem):
            api.run("x", backend="echo", check=check)
        with pytest.raises(ClinvkError, match=rf"tasks\[0\]\.check: .*{problem}"):
            api.parallel([{"prompt": "x", "backend": "echo", "check": check}])
    with pytest.raises(ClinvkError, match="greater than 0"):
        api.run("x", backend="echo", check="true", check_timeout=0)
    for given in ({"check": []}, {"check": "true", "check_timeout": 0}):
        with pytest.raises(UsageError, match=r"empty|greater than 0"):
            api.apply_run("none", **given)
    task = {"prompt": "x", "backend": "echo", "check": "true", "check_timeout": 0}
    with pytest.raises(ClinvkError, match=r"tasks\[0\]\.check_timeout: 0 is not"):
        api.parallel([task])


@everywhere
def test_tasks_that_do_not_share_a_directory_may_protect_files(clinvk: CommandLine, home: Home):
    home.backend("fake", worker())
    for name in ("a", "b"):
        (home.work / name).mkdir()
    apart = [{"prompt": "x", "workdir": "a"}, {"prompt": "y", "workdir": "b"}]
    in_order = [{"name": "one", "prompt": "x"}, {"prompt": "y", "needs": ["one"]}]
    for data in (
        {"tasks": apart}, {"tasks": in_order}, {"tasks": ["x", "y"], "max_parallel": 1},
        {"steps": ["x", "y"]},
    ):  # fmt: skip
        found = run(clinvk, home, "-b", "fake", protect="tests", **data)
        assert [t["check"]["state"] for t in found["results"]] == ["none", "none"]


@everywhere
def test_a_comparison_with_a_check_asks_one_backend_after_another(clinvk: CommandLine, home: Home):
    home.backend("fake", worker("touch a", "touch b"))
    home.backend("other", worker())
    done = clinvk("compare", "-b", "fake,other", "--check", "true", "x")
    assert (done.returncode, "--sequential" in done.stderr) == (3, True)
    done = clinvk(
        "compare", "-b", "fake,other", "--check", "test -e a", "--sequential", "--json", "x"
    )
    assert [r["check"]["state"] for r in json.loads(done.stdout)["results"]] == [
        "passed",
        "unchanged",
    ]


def test_checks_in_one_directory_never_overlap(clinvk: CommandLine, home: Home):
    home.backend("fake", worker())
    command = "mkdir lock || exit 9; sleep 0.1; rmdir lock"
    found = run(clinvk, home, "-b", "fake", "-j", "4", check=command, tasks=["a", "b", "c", "d"])
    assert [t["check"]["exit_code"] for t in found["results"]] == [0] * 4
    assert list((home.path / "checks").iterdir()) == []


def test_a_check_that_starts_a_check_does_not_wait_for_itself(clinvk: CommandLine, home: Home):
    home.backend("fake", worker())
    inner = f"{' '.join(clinvk.program)} -b fake --check true inside"
    assert clinvk("-b", "fake", "--check", inner, "x").returncode == 0


@everywhere
def test_a_value_in_a_check_is_one_word(clinvk: CommandLine, home: Home):
    home.backend("fake", worker())
    name = "a b; touch pwned"
    (home.work / name).write_text("")
    found = run(clinvk, home, "-b", "fake", check="ls {{file}}",
                tasks=[{"prompt": "look at {{file}}", "matrix": {"file": [name]}}])  # fmt: skip
    assert found["results"][0]["check"]["output"] == name
    assert not (home.work / "pwned").exists()


def test_all_output_of_a_check_is_kept_and_secrets_are_not(clinvk: CommandLine, home: Home):
    home.backend("fake", worker("touch a", "touch b"))
    env = {"TOKEN": "made-up-value-1234"}
    done = clinvk("parallel", write_plan(home, tasks=[{
        "prompt": "x", "backend": "fake", "rounds": 1, "env": {"TOKEN": "${TOKEN}"},
        "check": "seq 1 9000; ls; echo $TOKEN; exit 1"}]), "--json", env=env)  # fmt: skip
    found = json.loads(done.stdout)
    folder = home.path / "runs" / found["id"] / "checks" / "0001"
    for number in (0, 1):
        log = (folder / f"round-{number}.log").read_text()
        assert log.startswith("$ seq 1 9000")
        assert "\n4000\n" in log
    written = b"".join(path.read_bytes() for path in home.path.rglob("*") if path.is_file())
    assert b"made-up-value-1234" not in written
    assert "made-up-value-1234" not in done.stdout + done.stderr
    assert "made-up-value-1234" not in "".join(prompts(home))
    assert (folder / "round-0.log").stat().st_mode & 0o777 == 0o600


@everywhere
def test_rounds_end_with_the_budget(clinvk: CommandLine, home: Home):
    home.backend("fake", worker("touch a", "touch b", "touch c", usage=100))
    found = run(clinvk, home, "-b", "fake", check="ls; exit 1", rounds=5, budget={"tokens": 150},
                tasks=["x"])  # fmt: skip
    [task] = found["results"]
    assert (task["check"]["rounds"], task["check"]["stopped"]) == (1, "the budget is spent")
    assert task["usage"]["input"] == 200


# The journal.


def journal(home: Home) -> list[dict[str, Any]]:
    [path] = (home.path / "runs").glob("*/journal.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()]


@everywhere
def test_the_journal_has_each_turn_and_each_check(clinvk: CommandLine, home: Home):
    home.backend("fake", worker("touch a", "touch fixed"))
    found = run(clinvk, home, "-b", "fake", check="test -e fixed", rounds=3, tasks=["x"])
    [task] = found["results"]
    assert (task["state"], task["attempts"], task["check"]["rounds"]) == ("done", 1, 1)
    events = [line["event"] for line in journal(home) if line["event"] != "node"]
    assert events == [
        "begin",
        "started",
        "turn",
        "checked",
        "round",
        "turn",
        "checked",
        "ended",
        "end",
    ]
    shown = clinvk.json("runs", "show", "last", "--json")
    assert shown["results"][0]["check"] == task["check"]
    assert task["usage"]["input"] == 20


def killed_run(clinvk: CommandLine, home: Home, wait: Path, **data: Any) -> None:
    """Start a run, kill its clinvk once the file is there, and remove the file."""
    process = clinvk.start("parallel", write_plan(home, **data))
    wait_for(wait.exists, f"{wait.name}: {process.poll()}", 60)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout and process.stdout.close()
    process.stderr and process.stderr.close()
    wait.unlink()


def resume(clinvk: CommandLine, *args: str) -> dict[str, Any]:
    found = clinvk.json("runs", "resume", *args, "--json")
    [task] = found["results"]
    assert isinstance(task, dict)
    return task


def test_a_run_killed_in_its_check_does_not_repeat_the_turn(clinvk: CommandLine, home: Home):
    home.backend("fake", worker("echo 1 >> work", "echo 2 >> work"))
    slow = "if [ -e resumed ]; then ls; exit 0; fi; touch here; sleep 60"
    killed_run(clinvk, home, home.work / "here", tasks=[
        {"prompt": "x", "backend": "fake", "check": slow, "rounds": 1}])  # fmt: skip
    (home.work / "resumed").write_text("")
    task = resume(clinvk)
    assert (task["state"], task["check"]["state"], task["output"]) == ("done", "passed", "Done.")
    assert task["usage"]["input"] == 10
    assert len(prompts(home)) == 1


def test_a_run_killed_in_a_round_continues_with_that_round(clinvk: CommandLine, home: Home):
    turn = "if [ ! -e resumed ]; then touch here; sleep 60; fi; touch fixed"
    home.backend("fake", worker("touch a", turn, turn))
    check = "echo once >> count; test -e fixed"
    killed_run(clinvk, home, home.work / "here", tasks=[
        {"prompt": "x", "backend": "fake", "check": check, "rounds": 1}])  # fmt: skip
    (home.work / "resumed").write_text("")
    task = resume(clinvk)
    assert (task["state"], len(prompts(home))) == ("indeterminate", 2)
    task = resume(clinvk, "--rerun-indeterminate")
    assert (task["state"], task["check"]["rounds"]) == ("done", 1)
    assert (home.work / "count").read_text() == "once\nonce\n"
    first, second, third = prompts(home)
    assert first == "x"
    assert "the check failed" in second
    assert "the check failed" in third
    assert task["usage"]["input"] == 20
    assert len(home.ids()) == 1


def test_a_completed_check_is_not_repeated(clinvk: CommandLine, home: Home):
    """The run is killed right after it has recorded the check: its end is cut off here."""
    home.backend("fake", worker("touch a"))
    run(clinvk, home, "-b", "fake", check="echo once >> count; test -e a", tasks=["x"])
    [path] = (home.path / "runs").glob("*/journal.jsonl")
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:4]))
    [events] = path.parent.glob("tasks/*.jsonl")
    kept = [line for line in events.read_bytes().splitlines(True) if b'"type":"result"' not in line]
    assert len(kept) < len(events.read_bytes().splitlines())
    events.write_bytes(b"".join(kept))
    task = resume(clinvk)
    assert (task["state"], task["check"]["state"], task["output"]) == ("done", "passed", "Done.")
    assert (home.work / "count").read_text() == "once\n"
    assert len(prompts(home)) == 1
    assert task["usage"]["input"] == 10


def test_a_protected_file_that_a_killed_attempt_changed_is_found(clinvk: CommandLine, home: Home):
    (home.work / "tests").mkdir()
    turn = "touch tests/a; if [ ! -e resumed ]; then touch here; sleep 60; fi"
    home.backend("fake", worker(turn, "true"))
    killed_run(clinvk, home, home.work / "here", tasks=[
        {"prompt": "x", "backend": "fake", "protect": "tests", "idempotent": True}])  # fmt: skip
    (home.work / "resumed").write_text("")
    task = resume(clinvk)
    assert (task["state"], task["check"]["protected"]) == ("failed", ["tests/a (added)"])


def test_a_check_that_is_cancelled_continues_when_the_run_is_resumed(
    clinvk: CommandLine, home: Home
):
    home.backend("fake", worker("touch a"))
    slow = "test -e resumed || { touch here; sleep 60; }"
    process = clinvk.start("parallel", write_plan(home, check=slow, tasks=["x"]), "-b", "fake")
    wait_for((home.work / "here").exists, "the check")
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 7, said
    (home.work / "resumed").write_text("")
    done = clinvk("runs", "resume", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["results"][0]["check"]["state"] == "passed"
    assert "the CLI had answered before; only the check runs again" in done.stderr
    assert len(prompts(home)) == 1


def test_a_prompt_that_ctrl_c_ended_is_a_cancelled_run(clinvk: CommandLine, home: Home):
    for words in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "1"]):
        argv = ["git", "-c", "user.name=x", "-c", "user.email=x@example.org", *words]
        subprocess.run(argv, cwd=home.work, check=True, env=home.env)
    home.backend("fake", worker("touch a"))
    here = home.path.parent / "here"
    slow = f"test -e {here}.gone || {{ touch {here}; sleep 60; }}"
    process = clinvk.start("-b", "fake", "--worktree", "--check", slow, "x")
    wait_for(here.exists, "the check")
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 7, said
    (run,) = clinvk.json("runs", "list", "--json")["runs"]
    assert (run["state"], run["counts"]) == ("cancelled", {"cancelled": 1})
    here.with_name("here.gone").touch()
    done = clinvk("runs", "resume")
    assert done.returncode == 0, done.stderr
    assert "the CLI had answered before; only the check runs again" in done.stderr
    assert clinvk.json("runs", "list", "--json")["runs"][0]["state"] == "done"


def test_a_killed_round_in_a_worktree_continues_there(clinvk: CommandLine, home: Home):
    for words in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "1"]):
        argv = ["git", "-c", "user.name=x", "-c", "user.email=x@example.org", *words]
        subprocess.run(argv, cwd=home.work, check=True, env=home.env)
    here = home.path.parent / "here"
    turn = f"if [ ! -e {here}.gone ]; then touch {here}; sleep 60; fi; touch fixed"
    home.backend("fake", worker("touch a", turn, turn))
    killed_run(clinvk, home, here, tasks=[{
        "prompt": "x", "backend": "fake", "check": "ls; test -e fixed", "rounds": 1,
        "worktree": {"dirty": "tell"}, "protect": "tests", "idempotent": True}])  # fmt: skip
    here.with_name("here.gone").touch()
    task = resume(clinvk)
    assert (task["state"], task["check"]["state"], task["check"]["rounds"]) == ("done", "passed", 1)
    assert task["check"]["output"] == "a\nfixed"
    assert task["worktree"]["files"] == 2
    assert not (home.work / "fixed").exists()


# What is shown.


@everywhere
def test_a_failed_check_is_shown_everywhere(clinvk: CommandLine, home: Home):
    home.backend("fake", worker("touch a"))
    plan = write_plan(home, tasks=[{"name": "one", "prompt": "x", "backend": "fake",
                                    "check": "echo the reason; exit 4"}])  # fmt: skip
    reports = {name: home.work / f"report.{name}" for name in ("html", "md", "xml")}
    args = [word for path in reports.values() for word in ("--report", str(path))]
    env = {"GITHUB_ACTIONS": "true", "GITHUB_STEP_SUMMARY": str(home.work / "summary")}
    done = clinvk("parallel", plan, *args, env=env)
    assert done.returncode == CHECK_FAILED
    assert "failed check" in done.stdout
    assert "the reason" in done.stdout.split("::error")[1].split("\n")[0]
    texts = {name: path.read_text() for name, path in reports.items()}
    assert '<failure type="check" message="check failed: echo the reason; exit 4 (exit code 4)">' in (
        texts["xml"])  # fmt: skip
    for text in (*texts.values(), (home.work / "summary").read_text()):
        assert "the reason" in text
    assert "failed check" in texts["html"]
    assert "failed check" in texts["md"]
    assert "failed check" in clinvk("runs", "show", "last").stdout
    lines = [
        json.loads(x) for x in clinvk("parallel", plan, "-o", "stream-json").stdout.splitlines()
    ]
    assert {"checking", "checked"} <= {line["event"]["type"] for line in lines if "event" in line}


# Python.


@everywhere
@pytest.mark.anyio
async def test_python_has_checks_too(home: Home, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CLINVK_HOME", str(home.path))
    home.backend("fake", worker("touch a", "touch fixed", "touch b"))
    result = await api.arun(
        "x", backend="fake", cwd=home.work, check=["true", "test -e fixed"], rounds=2,
        check_timeout=30, protect=["tests/**"],
    )  # fmt: skip
    assert result.check is not None
    assert (result.ok, result.check.state, result.check.rounds) == (True, "passed", 1)
    result = await api.arun("x", backend="fake", cwd=home.work, check="false", rounds=0)
    assert result.error is not None
    assert (result.error.kind, result.exit_code) == ("check", CHECK_FAILED)
    many = await api.aparallel(["x"], backend="fake", workdir=home.work, check="true", rounds=1)
    assert many.results[0].check is not None
    assert many.results[0].check.state == "unchanged"
    compared = await api.acompare(
        "x", ["fake", "echo"], cwd=home.work, sequential=True, check="true", check_timeout=5
    )
    assert [o.check and o.check.state for o in compared.result.results] == ["unchanged"] * 2


# A full disk.


def test_a_check_that_fills_the_disk_is_recorded_when_there_is_room_again(
    clinvk: CommandLine, home: Home
):
    need_root()
    home.path.mkdir()
    mount("-t", "tmpfs", "-o", "size=800k,mode=700", "tmpfs", str(home.path))
    try:
        home.backend("fake", worker("touch a"))
        ballast = home.path / "ballast"
        check = f"echo once >> count; test -e resumed || cat /dev/zero > {ballast}; seq 4000"
        done = clinvk("parallel", write_plan(home, tasks=[
            {"prompt": "x", "backend": "fake", "check": check}]))  # fmt: skip
        assert done.returncode == 4, done
        assert "No space left on device" in done.stderr
        assert "clinvk runs resume" in done.stderr
        assert "unexpected" not in done.stderr
        ballast.unlink()
        (home.work / "resumed").touch()
        task = resume(clinvk)
        assert (task["state"], task["check"]["state"], task["output"]) == (
            "done",
            "passed",
            "Done.",
        )
        assert task["check"]["output"].endswith("4000")
        assert len(prompts(home)) == 1
    finally:
        subprocess.run(["umount", "-l", str(home.path)], check=True)
