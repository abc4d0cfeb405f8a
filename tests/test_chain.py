"""`clinvk chain` and `clinvk checkpoints`: steps that know what came before, and where they go on."""

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import anyio
import pytest

from clinvk.api.tasks import plan_of
from clinvk.api.workflow import WorkflowManager
from clinvk.errors import SessionError
from clinvk.runs.checkpoints import Checkpoints
from clinvk.runs.folder import RunStore
from tests.conftest import Home, is_alive, living, say, stubborn, wait_for
from tests.desk import Desk, desk, ends, kill
from tests.everywhere import everywhere
from tests.stores import keep

__all__ = ["desk"]


def chain(desk: Desk, steps: list[Any], *args: str, **keys: Any) -> Any:
    """What `clinvk chain --json` prints of these steps."""
    path = desk.file({"steps": steps, **keys}, "chain.yaml")
    return desk.clinvk.json("chain", path, "--json", *args)


def states(data: Any) -> list[str]:
    return [result["state"] for result in data["results"]]


# What a step knows


@everywhere
def test_a_step_knows_what_came_before(desk: Desk):
    steps = [
        {"name": "first", "prompt": "a"},
        {"name": "the second", "prompt": "b {{previous}}", "backend": "other"},
        "c {{previous}} {{steps.first.output}} {{tasks.first.output}} {{session}}",
        "d {{steps.the second.session}} {{steps.the second.backend}}.",
    ]
    data = chain(desk, steps)
    id_ = data["id"]
    assert desk.starts() == [
        "a", "b <a>", f"c <b <a>> <a> <a> {id_}.the-second", f"d {id_}.the-second other.",
    ]  # fmt: skip
    assert (data["state"], data["kind"], data["source"]) == ("done", "chain", "chain.yaml")


@everywhere
def test_what_a_step_answers_names_nothing(desk: Desk):
    chain(desk, [r"say \{{previous}}", "then {{previous}}", "at last {{previous}}"])
    assert desk.starts() == [
        "say {{previous}}", "then <say {{previous}}>", "at last <then <say {{previous}}>>",
    ]  # fmt: skip


@everywhere
@pytest.mark.parametrize("kind", ["chain", "parallel"])
def test_silence_is_not_passed_on_as_an_answer(desk: Desk, kind: str):
    script = "cat >/dev/null\n" + say(type="end", text=" \n")
    desk.home.backend("quiet", script, ephemeral={"argv": ["--keep-nothing"]})
    tasks = [
        {"name": "look", "prompt": "a", "backend": "quiet"},
        {"name": "fix", "prompt": "any objections? {{steps.look.output}}", "backend": "quiet"},
    ]
    for ephemeral in (False, True):
        result = desk.run(tasks, kind, ephemeral=ephemeral)
        assert [o.state for o in result.results] == ["failed", "skipped"]
        error = result.results[0].error
        assert error
        assert error.kind == "incomplete"
        assert error.message == "quiet reported success without an answer"
    # Where nobody reads it, it is a success.
    tasks[1] = {"name": "fix", "prompt": "now fix it", "needs": ["look"], "backend": "quiet"}
    assert [o.state for o in desk.run(tasks, kind).results] == ["done", "done"]


@pytest.mark.parametrize(
    ("steps", "said"),
    [
        (["{{previous}}"], "nothing comes before"),
        (["a", "{{previuos}}"], "did you mean {{previous}}?"),
        (["a", "{{steps.b.output}}"], "there is no step 'b'"),
        (["a", "{{steps.1.answer}}"], "unknown name {{steps.1.answer}}"),
        (
            [{"name": "a", "prompt": "{{steps.b.output}}"}, {"name": "b", "prompt": "b"}],
            "chain.yaml: line 1: steps[0] 'a': {{steps.b.output}}: step 'b' comes after 'a'",
        ),
        ([{"name": "a", "prompt": "a", "needs": "2"}, "b"], "needs: step '2' comes after 'a'"),
        (["a", {"name": "b", "prompt": "b", "needs": "b"}], "needs: 'b' refers to itself"),
        (["a", "{{stps.1.output}}"], "did you mean {{steps.1.output}}?"),
        (["a", "{{steps.1.error}}"], "{{steps.1.error}} is always empty: '2' is only run when '1'"),
        ([{"name": "a", "prompt": "a"}] * 2 + ["{{steps.a.output}}"], "2 steps named 'a'"),
        ([], "there are no steps"),
        ([{"name": "a"}], "missing key 'prompt'"),
    ],
)
def test_a_name_that_nobody_knows_is_met_before_anything_runs(
    desk: Desk, steps: list[Any], said: str
):
    path = desk.file({"steps": steps}, "chain.yaml")
    done = desk.clinvk("chain", path, "--checkpoint", "mine")
    assert (done.returncode, said in done.stderr) == (3, True), done
    assert "chain.yaml: " in done.stderr
    assert desk.starts() == []
    assert not (desk.home.path / "runs").exists()
    assert not (desk.home.path / "checkpoints").exists()


