"""Turns at once, in each other, and cut off: each clinvk a process of its own."""

import json
import subprocess
import sys
from pathlib import Path

from tests.conftest import (
    END,
    FAKES,
    READ,
    START,
    TREE,
    CommandLine,
    Home,
    living,
    python,
    stubborn,
    wait_for,
)

TURNS = (FAKES / "turns.sh").read_text()
FOREVER = "while :; do sleep 0.1; done\n"


def gated(home: Home) -> Path:
    """A backend `fake` that waits in each turn until this file is there."""
    gate = home.path.parent / "gate"
    home.backend("fake", TURNS.replace("prompt=$(cat)", (
        f"prompt=$(cat); touch {gate}.reached; while [ ! -e {gate} ]; do sleep 0.02; done"
    )))  # fmt: skip
    return gate


def test_two_turns_of_a_session_wait_for_each_other(clinvk: CommandLine, home: Home):
    gate = gated(home)
    gate.touch()
    assert clinvk("-b", "fake", "zero").returncode == 0
    (id_,) = home.ids()
    gate.unlink()
    Path(f"{gate}.reached").unlink()
    first = clinvk.start("resume", id_, "one")
    wait_for(lambda: Path(f"{gate}.reached").exists())
    second = clinvk.start("resume", id_, "two")
    assert "waiting for it to stop" in second.stderr.readline()
    gate.touch()
    assert "turn 2: one" in first.communicate(timeout=60)[0]
    assert "turn 3: two" in second.communicate(timeout=60)[0]
    said = [m["content"] for m in home.transcript()]
    assert said == ["zero", "turn 1: zero", "one", "turn 2: one", "two", "turn 3: two"]


def test_no_wait_exits_with_4_where_the_session_runs(clinvk: CommandLine, home: Home):
    gate = gated(home)
    first = clinvk.start("-b", "fake", "one")
    wait_for(lambda: Path(f"{gate}.reached").exists())
    (id_,) = home.ids()
    done = clinvk("resume", id_, "two", "--no-wait", timeout=60)
    gate.touch()
    first.communicate(timeout=60)
    assert done.returncode == 4
    assert "is running" in done.stderr


def test_a_clinvk_in_a_turn_of_the_same_session_does_not_wait_for_itself(
    clinvk: CommandLine, home: Home
):
    nested = (
        f"{sys.executable} -m clinvk resume --last inner "
        '>"$0.out" 2>"$0.err" </dev/null; echo $? >"$0.code"\n'
    )
    program = home.backend("fake", READ + START + nested + END)
    done = clinvk("-b", "fake", "outer", timeout=60)
    assert done.returncode == 0, done
    assert program.with_name("fake.code").read_text() == "4\n"
    assert "wait for itself" in program.with_name("fake.err").read_text()


def test_a_clinvk_in_a_turn_can_use_another_session(clinvk: CommandLine, home: Home):
    nested = f'{sys.executable} -m clinvk -b echo inner >"$0.out" </dev/null\n'
    program = home.backend("fake", READ + START + nested + END)
    assert clinvk("-b", "fake", "outer", timeout=60).returncode == 0
    assert "inner" in program.with_name("fake.out").read_text()
    assert len(home.ids()) == 2


def test_a_killed_run_can_be_resumed_and_what_it_left_is_ended(
    clinvk: CommandLine, home: Home, tree: Path
):
    program = home.backend("fake", stubborn(tree))
    running = clinvk.start("-b", "fake", "one")
    wait_for(lambda: home.ids() and home.record()["native_ids"])
    running.kill()
    running.wait()
    assert living(tree) == list(TREE)
    assert home.record()["native_ids"] == {"fake": "native-1"}
    program.write_text("#!/bin/bash\n" + READ + START + END)
    done = clinvk("resume", home.ids()[0], "two", timeout=60)
    running.communicate()
    assert done.returncode == 0, done
    assert "was killed" in done.stderr
    assert "processes that it left running were stopped" in done.stderr
    # The one without an environment has nothing by which anybody could know it.
    assert living(tree, ("self", "in", "out")) == []
    assert [m["content"] for m in home.transcript()] == ["one", "two", "It is done."]


def test_a_turn_that_was_cut_off_is_no_running_one(clinvk: CommandLine, home: Home):
    home.backend("fake", READ + START + FOREVER)
    running = clinvk.start("-b", "fake", "one")
    wait_for(lambda: home.ids() and home.record()["native_ids"])
    assert clinvk.json("sessions", "list", "--json")["sessions"][0]["status"] == "running"
    running.kill()
    running.communicate()
    assert clinvk.json("sessions", "list", "--json")["sessions"][0]["status"] != "running"
    home.backend("fake")
    assert clinvk("-c", "go on").returncode == 0  # which ends what was left


def test_ten_turns_at_once_in_sessions_of_their_own_all_arrive(clinvk: CommandLine, home: Home):
    home.backend("fake", TURNS)
    running = [clinvk.start("-b", "fake", f"prompt {c}") for c in "abcdefghij"]
    answers = sorted(process.communicate(timeout=60)[0].strip() for process in running)
    assert answers == [f"turn 1: prompt {c}" for c in "abcdefghij"]
    assert len(home.ids()) == 10
    assert all(home.record(id_)["turns"] == 1 for id_ in home.ids())


def test_a_turn_begun_on_another_machine_is_never_presumed_dead(clinvk: CommandLine, home: Home):
    home.backend("fake")
    assert clinvk("-b", "fake", "one").returncode == 0
    (id_,) = home.ids()
    facts = {
        "run": "a" * 32,
        "clinvk": 999,
        "since": 1.5,
        "host": "another-machine",
        "boot": "b",
        "namespace": "n",
    }
    (home.path / "locks" / id_).write_text(json.dumps(facts))
    for _ in range(2):
        done = clinvk("resume", id_, "two")
        assert done.returncode == 4
        assert "another-machine" in done.stderr


def test_python_sees_the_same_result_as_the_command_line(clinvk: CommandLine, home: Home):
    home.backend("fake", TURNS)
    shown = clinvk.json("-b", "fake", "-o", "json", "hello")
    script = (
        "import clinvk, json; r = clinvk.run('hello', backend='fake');"
        "print(json.dumps(r.to_json()))"
    )
    done = subprocess.run([sys.executable, "-c", script], env=home.env, cwd=home.work,
                          capture_output=True, text=True, check=True)  # fmt: skip
    mine = json.loads(done.stdout)
    for name in ("session_id", "native_id", "duration_seconds"):
        assert shown.pop(name) is not None
        assert mine.pop(name) is not None
    assert mine == shown


def test_a_plain_python_backend_works_as_a_shell_script_does(clinvk: CommandLine, home: Home):
    home.backend("fake", python("""\
        import json, sys
        prompt = sys.stdin.read()
        print(json.dumps({"type": "end", "id": "n", "text": prompt[::-1]}))
    """))  # fmt: skip
    assert clinvk("-b", "fake", "abc").stdout == "cba\n"
