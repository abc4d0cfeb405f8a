"""Turns and tasks in an empty directory of their own."""

import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

import clinvk as api
from clinvk.config import loading
from clinvk.disk import empty
from clinvk.dispatch.dispatcher import Dispatcher
from tests.clusters import SECONDS
from tests.conftest import CommandLine, Home, say, wait_for
from tests.desk import ends, kill
from tests.stores import keep

# Says where it is and what is there, and leaves a file.
HERE = (
    'mode=$1\nwhere=$(pwd)\nfound=$(ls)\np=$(cat)\necho x > made\ncase "$p" in hold*) touch HOLD; '
    "while [ ! -e GO ]; do sleep 0.05; done ;; esac\n"
    + say(type="start", id="native-1")
    + """printf '{"type":"end","text":"%s %s [%s]"}\\n' "$mode" "$where" "$found"\n"""
)


@pytest.fixture(autouse=True)
def backend(home: Home, tmp_path: Path) -> Home:
    script = HERE.replace("HOLD", str(tmp_path / "hold")).replace("GO", str(tmp_path / "go"))
    home.backend("here", script)
    home.config("default_backend: here\n")
    return home


def dispatcher(home: Home) -> Dispatcher:
    return keep(Dispatcher(loading.load(home.env), env=home.env))


def empties(home: Home) -> Path:
    return empty.folder_of(home.path)


def check(home: Home, text: str, mode: str = "run") -> Path:
    """The directory that a turn has named, which was an empty one of its own."""
    said, where, found = text.split()
    assert (said, found) == (mode, "[]")
    path = Path(where)
    assert path.parent == empties(home)
    assert not path.exists()
    return path


@pytest.mark.parametrize("flag", [["-w", "none"], ["--workdir=none"]])
def test_a_prompt_runs_in_an_empty_directory_that_is_deleted(
    clinvk: CommandLine, home: Home, flag: list[str]
):
    (home.work / "none").mkdir()
    done = clinvk.json(*flag, "hello", "--json")
    path = check(home, done["content"])
    assert list(empties(home).iterdir()) == []
    shown = clinvk.json("sessions", "show", done["session_id"], "--json")
    assert (shown["cwd"], shown["started_in"]) == (str(path), str(home.work))


def test_a_later_turn_gets_an_empty_directory_of_the_same_name(clinvk: CommandLine, home: Home):
    first = clinvk.json("-w", "none", "hello", "--json")
    path = check(home, first["content"])
    for words in (["-c", "again"], ["resume", first["session_id"], "again"]):
        later = clinvk.json(*words, "--json")
        assert check(home, later["content"], "resume") == path
        assert later["session_id"] == first["session_id"]
    # Other turns of the same directory do not get it.
    other = clinvk.json("-w", "none", "hello", "--json")
    assert other["session_id"] != first["session_id"]
    assert check(home, other["content"]) != path


def test_a_session_of_another_directory_continues_from_its_transcript(
    clinvk: CommandLine, home: Home
):
    first = clinvk.json("hello", "--json")
    done = clinvk("-c", "-w", "none", "again", "--json")
    assert "continues in an empty directory, from its transcript" in done.stderr
    found = json.loads(done.stdout)
    assert found["session_id"] == first["session_id"], done.stderr
    path = check(home, found["content"])
    assert check(home, clinvk.json("-c", "more", "--json")["content"], "resume") == path


def test_a_directory_of_that_name_can_be_named(clinvk: CommandLine, home: Home):
    (home.work / "none").mkdir()
    for words in (["./none"], ["none/"], [str(home.work / "none")]):
        found = clinvk.json("-w", *words, "hello", "--json")
        assert found["content"].split()[1] == str(home.work / "none")
    plan = {"tasks": [{"prompt": "x", "workdir": "./none"}, {"prompt": "y", "workdir": "none"}]}
    run = clinvk.json("parallel", "-f", "-", "--json", stdin=json.dumps(plan))
    places = [Path(result["output"].split()[1]) for result in run["results"]]
    assert places[0] == home.work / "none"
    assert places[1].parent == empties(home)


def test_tasks_have_one_each_and_prompts_get_their_answers(clinvk: CommandLine, home: Home):
    plan = {
        "defaults": {"workdir": "none"},
        "tasks": [
            {"name": "a", "prompt": "x"},
            {"name": "b", "prompt": "said: {{tasks.a.output}}", "needs": ["a"], "backend": "echo"},
            {"name": "c", "prompt": "x", "workdir": "."},
        ],
    }
    run = clinvk.json("parallel", "-f", "-", "--json", stdin=json.dumps(plan))
    a, b, c = (result["output"] for result in run["results"])
    check(home, a)
    assert b.endswith(f"said: {a}")
    assert c.split()[1] == str(home.work)
    shown = clinvk.json("parallel", "-f", "-", "--dry-run", "--json", stdin=json.dumps(plan))
    assert [task["workdir"] for task in shown["tasks"]] == ["none", "none", str(home.work)]
    flagged = clinvk.json("parallel", "-w", "none", "-f", "-", "--json", stdin='{"tasks": ["x"]}')
    check(home, flagged["results"][0]["output"])