def test_tasks_in_place_of_steps_are_told(desk: Desk):
    done = desk.clinvk("chain", desk.file({"tasks": ["a"]}))
    assert (done.returncode, "clinvk parallel" in done.stderr) == (3, True)


def test_the_published_format_works_unchanged(desk: Desk, home: Home, tmp_path: Path):
    (folder := tmp_path / "repo").mkdir()
    home.backend("fake", f'cat >/dev/null\necho "$@" >>{tmp_path}/args\npwd >>{tmp_path}/cwd\n'
                 "printf '{\"type\":\"end\",\"text\":\"fine\"}\\n'\n")  # fmt: skip
    (desk.home.work / "chain.json").write_text(
        f"""{{"steps": [{{"name": "one", "backend": "fake", "prompt": "Analyse it", "model": "m-1",
             "workdir": "{folder}", "approval_mode": "auto", "sandbox_mode": "read-only",
             "max_turns": 5}},
            {{"name": "two", "backend": "fake", "prompt": "Then {{{{previous}}}}", "model": "",
             "workdir": "", "approval_mode": "default", "sandbox_mode": "default",
             "max_turns": 0}}],
            "stop_on_failure": true, "pass_working_dir": false}}"""
    )
    done = desk.clinvk("chain", "--file", "chain.json", "--json")
    data = json.loads(done.stdout or "null")
    assert (done.returncode, data and states(data)) == (0, ["done", "done"]), done
    first, second = (tmp_path / "args").read_text().splitlines()
    assert first == "run --model m-1 --max-turns 5 --auto --ro"
    assert "--model" not in second
    assert (tmp_path / "cwd").read_text().split() == [str(folder), str(desk.home.work)]


# Failures, and what is passed on


@everywhere
def test_a_failure_ends_the_chain(desk: Desk):
    data = chain(desk, ["a", "bad b", "c {{previous}}", "d"])
    assert states(data) == ["done", "failed", "skipped", "skipped"]
    assert (data["exit_code"], data["state"]) == (1, "failed")
    assert desk.starts() == ["a", "bad b"]


@everywhere
def test_a_failure_ends_nothing_where_the_chain_says_so(desk: Desk):
    steps = ["bad a", "b {{previous}}{{steps.1.error}}", "c"]
    data = chain(desk, steps, stop_on_failure=False)
    assert states(data) == ["failed", "done", "done"]
    assert desk.starts() == ["bad a", "b boom", "c"]
    assert data["exit_code"] == 1


def test_what_a_step_needs_has_no_error_that_it_could_name(desk: Desk):
    steps = ["a", {"prompt": "{{steps.1.error}}", "needs": ["1"]}]
    path = desk.file({"steps": steps, "stop_on_failure": False})
    done = desk.clinvk("chain", path)
    assert (done.returncode, "{{steps.1.error}} is always empty" in done.stderr) == (3, True)
    assert "from its `needs`" in done.stderr


