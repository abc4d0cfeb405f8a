"""Resuming a run of many tasks: what a person is asked, and what is printed."""

import json
import signal

import pytest

from tests.conftest import Home, wait_for
from tests.desk import Desk, desk, ends
from tests.terminals import Terminal, ending

__all__ = ["desk"]

QUESTION = r"interrupted.*\[Y/n\] "


def cancelled(desk: Desk, *tasks: object, until: str) -> str:
    """A run that was ended by Ctrl-C when the task `until` had begun."""
    driver, id_ = desk.begin(*tasks, until=until)
    driver.send_signal(signal.SIGINT)
    assert ends(driver)[0] == 7
    return id_


@pytest.mark.parametrize("how", ["cancelled", "killed"])
def test_a_person_is_asked_whether_interrupted_tasks_are_run_again(
    desk: Desk, terminal: Terminal, how: str
):
    interrupt = cancelled if how == "cancelled" else Desk.cut_off
    tasks = ("a", "hold b", {"prompt": "c", "needs": "2"})
    id_ = interrupt(desk, *tasks, until="hold b")
    desk.let_go()
    child = terminal("runs", "resume", TERM="dumb")
    child.expect("1 task was " + QUESTION)
    child.sendline("perhaps")
    child.expect(r"Please answer y or n. \[Y/n\] ")
    child.sendline("")
    text, code = ending(child)
    assert code == 0
    assert desk.starts() == ["a", "hold b", "hold b", "c"]
    assert desk.states(id_) == ["done"] * 3
    assert "<b>" not in text  # echoes of the terminal aside
    assert "<hold b>" in text
    assert "<c>" in text
    assert "<a>" not in text  # it was printed by the run before
    assert "1 done before" in text


@pytest.mark.parametrize(("key", "code", "starts"), [
    ("n\r", 1, ["hold a", "b"]), ("\x04", 7, ["hold a"]), ("\x03", 7, ["hold a"]),
    ("y\ny\n\n", 7, ["hold a"]),
])  # fmt: skip
def test_only_an_answer_decides(
    desk: Desk, terminal: Terminal, key: str, code: int, starts: list[str]
):
    id_ = cancelled(desk, "hold a", "b", until="hold a")
    before = desk.at(id_).journal_path.read_bytes()
    child = terminal("runs", "resume", id_, TERM="dumb")
    child.expect(QUESTION)
    child.send(key)
    text, exit_code = ending(child)
    assert (exit_code, desk.starts()) == (code, starts)
    if code == 7:
        assert "clinvk: cancelled" in text
        assert desk.at(id_).journal_path.read_bytes() == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_is_cancelled_though_a_task_was_interrupted_before(
    desk: Desk, number: signal.Signals
):
    id_ = desk.cut_off("hold a", "hold b", until="hold a")
    driver = desk.start("runs", "resume", id_, "--json")
    desk.wait_for("hold b")
    driver.send_signal(number)
    code, out, _ = ends(driver)
    assert (code, json.loads(out)["exit_code"]) == (7, 7)
    assert desk.states(id_) == ["indeterminate", "cancelled"]
    assert desk.clinvk("runs", "watch", id_).returncode == 7


def test_the_flags_and_pipes_ask_nothing(desk: Desk, terminal: Terminal):
    id_ = cancelled(desk, "hold a", "b", until="hold a")
    done = desk.clinvk("runs", "resume", id_)
    assert done.stderr.count("--rerun-indeterminate") == 1
    assert f"run it again with: clinvk runs resume {id_} --rerun-indeterminate" in done.stderr
    done = desk.clinvk("runs", "resume", id_, "-o", "json")
    assert done.stderr.count("--rerun-indeterminate") == 1
    assert desk.starts() == ["hold a", "b"]
    child = terminal("runs", "resume", id_, "--no-rerun-indeterminate", TERM="dumb")
    assert "[Y/n]" not in ending(child)[0]
    desk.let_go()
    assert desk.clinvk("runs", "resume", id_, "--rerun-indeterminate").returncode == 0
    assert desk.starts() == ["hold a", "b", "hold a"]


def test_a_chain_asks_as_well(desk: Desk, terminal: Terminal):
    path = desk.file({"steps": ["a", "hold b", "c"]})
    driver = desk.start("chain", path, "--checkpoint", "mine", "-q")
    desk.wait_for("hold b")
    driver.send_signal(signal.SIGINT)
    ends(driver)
    desk.let_go()
    child = terminal("chain", "--resume", "mine", TERM="dumb")
    child.expect("1 task was " + QUESTION)
    child.sendline("y")
    text, code = ending(child)
    assert (code, desk.starts()) == (0, ["a", "hold b", "hold b", "c"])
    assert "<a>" not in text


def test_half_an_answer_is_marked(desk: Desk, home: Home):
    home.backend("slow", 'cat >/dev/null\nprintf \'{"type":"start","id":"n"}\\n{"type":"delta","text":"half an"}\\n\'\n'
                 'touch "$0.said"; while :; do sleep 0.05; done\n')  # fmt: skip
    path = desk.file({"tasks": [{"prompt": "x", "backend": "slow"}]})
    driver = desk.start("parallel", path)
    wait_for((home.path.parent / "fakes" / "slow.said").exists, "half an answer", 60)
    driver.send_signal(signal.SIGINT)
    code, out, _ = ends(driver)
    assert code == 7
    assert "── 1 · slow · interrupted, incomplete ──" in out
    assert "half an" in out


def test_only_new_answers_are_printed(desk: Desk):
    id_ = desk.made("a", "bad b", {"prompt": "c", "needs": "2"}, "d")
    again = desk.clinvk("runs", "resume", id_)
    assert "there is nothing left to run" in again.stderr  # what was skipped depends on what failed
    assert "<a>" not in again.stdout
    assert "4 tasks: 2 done, 1 failed, 1 skipped" in again.stdout
    assert f"clinvk runs retry {id_}" in again.stderr
    desk.repair()
    retried = desk.clinvk("runs", "retry", id_)
    assert [w in retried.stdout for w in ("<a>", "<bad b>", "<c>", "<d>")] == [
        False,
        True,
        True,
        False,
    ]
    assert "2 done before" in retried.stdout
    assert sorted(desk.starts()[:3]) == ["a", "bad b", "d"]
    assert desk.starts()[3:] == ["bad b", "c"]
    last = desk.clinvk("runs", "resume", id_)
    assert last.stdout.count("\n") == 1  # nothing but the line below the table
    whole = json.loads(desk.clinvk("runs", "resume", id_, "--json").stdout)
    assert [o["output"] for o in whole["results"]] == ["<a>", "<bad b>", "<c>", "<d>"]
