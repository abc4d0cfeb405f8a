"""`clinvk runs`: what is kept of runs, and who carries them on, ends them and cleans them up."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pexpect
import pytest

from clinvk.api import tasks as fanout
from clinvk.engine.driven_run import DrivenRun
from clinvk.engine.resumed_run import ReplacingRun
from clinvk.engine.run_context import local_context
from clinvk.errors import SessionError
from clinvk.runs.folder import RunFolder, RunStore
from clinvk.text import duration
from tests.conftest import (
    END,
    READ,
    START,
    CommandLine,
    is_alive,
    living,
    say,
    stubborn,
    wait_for,
)
from tests.desk import Desk, desk, ends, kill
from tests.needs import need_root
from tests.terminals import Terminal
from tests.test_store_file import read_only_at

__all__ = ["desk"]

KEY = "sk-ant-api03-" + "a1B2c3D4e5" * 6


def tasks(*states: str) -> dict[str, Any]:
    """What `counts` says."""
    return {state: states.count(state) for state in states}


# Every state, reached for real


def done(desk: Desk) -> str:
    return desk.made("a", "b")


def failed(desk: Desk) -> str:
    return desk.made({"name": "a", "prompt": "bad a"}, {"prompt": "b", "needs": "a"}, "c")


def waiting(desk: Desk) -> str:
    return desk.made("limited a", "limited b", on_limit="fail", max_parallel=1)


def cancelled(desk: Desk) -> str:
    driver, id_ = desk.begin("hold a", "b", until="hold a")
    driver.send_signal(signal.SIGINT)
    assert ends(driver)[0] == 7
    return id_


def interrupted(desk: Desk) -> str:
    return desk.cut_off("a", "hold b", "c", until="hold b")


def running(desk: Desk) -> str:
    return desk.begin("a", "hold b", "c", until="hold b")[1]


STATES = {
    "done": (done, {"done": 2}),
    "failed": (failed, {"done": 1, "failed": 1, "skipped": 1}),
    "waiting": (waiting, {"failed": 1, "waiting": 1}),
    "cancelled": (cancelled, {"cancelled": 2}),
    "interrupted": (interrupted, {"done": 1, "indeterminate": 1, "queued": 1}),
    "running": (running, {"done": 1, "running": 1, "queued": 1}),
}


@pytest.mark.parametrize("state", STATES)
def test_a_run_is_listed_and_shown_in_the_state_that_it_is_in(desk: Desk, state: str):
    make, counts = STATES[state]
    id_ = make(desk)
    (listed,) = desk.clinvk.json("runs", "list", "--json", "--state", state)["runs"]
    assert (listed["id"], listed["state"], listed["counts"]) == (id_, state, counts)
    assert listed["total_tasks"] == sum(counts.values())
    shown = desk.clinvk.json("runs", "show", "--json")
    assert (shown["id"], shown["state"]) == (id_, state)
    found = [o["state"] for o in shown["results"]]
    assert {s: found.count(s) for s in found} == counts
    text = desk.clinvk("runs", "show", id_)
    assert (text.returncode, f"state: {state}" in text.stdout) == (0, True), text
    others = [s for s in STATES if s != state]
    for other in others[:2]:
        assert desk.clinvk.json("runs", "list", "--json", "--state", other)["runs"] == []


def test_runs_are_listed_the_newest_first_and_as_many_as_are_wanted(desk: Desk):
    ids = [desk.made(str(n)) for n in range(3)][::-1]
    listed = desk.clinvk.json("runs", "list", "--json")["runs"]
    assert [run["id"] for run in listed] == ids
    assert set(listed[0]) == {"id", "kind", "state", "source", "total_tasks", "counts",
                              "started_at", "ended_at", "total_duration_seconds", "usage",
                              "cost"}  # fmt: skip
    assert listed[0]["usage"]["total"] == 15
    table = desk.clinvk("runs", "list", "-n", "2").stdout.splitlines()
    assert [line.split()[0] for line in table] == ["ID", *ids[:2]]
    assert desk.clinvk("runs", "list", "-n", "0").returncode == 1
    wrong = desk.clinvk("runs", "list", "--state", "over")
    assert (wrong.returncode, "valid: running, done" in wrong.stderr) == (1, True)


def test_no_runs_are_told_with_a_way_to_make_one(clinvk: CommandLine):
    said = clinvk("runs", "list")
    assert (said.returncode, said.stdout) == (0, "")
    assert "clinvk parallel" in said.stderr
    assert clinvk.json("runs", "list", "--json") == {"version": 1, "runs": []}
    gone = clinvk("runs", "show")
    assert (gone.returncode, "there are no runs yet" in gone.stderr) == (4, True)


# Which run is meant


def test_an_id_may_be_shortened_as_long_as_one_run_begins_so(desk: Desk):
    one, two = desk.made("a"), desk.made("b")
    for old, new in ((one, "rabc123"), (two, "rabc456")):
        os.rename(desk.home.path / "runs" / old, desk.home.path / "runs" / new)
    assert desk.clinvk.json("runs", "show", "rabc1", "--json")["id"] == "rabc123"
    several = desk.clinvk("runs", "show", "rabc")
    assert several.returncode == 4
    assert "rabc123, rabc456" in several.stderr
    for text in ("rzz", "", "../runs/rabc123", "RABC1"):
        none = desk.clinvk("runs", "show", text)
        assert (none.returncode, "no run" in none.stderr) == (4, True), text


def test_where_only_tasks_have_sessions_it_is_told_how_to_go_on_with_one(desk: Desk):
    id_ = desk.made("a")
    for args in (("resume", "--last", "go on"), ("-c", "go on"), ("-c", "--anywhere", "go on")):
        done = desk.clinvk(*args)
        assert (done.returncode, "except sessions of tasks" in done.stderr) == (4, True), done
        assert f"clinvk resume {id_}.1 " in done.stderr
        assert "clinvk sessions list" in done.stderr
    assert f"{id_}.1" in desk.clinvk("sessions", "list").stdout
    for wanted in (("resume", "--last", "-b", "other", "x"), ("-b", "other", "-c", "x")):
        assert "of tasks" not in desk.clinvk(*wanted).stderr  # these are no sessions of theirs
    (elsewhere := desk.folder / "elsewhere").mkdir()
    assert desk.clinvk("-w", str(elsewhere), "hello").returncode == 0
    here = desk.clinvk("-c", "go on").stderr
    assert ("except sessions of tasks" in here, "the last one is" in here) == (True, True)
    assert desk.clinvk("resume", f"{id_}.1", "go on").returncode == 0


def test_a_shell_completes_the_ids_of_runs(desk: Desk):
    id_ = desk.made("a")
    for line, expected in (
        ("clinvk runs show r", [id_]),
        ("clinvk runs resume l", ["last"]),
        ("clinvk runs delete x", []),
    ):
        env = {"_CLINVK_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": "3"}
        assert desk.clinvk(env=env).stdout.split() == expected, line


# One task


def test_a_task_is_shown_by_its_name_its_key_and_its_number(desk: Desk):
    id_ = desk.made({"name": "the first one", "prompt": "a"}, {"name": "bad", "prompt": "bad b"})
    for text in ("the first one", "the-first-one", "1"):
        said = desk.clinvk("runs", "show", id_, text)
        assert "the first one (1 of 2 in run" in said.stdout, said
        assert said.stdout.endswith("\n<a>\n")
    data = desk.clinvk.json("runs", "show", id_, "bad", "--json")
    assert (data["run"], data["prompt"], data["state"]) == (id_, "bad b", "failed")
    assert (data["error"]["message"], data["attempts"], data["exit_code"]) == ("boom", 1, 1)
    unknown = desk.clinvk("runs", "show", id_, "the frist one")
    assert unknown.returncode == 1
    assert "did you mean 'the first one'?" in unknown.stderr
    assert desk.clinvk("runs", "show", id_, "3").returncode == 1


def test_a_number_that_is_a_name_is_that_name(desk: Desk):
    id_ = desk.made({"name": "2", "prompt": "a"}, {"name": "1", "prompt": "b"})
    assert desk.clinvk.json("runs", "show", id_, "1", "--json")["prompt"] == "b"


def test_the_events_of_a_task_are_one_object_a_line(desk: Desk):
    id_ = desk.made("a", "b")
    lines = desk.clinvk("runs", "show", id_, "2", "--events").stdout.splitlines()
    events = [json.loads(line) for line in lines]
    assert next(e["type"] for e in events) == "started"
    assert (events[-1]["type"], events[-1]["content"]) == ("result", "<b>")
    of_all = desk.clinvk("runs", "show", id_, "--events")
    assert (of_all.returncode, "TASK" in of_all.stderr) == (1, True)


def test_answers_are_shown_where_they_are_wanted(desk: Desk):
    id_ = desk.made("a", "b")
    assert "<a>" not in desk.clinvk("runs", "show", id_).stdout
    said = desk.clinvk("runs", "show", id_, "--answers").stdout
    assert said.index("<a>") < said.index("<b>") < said.index("TASK")
    data = desk.clinvk.json("runs", "show", id_, "--json")
    assert [o["output"] for o in data["results"]] == ["<a>", "<b>"]


# What is damaged, or newer


DAMAGE = {
    "no plan": ("plan.json", None),
    "half a plan": ("plan.json", '{"version": 1, "ki'),
    "a plan that is a list": ("plan.json", "[]"),
    "a plan of another version": ("plan.json", '{"version": "one"}'),
    "a task that there is not": (
        "journal.jsonl", '{"version":1,"at":"2026-01-01T00:00:00Z","event":"started","task":7}\n',
    ),
    "a line without a time": ("journal.jsonl", '{"version":1,"event":"begin"}\n' * 3),
    "ends that tell nothing": (
        "journal.jsonl",
        ('{"version":1,"event":"begin","kind":"parallel","source":"x"}\n'
        '{"version":1,"event":"end","counts":null}\n'),
    ),
    "times that are none": (
        "journal.jsonl",
        ('{"version":1,"at":"now","event":"begin","kind":"parallel","source":"x"}\n'
        '{"version":1,"at":"then","event":"end","counts":{},"state":"done"}\n'),
    ),
    "a state that there is not": (
        "journal.jsonl",
        '{"version":1,"at":"2026-01-01T00:00:00Z","event":"ended","task":0,"state":"lost"}\n',
    ),
    "usage that is none": (
        "journal.jsonl",
        '{"version":1,"at":"2026-01-01T00:00:00Z","event":"ended","task":0,"state":"done","usage":"x"}\n',
    ),
}  # fmt: skip


def test_a_list_of_a_state_that_no_run_is_in_names_the_others(desk: Desk):
    said = desk.clinvk("runs", "list", "--state", "running")
    assert (said.stdout, "clinvk parallel" in said.stderr) == ("", True)
    desk.made("a")
    said = desk.clinvk("runs", "list", "--state", "running")
    assert (said.returncode, said.stdout) == (0, "")
    assert said.stderr == "no runs are running; see all: clinvk runs list\n"


def test_a_killed_run_took_as_long_as_something_was_heard_of_it(desk: Desk):
    driver, id_ = desk.begin("hold a", until="hold a")
    kill(driver)
    folder = desk.at(id_)
    began = folder.result().started_at
    assert began
    heard = began.timestamp() + 90
    os.utime(folder.events_path(0), (heard, heard))
    (listed,) = desk.clinvk.json("runs", "list", "--json")["runs"]
    assert (listed["state"], round(listed["total_duration_seconds"])) == ("interrupted", 90)
    assert desk.clinvk("runs", "cancel", id_).returncode == 0
    (listed,) = desk.clinvk.json("runs", "list", "--json")["runs"]
    assert (listed["state"], round(listed["total_duration_seconds"])) == ("cancelled", 90)


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_run_is_named_and_hides_no_other_and_can_be_deleted(desk: Desk, damage: str):
    well, id_ = desk.made("a"), desk.made("b")
    name, text = DAMAGE[damage]
    path = desk.home.path / "runs" / id_ / name
    path.unlink() if text is None else path.write_text(text)
    said = desk.clinvk("runs", "list", "--json")
    states = {run["id"]: run["state"] for run in json.loads(said.stdout)["runs"]}
    assert (said.returncode, states) == (0, {well: "done", id_: "damaged"}), said
    assert f"run {id_} is damaged" in said.stderr
    assert desk.clinvk("runs", "list", "--state", "damaged").stdout.count(id_) >= 1
    shown = desk.clinvk("runs", "show", id_)
    assert shown.returncode == 4, shown
    assert f"clinvk runs delete {id_}" in shown.stderr
    assert desk.clinvk("runs", "resume", id_).returncode == 4
    assert desk.clinvk("runs", "delete", id_, "--yes").returncode == 0
    assert RunStore(desk.home.path).ids() == [well]


def test_a_damaged_run_that_was_cut_off_is_ended_and_then_deleted(desk: Desk):
    id_ = interrupted(desk)
    (desk.at(id_).path / "plan.json").write_text("{")
    refused = desk.clinvk("runs", "delete", id_, "--yes")
    assert refused.returncode == 4
    assert f"clinvk runs cancel {id_}" in refused.stderr
    assert desk.clinvk("runs", "cancel", id_).returncode == 4
    assert not is_alive(desk.pid("hold"))
    assert desk.clinvk("runs", "delete", id_, "--yes").returncode == 0


@pytest.mark.parametrize("file", ["plan.json", "journal.jsonl"])
def test_a_run_of_a_newer_clinvk_is_left_as_it_is(desk: Desk, file: str):
    id_ = desk.made("a", "bad b")
    path = desk.at(id_).path / file
    path.write_text(re.sub(r'"version":\d', '"version":99', path.read_text()))
    before = path.read_bytes()
    for args in (("show",), ("resume",), ("retry",), ("report",), ("watch",)):
        said = desk.clinvk("runs", *args, id_)
        assert said.returncode == 3, said
        assert "newer clinvk" in said.stderr
    assert path.read_bytes() == before
    assert desk.clinvk("runs", "list").returncode == 0


def test_a_home_that_cannot_be_written_can_be_listed_and_shown(desk: Desk):
    id_ = desk.made("a")
    with read_only_at(desk.home.path):
        assert desk.clinvk.json("runs", "list", "--json")["runs"][0]["id"] == id_
        assert desk.clinvk.json("runs", "show", "--json")["results"][0]["output"] == "<a>"
        assert desk.clinvk("runs", "watch", id_).returncode == 0
        for args in (("delete", "--yes"), ("retry",)):
            said = desk.clinvk("runs", *args, id_)
            assert said.returncode == 4, said
            assert "CLINVK_HOME" in said.stderr


# Watching


class Watcher:
    """A clinvk that watches a run, and what it has printed by now."""

    def __init__(self, desk: Desk, *args: str) -> None:
        self.out, self.err = (
            desk.folder / f"{name}-{len(desk.drivers)}" for name in ("out", "err")
        )
        with open(self.out, "w") as out, open(self.err, "w") as err:
            self.process = desk.start("runs", "watch", *args, stdout=out, stderr=err)
        wait_for(lambda: self.out.read_text() or self.err.read_text(), "a word of it", 60)

    def ends(self) -> tuple[int, str, str]:
        code = self.process.wait(60)
        return code, self.out.read_text(), self.err.read_text()


def watched(lines: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in lines.splitlines()]


def test_watching_tells_what_happens_until_the_end_and_exits_as_the_run(desk: Desk):
    driver, id_ = desk.begin("a", "hold b", "bad c", until="hold b")
    text, lines = Watcher(desk, id_), Watcher(desk, id_, "-o", "stream-json")
    desk.let_go()
    assert ends(driver)[0] == 1
    code, out, err = text.ends()
    assert code == 1
    assert f"1 of 3 tasks to run, 1 running · run {id_}\nclinvk: 2: started on fake" in err
    assert "2: ✓ done" in err
    assert "[3/3] 3: ✗ failed" in err
    assert "3 tasks: 2 done, 1 failed" in out
    code, out, err = lines.ends()
    assert (code, err) == (1, "")
    first, *seen = watched(out)
    assert (first["type"], first["total_tasks"], first["left"]) == ("begin", 3, 2)
    kinds = [(x["type"], x["name"]) for x in seen[:-1] if x["type"] != "task_event"]
    assert kinds == [("task_ended", "2"), ("task_started", "3"), ("task_ended", "3")]
    events = [x["event"]["type"] for x in seen if x["type"] == "task_event" and x["name"] == "3"]
    assert events == ["started", "tool"]
    assert (seen[-1]["type"], seen[-1]["state"]) == ("end", "failed")


def test_watching_tells_of_limits_and_of_further_tries_as_the_run_itself_does(desk: Desk):
    flag = desk.folder / "tried"
    shaky = f"if [ ! -e {flag} ]; then touch {flag}\n{say(type='end', error='overloaded', status=529)}exit 1; fi\n"
    desk.home.backend("shaky", READ + START + shaky + END)
    tasks = ["hold a", {"prompt": "b", "backend": "shaky"}, "limited c"]
    rules = {"max_parallel": 1, "retries": 1, "retry_delay": 1, "limit_wait": 1.5}
    path = desk.file({"tasks": tasks, **rules})
    driver = desk.start("parallel", path, "-o", "stream-json")
    desk.wait_for("hold a")
    lines, text = Watcher(desk, "last", "-o", "stream-json"), Watcher(desk, "last")
    desk.let_go()
    wait_for((desk.folder / "met").exists, "the limit", 60)
    desk.repair()
    _, said, _ = ends(driver)
    code, out, err = lines.ends()
    assert (code, err) == (0, "")
    waits = [[x for x in watched(o) if x["type"] in ("task_retry", "task_limit")] for o in (said, out)]  # fmt: skip
    assert [(x["type"], x["name"], x["attempt"]) for x in waits[0]] == [
        ("task_retry", "2", 1), ("task_limit", "3", 1),
    ]  # fmt: skip
    assert waits[1] == waits[0]
    kinds = [(x["type"], x["attempt"]) for x in watched(out) if x.get("name") == "3"]
    assert [k for k in kinds if k[0] != "task_event"] == [
        ("task_started", 1), ("task_limit", 1), ("task_started", 2), ("task_ended", 2),
    ]  # fmt: skip
    told = text.ends()[2]
    assert "fake: rate limit reached; no tasks will start on it until" in told
    assert "2: overloaded; retrying at" in told


def test_a_watched_run_is_as_old_as_it_is_and_its_running_tasks_are_named(
    desk: Desk, terminal: Terminal
):
    driver, id_ = desk.begin("hold a", "b", until="hold a")
    journal = desk.at(id_).journal_path
    begin, *rest = journal.read_text().splitlines(keepends=True)
    line = json.loads(begin)
    line["at"] = (datetime.fromisoformat(line["at"]) - timedelta(hours=1)).isoformat()
    journal.write_text(json.dumps(line) + "\n" + "".join(rest))
    watcher = terminal("runs", "watch", id_, width=100)
    watcher.expect("1h 00m")
    watcher.expect(r"1 +.*fake +.*running")
    desk.let_go()
    watcher.expect("2 tasks: 2 done")
    assert ends(driver)[0] == 0


def test_watching_one_that_has_ended_tells_how(desk: Desk):
    id_ = failed(desk)
    data = desk.clinvk("runs", "watch", id_, "--json")
    assert (data.returncode, json.loads(data.stdout)["id"]) == (1, id_)


def test_ctrl_c_ends_the_watching_alone(desk: Desk):
    driver, id_ = desk.begin("hold a", until="hold a")
    watcher = Watcher(desk, id_)
    watcher.process.send_signal(signal.SIGINT)
    code, _, err = watcher.ends()
    assert code == 7
    assert f"run {id_} is still running" in err
    assert "cancelled" not in err
    assert driver.poll() is None
    desk.let_go()
    assert ends(driver)[0] == 0
    assert desk.states(id_) == ["done"]


def test_a_run_that_is_carried_on_is_watched_from_there(desk: Desk):
    id_ = interrupted(desk)
    driver = desk.start("runs", "resume", id_, "--rerun-indeterminate", "-q")
    desk.wait_for("hold b", 2)
    lines = Watcher(desk, id_, "-o", "stream-json")
    desk.let_go()
    assert ends(driver)[0] == 0
    code, out, _ = lines.ends()
    assert code == 0
    begun = [x for x in watched(out) if x["type"] == "task_event" and x["name"] == "3"]
    assert [x["event"]["type"] for x in begun] == ["started", "tool"]


# Carrying on


def test_a_killed_run_goes_on_and_nothing_is_done_twice(desk: Desk):
    id_ = desk.cut_off("a", "hold b", "c", {"prompt": "d", "needs": "2"}, until="hold b")
    assert is_alive(pid := desk.pid("hold"))
    said = desk.clinvk("runs", "resume")
    assert said.returncode == 1
    assert not is_alive(pid)
    assert "was interrupted" in said.stderr
    assert desk.states(id_) == ["done", "indeterminate", "done", "skipped"]
    assert desk.starts() == ["a", "hold b", "c"]
    assert f"clinvk runs resume {id_} --rerun-indeterminate" in said.stderr
    desk.let_go()
    said = desk.clinvk("runs", "resume", id_, "--rerun-indeterminate", "--json")
    data = json.loads(said.stdout)
    assert (said.returncode, data["state"], data["completed"]) == (0, "done", 4)
    assert [o["attempts"] for o in data["results"]] == [1, 2, 1, 1]
    assert desk.starts() == ["a", "hold b", "c", "hold b", "d"]
    assert data["results"][1]["session_id"] == f"{id_}.2.2"


def test_a_task_that_may_be_run_again_is(desk: Desk):
    task = {"prompt": "hold b", "idempotent": True}
    id_ = desk.cut_off("a", task, "c", until="hold b")
    desk.let_go()
    assert desk.clinvk("runs", "resume", id_, "-q").returncode == 0
    assert desk.starts() == ["a", "hold b", "hold b", "c"]


def cut_before_its_end_was_told(desk: Desk, id_: str) -> None:
    """As if the clinvk had been killed before it wrote down that the last task had ended."""
    journal = desk.at(id_).path / "journal.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    last = max(i for i, line in enumerate(lines) if b'"event":"started"' in line)
    journal.write_bytes(b"".join(lines[: last + 1]))


def test_a_task_that_had_ended_in_its_session_is_done(desk: Desk):
    id_ = desk.made("a", "b", max_parallel=1)
    cut_before_its_end_was_told(desk, id_)
    (desk.at(id_).path / "tasks" / "0002.jsonl").unlink()
    assert desk.states(id_) == ["done", "indeterminate"]
    data = desk.clinvk.json("runs", "resume", id_, "--json")
    assert (data["state"], data["results"][1]["output"]) == ("done", "<b>")
    assert desk.starts() == ["a", "b"]
    assert desk.clinvk.json("runs", "show", id_, "2", "--json")["output"] == "<b>"


@pytest.mark.parametrize("kept", [True, False])
def test_a_task_whose_result_stands_behind_its_events_ended_with_that(desk: Desk, kept: bool):
    desk.home.config(f"default_backend: fake\nsession: {{store_messages: {str(kept).lower()}}}\n")
    blocks = say(type="text", text="Let me see.") + say(type="tool", id="1", name="Read", input={})
    last = say(type="text", text="The answer.") + say(type="end", usage={"input": 1, "output": 2})
    desk.home.backend("two", READ + START + blocks + last)
    id_ = desk.made("a", {"prompt": "b", "backend": "two"}, max_parallel=1)
    whole = desk.at(id_).result().results[1]
    cut_before_its_end_was_told(desk, id_)
    assert desk.states(id_) == ["done", "indeterminate"]
    data = desk.clinvk.json("runs", "resume", id_, "--json")
    assert (data["state"], data["results"][1]["output"]) == ("done", "The answer.")
    found = desk.at(id_).result().results[1]
    assert (found.state, found.usage, found.model) == ("done", whole.usage, whole.model)
    assert (found.seconds, found.session_id) == (whole.seconds, whole.session_id)
    assert len(desk.at(id_).events(1)) == 5  # nothing was put behind


def test_a_task_whose_result_says_that_it_failed_has_failed(desk: Desk):
    id_ = desk.made("a", "bad b", max_parallel=1)
    cut_before_its_end_was_told(desk, id_)
    said = desk.clinvk("runs", "resume", id_, "--json")
    task = json.loads(said.stdout)["results"][1]
    assert (said.returncode, task["state"], task["error"]["message"]) == (1, "failed", "boom")
    assert desk.starts() == ["a", "bad b"]
    desk.repair()
    assert desk.clinvk("runs", "retry", id_, "-q").returncode == 0


def test_a_result_of_an_earlier_attempt_says_nothing_of_the_last(desk: Desk):
    id_ = desk.made("bad a")
    assert desk.clinvk("runs", "retry", id_, "-q").returncode == 1
    cut_before_its_end_was_told(desk, id_)
    events = desk.at(id_).events_path(0)
    lines = events.read_bytes().splitlines(keepends=True)
    events.write_bytes(b"".join(lines[:-1]))
    said = desk.clinvk("runs", "resume", id_, "--json")
    assert json.loads(said.stdout)["results"][0]["state"] == "indeterminate"


def test_what_was_cancelled_before_it_began_is_run_and_the_rest_is_not(desk: Desk):
    id_ = cancelled(desk)
    data = desk.clinvk.json("runs", "resume", id_, "--json")
    assert [o["state"] for o in data["results"]] == ["indeterminate", "done"]
    assert desk.starts() == ["hold a", "b"]
    # What was said is what is kept.
    assert desk.clinvk.json("runs", "show", id_, "--json")["indeterminate"] == 1
    (listed,) = desk.clinvk.json("runs", "list", "--json")["runs"]
    assert listed["counts"] == {"done": 1, "indeterminate": 1}


@pytest.mark.parametrize("state", ["done", "failed"])
def test_where_nothing_is_left_that_is_said_and_the_exit_code_is_the_runs(desk: Desk, state: str):
    id_ = desk.made("a", "bad b" if state == "failed" else "b")
    before = (desk.at(id_).path / "journal.jsonl").read_bytes()
    said = desk.clinvk("runs", "resume", id_)
    assert said.returncode == (state == "failed"), said
    assert "there is nothing left to run" in said.stderr
    assert (desk.at(id_).path / "journal.jsonl").read_bytes() == before
    assert len(desk.starts()) == 2
    if state == "done":
        said = desk.clinvk("runs", "retry", id_)
        assert (said.returncode, "there is nothing left to run" in said.stderr) == (0, True)


def test_the_pause_before_a_run_is_carried_on_is_not_listed_as_time_that_it_took(desk: Desk):
    id_ = cancelled(desk)
    journal = desk.at(id_).path / "journal.jsonl"
    lines = [json.loads(line) for line in journal.read_text().splitlines()]
    for line in lines:  # a day ago
        line["at"] = (datetime.fromisoformat(line["at"]) - timedelta(days=1)).isoformat()
    journal.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert desk.clinvk("runs", "resume", id_, "-q").returncode == 1
    (listed,) = desk.clinvk.json("runs", "list", "--json")["runs"]
    shown = desk.clinvk.json("runs", "show", id_, "--json")["total_duration_seconds"]
    assert (listed["state"], 0 < listed["total_duration_seconds"] < 60) == ("failed", True)
    assert listed["total_duration_seconds"] == shown
    row = desk.clinvk("runs", "list").stdout.splitlines()[1]
    assert duration.format_duration(listed["total_duration_seconds"]) in row


def test_where_nothing_is_left_of_a_cancelled_run_it_stays_that(desk: Desk):
    driver, id_ = desk.begin("hold a", until="hold a")
    driver.send_signal(signal.SIGINT)
    assert ends(driver)[0] == 7
    said = desk.clinvk("runs", "resume", id_)
    assert (said.returncode, "there is nothing left to run" in said.stderr) == (7, True)
    assert desk.at(id_).summary()["counts"] == {"cancelled": 1}
    said = desk.clinvk("runs", "retry", id_)
    assert said.stderr == (
        "clinvk: 0 of 1 tasks to run · run " + id_ + "\n"
        "clinvk: there is nothing left to run except 1 interrupted task\n"
        "clinvk: 1 task was interrupted and may have done part of its work; run it again with: "
        f"clinvk runs resume {id_} --rerun-indeterminate\n"
    )
    lines = desk.clinvk("runs", "resume", id_, "-o", "stream-json").stdout
    assert [x["type"] for x in watched(lines)] == ["begin", "end"]


def test_an_older_run_of_the_directory_of_which_something_is_left_is_named(desk: Desk):
    old = cancelled(desk)
    assert desk.clinvk("parallel", "-q", desk.file(["bad a"])).returncode == 1
    broken = desk.at("last").id
    assert desk.clinvk("parallel", "-q", desk.file(["z"])).returncode == 0
    said = desk.clinvk("runs", "resume")
    assert (said.returncode, said.stderr.count(f"clinvk runs resume {old}\n")) == (0, 1)
    assert f"clinvk runs retry {broken}\n" in desk.clinvk("runs", "retry").stderr
    for args, cwd in ((("last",), desk.folder), ((desk.at("last").id,), None)):
        assert "older run" not in desk.clinvk("runs", "resume", *args, cwd=cwd).stderr


def test_what_waits_for_a_limit_is_run_later(desk: Desk):
    id_ = waiting(desk)
    assert desk.clinvk("runs", "resume", id_, "-q").returncode == 75
    desk.repair()
    assert desk.clinvk("runs", "resume", id_, "-q").returncode == 0
    assert desk.states(id_) == ["done", "done"]


def test_a_run_that_is_running_is_not_carried_on_by_another(desk: Desk):
    id_ = running(desk)
    for command in ("resume", "retry"):
        said = desk.clinvk("runs", command, id_)
        assert said.returncode == 4
        assert f"run {id_} is running" in said.stderr
    assert desk.starts() == ["a", "hold b"]


def test_of_two_who_carry_on_at_once_one_is_refused(desk: Desk):
    id_ = desk.cut_off("a", {"prompt": "hold b", "idempotent": True}, "c", until="hold b")
    both = [desk.start("runs", "resume", id_, "-q") for _ in range(2)]
    wait_for(lambda: any(d.poll() is not None for d in both), "the refusal", 60)
    desk.wait_for("hold b", 2)
    desk.let_go()
    assert sorted(ends(d)[0] for d in both) == [0, 4]
    assert desk.starts() == ["a", "hold b", "hold b", "c"]


def test_a_run_goes_on_in_the_folder_in_which_it_was_begun(desk: Desk, tmp_path: Path):
    id_ = desk.cut_off("a", "hold b", "c", until="hold b")
    (elsewhere := tmp_path / "elsewhere").mkdir()
    desk.clinvk("runs", "resume", id_, cwd=elsewhere)
    assert desk.starts() == ["a", "hold b", "c"]
    assert {os.path.realpath(f) for f in desk.folders()} == {os.path.realpath(desk.home.work)}


def test_a_prompt_that_held_a_secret_cannot_be_run_again_and_says_so(desk: Desk):
    id_ = desk.cut_off("a", "hold b", f"use {KEY}", until="hold b")
    assert KEY not in (desk.at(id_).path / "plan.json").read_text()
    said = desk.clinvk("runs", "resume", id_)
    assert said.returncode == 4
    assert "contained a secret, which was not stored" in said.stderr
    assert "tasks.yaml" in said.stderr
    assert desk.starts() == ["a", "hold b"]


def test_the_end_of_a_torn_journal_spoils_nothing(desk: Desk):
    id_ = interrupted(desk)
    with open(desk.at(id_).path / "journal.jsonl", "ab") as file:
        file.write(b'{"version":1,"at":"2026-')
    assert desk.clinvk("runs", "resume", id_).returncode == 1
    assert desk.states(id_) == ["done", "indeterminate", "done"]


# Trying again


def test_retry_runs_what_failed_and_what_was_skipped_for_it(desk: Desk):
    id_ = failed(desk)
    desk.repair()
    said = desk.clinvk("runs", "retry", id_, "-q")
    assert said.returncode == 0, said
    assert desk.starts() == ["bad a", "c", "bad a", "b"] or desk.starts()[-2:] == ["bad a", "b"]
    assert desk.states(id_) == ["done"] * 3
    assert [o.attempts for o in desk.at(id_).result().results] == [2, 1, 1]


def test_retry_runs_what_was_never_begun_because_others_failed(desk: Desk):
    id_ = desk.made("bad a", "b", "c", fail_fast=True, max_parallel=1)
    assert desk.states(id_) == ["failed", "cancelled", "cancelled"]
    desk.repair()
    assert desk.clinvk("runs", "retry", id_, "-q").returncode == 0
    assert desk.starts() == ["bad a", "bad a", "b", "c"]


def test_retry_runs_the_tasks_that_are_named_however_they_ended(desk: Desk):
    id_ = desk.made({"name": "one", "prompt": "a"}, {"name": "the second", "prompt": "b"}, "bad c")
    data = desk.clinvk.json("runs", "retry", id_, "the-second", "--json")
    assert [o["attempts"] for o in data["results"]] == [1, 2, 1]
    assert (data["state"], data["exit_code"]) == ("failed", 1)
    desk.repair()
    data = desk.clinvk.json("runs", "retry", id_, "one", "--failed", "--json")
    assert [o["attempts"] for o in data["results"]] == [2, 2, 2]
    assert data["state"] == "done"


def test_retry_of_a_task_that_there_is_not_runs_nothing(desk: Desk):
    id_ = desk.made("bad a")
    said = desk.clinvk("runs", "retry", id_, "b")
    assert (said.returncode, "no task 'b'" in said.stderr) == (1, True)
    assert desk.starts() == ["bad a"]


def test_retry_takes_a_task_by_its_number_as_show_does(desk: Desk):
    id_ = desk.made({"name": "one", "prompt": "a"}, {"name": "two", "prompt": "b"})
    assert desk.clinvk("runs", "retry", id_, "2", "-q").returncode == 0
    assert [o.attempts for o in desk.at(id_).result().results] == [1, 2]


# Ending


def test_cancel_ends_a_run_and_all_that_it_started(desk: Desk):
    driver, id_ = desk.begin("a", "hold b", "c", until="hold b")
    said = desk.clinvk("runs", "cancel", id_)
    assert (said.returncode, said.stdout) == (0, f"Run {id_} is cancelled: 1 done, 2 cancelled.\n")
    assert ends(driver)[0] == 7
    assert not is_alive(desk.pid("hold"))


def test_cancel_ends_a_run_that_a_shell_put_into_the_background(desk: Desk):
    path = desk.file({"tasks": ["hold a"]})
    deaf = lambda: signal.signal(signal.SIGINT, signal.SIG_IGN) and None  # noqa: E731
    driver = desk.start("parallel", path, "-q", preexec_fn=deaf)
    desk.wait_for("hold a")
    data = desk.clinvk.json("runs", "cancel", "last", "--json")
    assert (data["state"], data["counts"]) == ("cancelled", {"cancelled": 1})
    assert ends(driver)[0] == 7


def test_cancel_ends_a_run_that_a_program_drives(desk: Desk):
    code = "import clinvk; clinvk.parallel(['a', 'hold b', 'c'], max_parallel=1)"
    with subprocess.Popen([sys.executable, "-c", code], cwd=desk.home.work, env=desk.home.env,
                          start_new_session=True, stderr=subprocess.DEVNULL) as driver:  # fmt: skip
        desk.drivers.append(driver)  # type: ignore[arg-type]
        desk.wait_for("hold b")
        data = desk.clinvk.json("runs", "cancel", "last", "--json")
        driver.wait(60)
    assert data["state"] == "cancelled"
    assert data["counts"] == {"done": 1, "indeterminate": 1, "cancelled": 1}
    assert not is_alive(desk.pid("hold"))


def test_cancel_now_asks_nobody_twice(desk: Desk, tree: Path):
    desk.home.backend("fake", stubborn(tree))
    driver = desk.start("parallel", desk.file({"tasks": ["a"]}), "-q")
    wait_for((tree / "self").exists, "the start", 60)
    assert desk.clinvk("runs", "cancel", "last", "--now").returncode == 0
    assert ends(driver)[0] == 7
    assert living(tree) == []


def test_cancel_ends_a_run_whose_driver_is_still_ending_what_was_left_running(desk: Desk):
    id_ = desk.cut_off("deaf a", "hold b", until="deaf a")
    killed = json.loads((desk.at(id_).path / "lock").read_text())["clinvk"]
    driver = desk.start("runs", "resume", id_, "-q")
    wait_for(
        lambda: (desk.at(id_).find_driver() or {}).get("clinvk") == killed, "the other one", 20
    )
    said = desk.clinvk("runs", "cancel", id_)
    assert (said.returncode, f"Run {id_} is cancelled: " in said.stdout) == (0, True), said
    assert ends(driver)[0] == 7
    assert not is_alive(desk.pid("deaf"))
    assert desk.at(id_).is_idle()


def test_cancel_ends_what_a_killed_run_left_running(desk: Desk):
    id_ = desk.cut_off("deaf b", "c", until="deaf b")
    assert is_alive(pid := desk.pid("deaf"))
    said = desk.clinvk("runs", "cancel", id_)
    assert said.returncode == 0
    assert "Run " + id_ + " is cancelled: 1 cancelled, 1 indeterminate." in said.stdout
    assert "left running" in said.stderr
    assert not is_alive(pid)
    assert desk.starts() == ["deaf b"]
    # It can be carried on all the same.
    desk.clinvk("runs", "resume", id_)
    assert desk.starts() == ["deaf b", "c"]


@pytest.mark.parametrize("state", ["done", "failed", "waiting"])
def test_cancel_of_a_run_that_has_ended_says_so_and_changes_nothing(desk: Desk, state: str):
    id_ = STATES[state][0](desk)
    before = (desk.at(id_).path / "journal.jsonl").read_bytes()
    said = desk.clinvk("runs", "cancel", id_)
    assert (said.returncode, said.stdout) == (1, "")
    assert f"run {id_} has ended already: {state} (" in said.stderr
    assert (desk.at(id_).path / "journal.jsonl").read_bytes() == before


def test_a_run_of_another_machine_is_not_cancelled_from_here(desk: Desk):
    id_ = running(desk)
    lock = desk.at(id_).path / "lock"
    lock.write_text(json.dumps({**json.loads(lock.read_text()), "host": "elsewhere"}))
    said = desk.clinvk("runs", "cancel", id_)
    assert (said.returncode, "driven on elsewhere" in said.stderr) == (4, True)
    assert is_alive(desk.pid("hold"))


# Cleaning up


def test_deleting_asks_first(desk: Desk):
    id_ = desk.made("a")
    unasked = desk.clinvk("runs", "delete", id_)
    assert (unasked.returncode, "pass --yes" in unasked.stderr) == (1, True)
    for answer, code in (("n", 4), ("y", 0)):
        child = pexpect.spawn(
            sys.executable, ["-m", "clinvk", "runs", "delete", id_], encoding="utf-8", timeout=60,
            cwd=str(desk.home.work), env={**desk.home.env, "TERM": "xterm"},
        )  # fmt: skip
        child.expect(f"Delete run {id_}")
        child.sendline(answer)
        child.expect(pexpect.EOF)
        child.close()
        assert child.exitstatus == code
        assert RunStore(desk.home.path).ids() == ([] if answer == "y" else [id_])


def test_deleting_some_tells_of_each_and_leaves_the_sessions(desk: Desk):
    one, two = desk.made("a"), desk.made("b")
    said = desk.clinvk("runs", "delete", "--yes", one, "rnone", two)
    assert said.returncode == 4
    assert said.stdout == f"Run {one} deleted.\nRun {two} deleted.\n"
    assert "no run 'rnone'" in said.stderr
    assert desk.home.ids() == sorted([f"{one}.1", f"{two}.1"])


def test_a_run_that_is_running_is_not_deleted(desk: Desk):
    id_ = running(desk)
    said = desk.clinvk("runs", "delete", id_, "--yes")
    assert (said.returncode, f"run {id_} is running" in said.stderr) == (4, True)
    desk.let_go()
    assert ends(desk.drivers[0])[0] == 0


def test_a_run_that_may_have_left_something_running_is_not_deleted(desk: Desk):
    id_ = interrupted(desk)
    said = desk.clinvk("runs", "delete", id_, "--yes")
    assert said.returncode == 4
    assert f"clinvk runs cancel {id_}" in said.stderr
    assert is_alive(desk.pid("hold"))
    assert desk.clinvk("runs", "cancel", id_).returncode == 0
    assert desk.clinvk("runs", "delete", id_, "--yes").returncode == 0


def age(desk: Desk, id_: str, days: float) -> None:
    then = time.time() - days * 86_400
    os.utime(desk.at(id_).path / "journal.jsonl", (then, then))


def test_clean_takes_what_ended_long_ago_and_says_which(desk: Desk):
    old, older, new = desk.made("a"), desk.made("b"), desk.made("c")
    age(desk, old, 8)
    age(desk, older, 50)
    would = desk.clinvk("runs", "clean", "--older-than", "7d", "--dry-run").stdout
    assert would.splitlines() == [older, old, "Would delete 2 runs older than 7 days."]
    data = desk.clinvk.json("runs", "clean", "--older-than", "7", "--dry-run", "--json")
    assert (data["dry_run"], data["deleted"]) == (True, [older, old])
    assert len(RunStore(desk.home.path).ids()) == 3
    data = desk.clinvk.json("runs", "clean", "--older-than", "6w", "--json")
    assert (data["dry_run"], data["deleted"]) == (False, [older])
    assert desk.clinvk("runs", "clean", "--older-than", "1w").stdout.startswith(
        "Deleted 1 run older"
    )
    assert RunStore(desk.home.path).ids() == [new]
    nothing = desk.clinvk("runs", "clean", "--older-than", "1h")
    assert (nothing.returncode, nothing.stdout, "no runs" in nothing.stderr) == (0, "", True)
    wrong = desk.clinvk("runs", "clean", "--older-than", "soon")
    assert (wrong.returncode, "invalid age" in wrong.stderr) == (1, True)


def test_clean_heeds_how_long_sessions_are_kept(desk: Desk):
    id_ = desk.made("a")
    age(desk, id_, 40)
    desk.home.config("default_backend: fake\nsession: {retention_days: 0}\n")
    assert desk.clinvk.json("runs", "clean", "--json")["deleted"] == []
    desk.home.config("default_backend: fake\nsession: {retention_days: 30}\n")
    assert desk.clinvk.json("runs", "clean", "--json")["deleted"] == [id_]


def test_clean_leaves_what_runs_what_was_cut_off_and_what_has_a_name(desk: Desk):
    named = desk.run(["a"], "chain").id
    assert named
    (desk.home.path / "checkpoints").mkdir()
    (desk.home.path / "checkpoints" / "mine.json").write_text(
        json.dumps({"version": 1, "name": "mine", "run": named, "at": "2026-01-01T00:00:00Z"})
    )
    left = interrupted(desk)
    driver, runs = desk.begin("hold d", until="hold d")
    for id_ in (named, left, runs):
        age(desk, id_, 400)
    assert desk.clinvk.json("runs", "clean", "--older-than", "1", "--json")["deleted"] == []
    assert sorted(RunStore(desk.home.path).ids()) == sorted([named, left, runs])
    would = desk.clinvk.json("runs", "clean", "--older-than", "1", "--dry-run", "--json")
    assert would["deleted"] == []
    kill(driver)


# Reports


@pytest.mark.parametrize(
    ("form", "begins"),
    [("markdown", "#"), ("html", "<!doctype html>"), ("junit", "<?xml"), ("json", "{")],
)
def test_a_report_is_printed_afterwards(desk: Desk, form: str, begins: str):
    failed(desk)
    said = desk.clinvk("runs", "report", "--format", form)
    assert said.returncode == 0
    assert said.stdout.lower().lstrip().startswith(begins), said.stdout[:80]
    assert re.search("boom", said.stdout)
    kept = desk.clinvk("runs", "report", "--format", form, "--output", "out.txt")
    assert (kept.returncode, kept.stdout) == (0, "")
    assert (desk.home.work / "out.txt").read_text() == said.stdout


def test_a_report_of_an_unknown_kind_is_refused(desk: Desk):
    desk.made("a")
    said = desk.clinvk("runs", "report", "--format", "pdf")
    assert (said.returncode, "html, markdown, junit, json" in said.stderr) == (1, True)


# What others can have written


@pytest.mark.parametrize("file", ["plan.json", "journal.jsonl"])
@pytest.mark.parametrize("how", ["mode", "owner", "link"])
def test_a_run_that_others_can_have_written_is_shown_and_not_run(
    desk: Desk, tmp_path: Path, file: str, how: str
):
    id_ = failed(desk)
    path = desk.at(id_).path / file
    if how == "mode":
        path.chmod(0o662)
    elif how == "link":
        path.rename(tmp_path / file)
        path.symlink_to(tmp_path / file)
    else:
        need_root()
        os.chown(path, 12345, 12345)
    desk.repair()
    before = desk.starts()
    for call in (("retry", id_, "-q"), ("retry", id_, "3", "-q"), ("resume", id_, "-q")):
        said = desk.clinvk("runs", *call)
        assert said.returncode == 4, said
        assert f"cannot be resumed: other users may have written {path}" in said.stderr
        assert f"chmod 600 {path}" in said.stderr
    assert desk.starts() == before
    assert desk.clinvk.json("runs", "show", id_, "--json")["state"] == "failed"
    if how == "mode":
        path.chmod(0o600)
        assert desk.clinvk("runs", "retry", id_, "-q").returncode == 0


@pytest.mark.anyio
@pytest.mark.parametrize("how", ["new", "replacing"])
async def test_a_new_run_that_another_clinvk_has_taken_is_left_to_it(desk: Desk, how: str):
    plan = fanout.plan_of(["a", "b"], "parallel", desk.dispatcher(), {"workdir": desk.home.work})
    old = DrivenRun(local_context(desk.dispatcher()), plan)
    await old.run()
    assert old.folder is not None
    if how == "new":
        run = DrivenRun(local_context(desk.dispatcher()), plan)
    else:
        run = ReplacingRun(local_context(desk.dispatcher()), plan, old.folder)
    folder = run.create_folder()
    assert folder is not None
    with RunFolder(folder.path).lock(), pytest.raises(SessionError, match="is running"):
        await run.run()
    assert folder.plan().tasks
    assert (folder.path / "lock").exists()