@everywhere
def test_what_a_step_says_that_it_needs_has_to_succeed_even_then(desk: Desk):
    steps = [
        {"name": "first", "prompt": "bad a"},
        {"prompt": "b {{steps.first.error}}", "backend": "other"},
        "c",
        {"prompt": "d", "needs": ["first"]},
        {"name": "behind", "prompt": "e {{previous}}.", "backend": "other"},
        {"prompt": "f", "needs": ["behind", "3"]},
        {"prompt": "g", "needs": ["4"]},
    ]
    data = chain(desk, steps, "--checkpoint", "mine", stop_on_failure=False)
    assert states(data) == ["failed", "done", "done", "skipped", "done", "done", "skipped"]
    assert desk.starts() == ["bad a", "b boom", "c", "e .", "f"]
    assert data["results"][3]["error"]["message"] == ("skipped: depends on 'first', which failed")
    desk.repair()
    data = json.loads(desk.clinvk("chain", "--resume", "mine", "--json").stdout)
    assert states(data) == ["done"] * 7
    # Those that had told of what is run again have something else to say now.
    assert desk.starts()[5:] == ["bad a", "b ", "d", "e <d>.", "g"]


def test_steps_run_one_at_a_time_whatever_else_is_said(desk: Desk, tmp_path: Path):
    desk.home.config("default_backend: fake\nparallel: {max_workers: 5}\n")
    # Each of them would see the one before it.
    desk.home.backend(
        "fake", f"cat >/dev/null\ncd {tmp_path}\nmkdir one || exit 9\nsleep 0.1\nrmdir one\n"
        "printf '{\"type\":\"end\",\"text\":\"fine\"}\\n'\n",
    )  # fmt: skip
    assert states(chain(desk, ["a", "b", "c"], max_parallel=3)) == ["done"] * 3


@everywhere
@pytest.mark.parametrize("passed", [True, False])
def test_a_folder_is_passed_on_where_the_chain_says_so(desk: Desk, tmp_path: Path, passed: bool):
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    two.mkdir()
    steps = [
        "a",
        {"prompt": "b", "workdir": str(one)},
        "c",
        {"prompt": "d", "workdir": str(two)},
        "e",
    ]
    chain(desk, steps, pass_working_dir=passed)
    here = desk.home.work
    kept = [here, one, one, two, two] if passed else [here, one, here, two, here]
    assert [os.path.realpath(f) for f in desk.folders()] == [os.path.realpath(f) for f in kept]


def test_a_session_is_passed_on_to_the_same_backend_and_handed_over_to_another(desk: Desk):
    steps = ["a", "b", {"prompt": "c", "backend": "other"}, {"prompt": "d", "backend": "other"}]
    data = chain(desk, steps, pass_session=True)
    assert states(data) == ["done"] * 4
    assert {r["session_id"] for r in data["results"]} == {f"{data['id']}.1"}
    modes = [line.split()[0] for line in desk.modes() if line.startswith(("run", "resume"))]
    assert modes == ["run", "resume", "run", "resume"]
    assert desk.starts()[:2] == ["a", "b"]
    handed = desk.starts()[2:]
    assert [line for line in handed if line in ("<a>", "<b>", "c", "d")] == ["<a>", "<b>", "c", "d"]
    assert desk.home.record(f"{data['id']}.1")["turns"] == 4


@everywhere
def test_without_it_each_step_has_a_session_of_its_own(desk: Desk):
    data = chain(desk, ["a", "b"])
    assert [r["session_id"] for r in data["results"]] == [f"{data['id']}.1", f"{data['id']}.2"]
    assert desk.modes() == ["run a", "run b"]


@everywhere
def test_an_ephemeral_chain_keeps_nothing_and_has_nothing_to_pass_on(desk: Desk):
    # echo is the one of ours that can be told to keep nothing.
    data = chain(desk, ["a", "b {{previous}}"], "--ephemeral", "-b", "echo")
    assert (data["id"], data["state"]) == (None, "done")
    assert data["results"][1]["output"].endswith("b (echo, no model) Turn 1. You said: a")
    path = desk.file({"steps": ["a", "b"], "pass_session": True}, "chain.yaml")
    done = desk.clinvk("chain", path, "--ephemeral", "-b", "echo")
    assert (done.returncode, "no session to pass on" in done.stderr) == (3, True)
    desk.file({"steps": ["a", "b"]}, "chain.yaml")
    done = desk.clinvk("chain", path, "--ephemeral", "-b", "echo", "--checkpoint", "mine")
    assert (done.returncode, "is not saved" in done.stderr) == (3, True)
    assert not (desk.home.path / "runs").exists()