def test_a_check_sees_the_files_of_its_task_and_rounds_go_on_there(
    clinvk: CommandLine, home: Home, tmp_path: Path
):
    seen = tmp_path / "seen"
    test = f"pwd >> {seen}; ls >> {seen}; test $(grep -c made {seen}) = 2"
    done = clinvk.json("-w", "none", "x", "--check", test, "--rounds", "2", "--json")
    assert done["check"]["state"] == "passed", done
    first, made, second, again = seen.read_text().split()
    assert first == second
    assert (made, again) == ("made", "made")
    assert not Path(first).exists()


def test_there_is_nothing_to_look_at_afterwards(clinvk: CommandLine, home: Home):
    (home.work / "tasks.yaml").write_text("tasks: [a]")
    assert clinvk("parallel", "-w", "none", "tasks.yaml").returncode == 0
    (run,) = json.loads(clinvk("runs", "list", "--json").stdout)["runs"]
    done = clinvk("runs", "diff", run["id"])
    assert done.returncode == 1
    assert "its tasks worked in empty directories, which are deleted" in done.stderr


def test_steps_of_a_chain_that_share_a_session_share_the_name(clinvk: CommandLine, home: Home):
    plan = {"steps": ["x", "y"], "pass_session": True, "defaults": {"workdir": "none"}}
    run = clinvk.json("chain", "-f", "-", "--json", stdin=json.dumps(plan))
    first, second = (result["output"] for result in run["results"])
    assert check(home, first) == check(home, second, "resume")


def test_answers_of_backends_are_compared_in_empty_directories(clinvk: CommandLine, home: Home):
    home.backend("other", HERE)
    run = clinvk.json("compare", "-b", "here,other", "-w", "none", "x", "--json")
    places = {check(home, result["output"]) for result in run["results"]}
    assert len(places) == 2


REFUSED: list[tuple[list[str], dict[str, Any] | None, str]] = [
    (["-w", "none", "--worktree", "x"], None, "an empty directory has no git worktree"),
    (["-w", "none", "--native"], None, "-w none is for a single prompt"),
    (["parallel", "-f", "-"], {"tasks": [{"prompt": "x", "workdir": "none", "worktree": True}]},
     "tasks[0]: workdir: none is an empty directory, which has no git worktree"),
    (["parallel", "-f", "-"], {"defaults": {"workdir": "none"}, "tasks": [{"prompt": "x", "candidates": 2}]},
     "none is an empty directory, which has no git worktree"),
    (["parallel", "-f", "-"], {"tasks": [{"prompt": "x", "workdir": "none", "check": "true", "protect": "tests"}]},
     "none is an empty directory, which has no files to protect"),
    (["compare", "-b", "here,echo", "-w", "none", "--worktree", "x"], None,
     "-w: none is an empty directory, which has no git worktree"),
]  # fmt: skip


@pytest.mark.parametrize(("words", "plan", "said"), REFUSED)
def test_what_needs_files_is_refused(
    clinvk: CommandLine, home: Home, words: list[str], plan: dict[str, Any] | None, said: str
):
    done = clinvk(*words, stdin=json.dumps(plan) if plan else "")
    assert done.returncode in (1, 3), done
    assert said in " ".join(done.stderr.split())
    assert not empties(home).exists() or not list(empties(home).iterdir())


@pytest.mark.anyio
async def test_python_has_it_too(home: Home):
    result = await api.arun("x", backend="here", cwd="none", dispatcher=dispatcher(home))
    check(home, result.text)
    run = await api.aparallel(["x"], workdir="none", dispatcher=dispatcher(home))
    check(home, run.results[0].output)
    found = await api.acompare("x", ["here", "echo"], cwd="none", dispatcher=dispatcher(home))
    check(home, found.answers["here"])


def test_it_is_deleted_when_the_turn_is_cancelled(clinvk: CommandLine, home: Home, tmp_path: Path):
    running = clinvk.start("-w", "none", "hold")
    wait_for((tmp_path / "hold").exists, "the program", SECONDS)
    (path,) = empties(home).iterdir()
    running.send_signal(signal.SIGINT)
    assert ends(running, SECONDS)[0] != 0
    assert not path.exists()


def test_what_a_killed_process_leaves_is_cleaned_up_later(
    clinvk: CommandLine, home: Home, tmp_path: Path
):
    running = clinvk.start("-w", "none", "hold", stdout=subprocess.DEVNULL)
    wait_for((tmp_path / "hold").exists, "the program", SECONDS)
    (path,) = empties(home).iterdir()
    os.utime(path, (0, 0))
    clinvk("runs", "clean")
    assert path.exists(), "a process uses it"
    kill(running)
    (tmp_path / "go").touch()
    os.utime(path)
    assert empty.remove_abandoned(home.path) == []
    os.utime(path, (0, 0))
    clinvk("runs", "clean")
    assert not path.exists()