def test_two_hundred_steps_are_run_one_after_the_other(desk: Desk):
    desk.home.backend("fake", f'read p\necho "$p" >>{desk.folder}/log\n'
                      "printf '{\"type\":\"end\",\"text\":\"%s\"}\\n' \"${p%% *}\"\n")  # fmt: skip
    steps = ["0", *(f"{n} after {{{{previous}}}}" for n in range(1, 200))]
    data = chain(desk, steps)
    assert data["completed"] == 200
    assert desk.starts() == ["0", *(f"{n} after {n - 1}" for n in range(1, 200))]


@everywhere
def test_a_matrix_makes_steps_one_after_the_other(desk: Desk):
    step = {"prompt": "{{n}} after {{previous}}", "matrix": {"n": [1, 2]}, "name": "n{{n}}"}
    chain(desk, ["0", step])
    assert desk.starts() == ["0", "1 after <0>", "2 after <1 after <0>>"]


# Exit codes, and only looking


@everywhere
def test_exit_codes_of_a_chain(desk: Desk):
    path = desk.file({"steps": ["limited a", "b"]}, "chain.yaml")
    assert desk.clinvk("chain", path, "-q", "--on-limit", "fail").returncode == 75
    assert desk.clinvk("chain", "nothing.yaml").returncode == 3
    assert (
        desk.clinvk("chain", desk.file({"steps": [{"prompt": "a", "backend": "no"}]})).returncode
        == 2
    )
    assert desk.clinvk("chain", stdin='{"steps": ["a"]}').returncode == 0
    driver = desk.start("chain", desk.file({"steps": ["hold a", "b"]}), "-q")
    desk.wait_for("hold a")
    driver.send_signal(signal.SIGINT)
    assert ends(driver)[0] == 7


def test_a_dry_run_runs_nothing_whichever_way_it_is_asked_for(desk: Desk):
    steps = ["a", "bad b", "c"]
    chain(desk, steps, "--checkpoint", "mine")
    path = desk.file({"steps": steps}, "chain.yaml")
    before = desk.starts(), (desk.home.path / "checkpoints" / "mine.json").read_bytes()
    for args in (
        (path,),
        (path, "--resume", "mine"),
        ("--resume", "mine"),
        (path, "--checkpoint", "n"),
    ):
        done = desk.clinvk("chain", *args, "--dry-run")
        assert (done.returncode, "PROMPT" in done.stdout) == (0, True), done
    desk.home.config("default_backend: fake\nunified_flags: {dry_run: true}\n")
    assert "PROMPT" in desk.clinvk("chain", path).stdout
    assert before == (desk.starts(), (desk.home.path / "checkpoints" / "mine.json").read_bytes())
    assert Checkpoints(desk.home.path).names() == ["mine"]


# Checkpoints


@everywhere
def test_a_failing_step_is_mended_in_the_file_and_the_chain_goes_on_there(desk: Desk):
    data = chain(desk, ["a", "bad b {{previous}}", "c {{previous}}"], "--checkpoint", "mine")
    assert states(data) == ["done", "failed", "skipped"]
    data = chain(desk, ["a", "good b {{previous}}", "c {{previous}}"], "--resume", "mine")
    assert states(data) == ["done"] * 3
    assert desk.starts() == ["a", "bad b <a>", "good b <a>", "c <good b <a>>"]
    assert [r["output"] for r in data["results"]] == ["<a>", "<good b <a>>", "<c <good b <a>>>"]
    assert desk.clinvk.json("checkpoints", "show", "mine", "--json")["id"] == data["id"]


@everywhere
def test_a_failing_step_that_was_mended_elsewhere_is_run_again_without_the_file(desk: Desk):
    data = chain(desk, ["a", "bad b", "c"], "--checkpoint", "mine")
    desk.repair()
    done = desk.clinvk("chain", "--resume", "mine", "--json")
    again = json.loads(done.stdout)
    assert (done.returncode, states(again)) == (0, ["done"] * 3)
    assert again["id"] == data["id"]
    assert desk.starts() == ["a", "bad b", "bad b", "c"]


@everywhere
def test_a_chain_that_is_done_is_not_run_again(desk: Desk):
    chain(desk, ["a", "b"], "--checkpoint", "mine")
    for args in (("--resume", "mine"), ("chain.yaml", "--resume", "mine")):
        done = desk.clinvk("chain", *args)
        assert (done.returncode, "there is nothing left to run" in done.stderr) == (0, True)
    assert desk.starts() == ["a", "b"]


@everywhere
def test_a_finished_step_that_was_changed_is_run_again_and_all_that_need_it(desk: Desk):
    chain(desk, ["a", "b", "c {{previous}}", "bad d"], "--checkpoint", "mine")
    data = chain(desk, ["a", "b changed", "c {{previous}}", "d"], "--resume", "mine")
    assert states(data) == ["done"] * 4
    assert desk.starts()[4:] == ["b changed", "c <b changed>", "d"]
    assert [r["attempts"] for r in data["results"]] == [1, 1, 1, 1]


def test_a_step_may_be_added_and_one_taken_away(desk: Desk):
    chain(desk, ["a", "b"], "--checkpoint", "mine")
    data = chain(desk, ["a", "b", "c {{previous}}"], "--resume", "mine")
    assert (states(data), desk.starts()) == (["done"] * 3, ["a", "b", "c <b>"])
    data = chain(desk, ["a"], "--resume", "mine")
    assert (states(data), len(desk.starts())) == (["done"], 3)


@everywhere
def test_rules_that_were_changed_hold_when_the_chain_goes_on(desk: Desk):
    chain(desk, ["bad a", "b"], "--checkpoint", "mine")
    data = chain(desk, ["bad a", "b"], "--resume", "mine", retries=1, retry_delay=0.01)
    assert data["results"][0]["attempts"] == 1  # what it says is no passing trouble
    plan = desk.at(data["id"]).plan()
    assert plan.rules.retries == 1
    desk.repair()
    data = chain(desk, ["bad a", "b"], "--resume", "mine", "--budget-tokens", "10")
    assert (data["why"] or "").startswith("the budget is spent")


def cut_off(desk: Desk, steps: list[Any]) -> str:
    """A chain named `mine` whose clinvk was killed when the step `hold …` had begun; its run."""
    path = desk.file({"steps": steps}, "chain.yaml")
    driver = desk.start("chain", path, "--checkpoint", "mine", "-q")
    wait_for(lambda: any(s.startswith("hold") for s in desk.starts()), "the start", 60)
    kill(driver)
    return RunStore(desk.home.path).find("last").id


@pytest.mark.parametrize("with_file", [False, True])
def test_a_killed_chain_goes_on_and_what_was_cut_off_is_run_again_only_if_asked(
    desk: Desk, with_file: bool
):
    steps = ["a", "hold b", "c {{previous}}"]
    cut_off(desk, steps)
    pid = desk.pid("hold")
    file = ["chain.yaml"] if with_file else []
    data = desk.clinvk.json("chain", *file, "--resume", "mine", "--json")
    assert states(data) == ["done", "indeterminate", "skipped"]
    assert not is_alive(pid)
    assert desk.starts() == ["a", "hold b"]
    desk.let_go()
    data = desk.clinvk.json("chain", *file, "--resume", "mine", "--rerun-indeterminate", "--json")
    assert states(data) == ["done"] * 3
    assert desk.starts() == ["a", "hold b", "hold b", "c <hold b>"]


def test_a_killed_chain_goes_on_with_another_file_and_does_nothing_twice_unasked(desk: Desk):
    old = cut_off(desk, ["a", "hold b", "c"])
    pid = desk.pid("hold")
    data = chain(desk, ["a", "hold b", "c changed"], "--resume", "mine")
    assert states(data) == ["done", "indeterminate", "skipped"]
    assert data["id"] != old
    assert not is_alive(pid)
    assert desk.starts() == ["a", "hold b"]
    assert desk.at(old).result().state == "cancelled"
    desk.let_go()
    data = chain(desk, ["a", "hold b", "c other"], "--resume", "mine", "--rerun-indeterminate")
    assert states(data) == ["done"] * 3
    assert desk.starts() == ["a", "hold b", "hold b", "c other"]


def test_a_step_that_was_cut_off_and_then_changed_is_run(desk: Desk):
    cut_off(desk, ["a", "hold b", "c"])
    data = chain(desk, ["a", "b", "c"], "--resume", "mine")
    assert states(data) == ["done"] * 3
    assert desk.starts() == ["a", "hold b", "b", "c"]


def test_a_chain_that_is_going_on_is_not_carried_on_by_another(desk: Desk):
    path = desk.file({"steps": ["a", "hold b"]}, "chain.yaml")
    driver = desk.start("chain", path, "--checkpoint", "mine", "-q")
    desk.wait_for("hold b")
    other = desk.file({"steps": ["a", "hold b", "c"]}, "other.yaml")
    for args in (("--resume", "mine"), (path, "--resume", "mine"), (other, "--resume", "mine")):
        done = desk.clinvk("chain", *args)
        assert (done.returncode, "is running" in done.stderr) == (4, True), done
    (named,) = desk.clinvk.json("checkpoints", "list", "--json")["checkpoints"]
    assert (named["state"], named["completed"]) == ("running", 1)
    assert len(RunStore(desk.home.path).ids()) == 1
    desk.let_go()
    assert ends(driver)[0] == 0
    assert desk.starts() == ["a", "hold b"]


def test_ctrl_c_keeps_what_is_done_and_leaves_nothing_running(desk: Desk, tree: Path):
    desk.home.backend("stubborn", stubborn(tree))
    path = desk.file({"steps": ["a", {"prompt": "b", "backend": "stubborn"}, "c"]}, "chain.yaml")
    driver = desk.start("chain", path, "--checkpoint", "mine", "-q")
    wait_for((tree / "self").exists, "the start", 60)
    driver.send_signal(signal.SIGINT)
    driver.send_signal(signal.SIGTERM)
    assert ends(driver)[0] == 7
    assert living(tree) == []
    (named,) = desk.clinvk.json("checkpoints", "list", "--json")["checkpoints"]
    assert (named["state"], named["completed"], named["steps"]) == ("cancelled", 1, 3)


def test_a_checkpoint_that_is_not_done_is_not_overwritten(desk: Desk):
    chain(desk, ["a", "bad b"], "--checkpoint", "mine")
    before = (desk.home.path / "checkpoints" / "mine.json").read_bytes()
    done = desk.clinvk("chain", "chain.yaml", "--checkpoint", "mine")
    assert done.returncode == 4
    assert "1 of 2 steps done" in done.stderr
    assert "clinvk chain --resume mine" in done.stderr
    assert (desk.home.path / "checkpoints" / "mine.json").read_bytes() == before
    assert len(RunStore(desk.home.path).ids()) == 1
    desk.repair()
    assert desk.clinvk("chain", "--resume", "mine", "-q").returncode == 0
    assert chain(desk, ["a"], "--checkpoint", "mine")["state"] == "done"


@pytest.mark.parametrize("name", ["../mine", "a b", "", ".hidden", "-x", "a" * 200, "last"])
def test_a_checkpoint_has_a_name_that_can_be_a_files(desk: Desk, name: str):
    path = desk.file({"steps": ["a"]}, "chain.yaml")
    for args in ((path, f"--checkpoint={name}"), (path, f"--resume={name}"), (f"--resume={name}",)):
        done = desk.clinvk("chain", *args, stdin="")
        assert done.returncode in (1, 3, 4), done
        assert "unexpected" not in done.stderr
    assert desk.starts() == []


@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        (("chain.yaml", "--checkpoint", "a", "--resume", "b"), 1, "different checkpoints"),
        (("chain.yaml", "--rerun-indeterminate"), 1, "add --resume"),
        (("--resume", "none"), 4, "no checkpoint 'none'"),
        (("chain.yaml", "--resume", "none"), 4, "no checkpoint 'none'"),
        (("--resume", "mine", "-b", "other"), 1, "name the file as well"),
        (("--resume", "mine", "--output-dir", "out"), 1, "name the file as well"),
        (("chain.yaml", "--resume", "mine", "--ephemeral"), 3, "is not saved"),
        (("chain.yaml", "-f", "other.yaml"), 1, "leave out one"),
    ],
)
def test_what_cannot_be_meant_is_told_before_anything_runs(
    desk: Desk, args: tuple[str, ...], code: int, said: str
):
    desk.file({"steps": ["a", "bad b"]}, "chain.yaml")
    desk.run(["a"], "chain")
    Checkpoints(desk.home.path).assign("mine", RunStore(desk.home.path).find("last").id)
    done = desk.clinvk("chain", *args)
    assert (done.returncode, said in done.stderr) == (code, True), done
    assert desk.starts() == ["a"]


def test_checkpoints_are_listed_shown_and_deleted(desk: Desk):
    told = desk.clinvk("checkpoints", "list")
    assert (told.returncode, "clinvk chain FILE --checkpoint" in told.stderr) == (0, True)
    assert desk.clinvk.json("checkpoints", "list", "--json") == {"version": 1, "checkpoints": []}
    first = chain(desk, ["a", "b"], "--checkpoint", "one")
    second = chain(desk, ["c", "bad d"], "--checkpoint", "two")
    one, two = desk.clinvk.json("checkpoints", "list", "--json")["checkpoints"]
    assert set(one) == {"name", "run", "at", "state", "steps", "completed", "source"}
    assert (one["name"], one["run"], one["state"], one["completed"]) == (
        "one",
        first["id"],
        "done",
        2,
    )
    assert (two["name"], two["state"], two["steps"], two["completed"]) == ("two", "failed", 2, 1)
    rows = [line.split() for line in desk.clinvk("checkpoints", "list").stdout.splitlines()]
    assert [row[:3] for row in rows[1:]] == [["one", "done", "2/2"], ["two", "failed", "1/2"]]
    shown = desk.clinvk.json("checkpoints", "show", "two", "--json")
    assert (shown["checkpoint"], shown["id"], states(shown)) == (
        "two",
        second["id"],
        ["done", "failed"],
    )
    assert shown["results"][0]["output"] == "<c>"
    text = desk.clinvk("checkpoints", "show", "two")
    assert (text.returncode, "<c>" in text.stdout) == (0, True)
    assert "clinvk chain --resume two" in text.stderr
    for command in ("show", "delete"):
        done = desk.clinvk("checkpoints", command, "three", *(["--yes"] * (command == "delete")))
        assert (done.returncode, "no checkpoint 'three'" in done.stderr) == (4, True)
    unasked = desk.clinvk("checkpoints", "delete", "one")
    assert (unasked.returncode, "pass --yes" in unasked.stderr) == (1, True)
    done = desk.clinvk("checkpoints", "delete", "one", "three", "two", "--yes")
    assert (done.returncode, done.stdout) == (
        4,
        "Checkpoint one deleted.\nCheckpoint two deleted.\n",
    )
    assert Checkpoints(desk.home.path).names() == []
    assert sorted(RunStore(desk.home.path).ids()) == sorted([first["id"], second["id"]])


def test_a_shell_completes_the_names_of_checkpoints(desk: Desk):
    for name in ("mine", "other"):
        Checkpoints(desk.home.path).assign(name, "r123456")
    for line, word in (("clinvk checkpoints show m", "3"), ("clinvk chain --resume m", "3")):
        env = {"_CLINVK_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": word}
        assert desk.clinvk(env=env).stdout.split() == ["mine"], line


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"version": 1}', '{"version": 2, "run": "r1", "at": ""}']
)
def test_a_damaged_checkpoint_hides_no_other_and_can_be_deleted(desk: Desk, text: str):
    chain(desk, ["a"], "--checkpoint", "mine")
    (desk.home.path / "checkpoints" / "torn.json").write_text(text)
    found = desk.clinvk.json("checkpoints", "list", "--json")["checkpoints"]
    assert [(c["name"], c["state"]) for c in found] == [("mine", "done"), ("torn", "damaged")]
    assert "torn" in desk.clinvk("checkpoints", "list").stdout
    for args in (("chain", "--resume", "torn"), ("checkpoints", "show", "torn"),
                 ("chain", "chain.yaml", "--checkpoint", "torn")):  # fmt: skip
        done = desk.clinvk(*args)
        assert (done.returncode, "torn.json" in done.stderr) == (4, True), done
    assert desk.clinvk("checkpoints", "delete", "torn", "--yes").returncode == 0
    assert Checkpoints(desk.home.path).names() == ["mine"]


def test_a_damaged_checkpoint_keeps_chains_alone_from_being_cleaned_up(desk: Desk):
    old = [chain(desk, ["a"])["id"], desk.made("b"), desk.made("c")]
    for id_ in old:
        os.utime(desk.at(id_).path / "journal.jsonl", (0, 0))
    (desk.at(old[1]).path / "plan.json").write_text("{")  # it may have been a chain
    (desk.home.path / "checkpoints").mkdir()
    (desk.home.path / "checkpoints" / "torn.json").write_text("{")
    done = desk.clinvk("runs", "clean", "--older-than", "1", "--json")
    assert (done.returncode, json.loads(done.stdout)["deleted"]) == (0, [old[2]])
    assert "torn.json: damaged" in done.stderr
    assert "runs of chains are kept" in done.stderr
    assert desk.clinvk("checkpoints", "delete", "torn", "--yes").returncode == 0
    said = desk.clinvk.json("runs", "clean", "--older-than", "1", "--json")
    assert sorted(said["deleted"]) == sorted(old[:2])


def test_a_run_that_a_checkpoint_names_is_not_deleted(desk: Desk):
    id_ = chain(desk, ["a", "bad b"], "--checkpoint", "mine")["id"]
    done = desk.clinvk("runs", "delete", id_, "--yes")
    assert (done.returncode, done.stdout) == (4, "")
    assert f"run {id_} belongs to checkpoint 'mine'" in done.stderr
    assert "clinvk checkpoints delete mine" in done.stderr
    desk.repair()
    assert desk.clinvk("chain", "--resume", "mine", "-q").returncode == 0
    assert desk.clinvk("checkpoints", "delete", "mine", "--yes").returncode == 0
    assert desk.clinvk("runs", "delete", id_, "--yes").returncode == 0


@pytest.mark.parametrize("name", ["checkpoint", "resume"])
def test_of_two_that_begin_under_one_name_at_the_same_moment_one_is_refused(desk: Desk, name: str):
    old = chain(desk, ["a", "bad b"], *(("--checkpoint", "mine") if name == "resume" else ()))
    known = desk.starts()
    flows = keep(WorkflowManager(desk.dispatcher()))
    plans = [plan_of([step], "chain", flows.dispatcher, {}) for step in ("first", "second")]
    first, second = (flows.prepare_run(plan, **{name: "mine"}) for plan in plans)
    assert anyio.run(first.run).state == "done"
    with pytest.raises(SessionError, match="was started at the same time") as told:
        anyio.run(second.run)
    assert first.folder
    assert f"clinvk runs watch {first.folder.id}" in str(told.value.hint)
    assert desk.starts() == [*known, "first"]
    assert Checkpoints(desk.home.path).find_run_id("mine") == first.folder.id
    assert sorted(RunStore(desk.home.path).ids()) == sorted([old["id"], first.folder.id])


def test_a_checkpoint_whose_run_is_gone_says_so_and_may_be_used_anew(desk: Desk):
    data = chain(desk, ["a", "bad b"], "--checkpoint", "mine")
    shutil.rmtree(desk.at(data["id"]).path)
    (named,) = desk.clinvk.json("checkpoints", "list", "--json")["checkpoints"]
    assert (named["state"], named["run"]) == ("gone", data["id"])
    done = desk.clinvk("chain", "--resume", "mine")
    assert (done.returncode, "is gone" in done.stderr) == (4, True)
    assert chain(desk, ["a"], "--checkpoint", "mine")["state"] == "done"
