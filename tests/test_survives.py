"""What a run of many tasks keeps and says when something breaks around it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys

import anyio
import pytest

from clinvk.api import tasks as fanout
from clinvk.errors import SessionError, UsageError
from clinvk.model.outcome import Outcome
from clinvk.model.plan import Plan, Task
from clinvk.runs.folder import RunFolder, RunStore
from clinvk.runs.journal import Journal
from tests.conftest import END, Home, say, wait_for
from tests.desk import Desk, desk, kill
from tests.needs import need

__all__ = ["desk"]

BUSY = say(type="end", error="overloaded", status=529)


def test_a_step_that_was_cut_off_is_not_taken_for_the_one_whose_session_it_goes_on_with(desk: Desk):
    steps = [{"name": "one", "prompt": "one"}, {"name": "two", "prompt": "hold two"}]
    path = desk.file({"steps": steps, "pass_session": True})
    driver = desk.start("chain", path, "--checkpoint", "c", "-q")
    desk.wait_for("hold two")
    kill(driver)
    folder = RunStore(desk.home.path).find("last")
    # As if it had been killed before the second turn had begun: the session is that of step one.
    session = folder.result().results[0].session_id
    record = desk.home.path / "sessions" / f"{session}.json"
    transcript = desk.home.path / "transcripts" / f"{session}.jsonl"
    transcript.write_bytes(b"".join(transcript.read_bytes().splitlines(keepends=True)[:2]))
    known = json.loads(record.read_text())
    record.write_text(json.dumps(known | {"turns": 1, "status": "active"}))
    said = desk.clinvk("chain", "--resume", "c", "--json")
    two = json.loads(said.stdout)["results"][1]
    assert (said.returncode, two["state"], two["output"]) == (1, "indeterminate", "")


def test_a_step_whose_result_is_there_ended_with_that_whosesoever_session_it_went_on_with(
    desk: Desk,
):
    steps = [{"name": "one", "prompt": "one"}, {"name": "two", "prompt": "two"}]
    path = desk.file({"steps": steps, "pass_session": True})
    assert desk.clinvk("chain", path, "--checkpoint", "c", "-q").returncode == 0
    journal = RunStore(desk.home.path).find("last").path / "journal.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    last = max(i for i, line in enumerate(lines) if b'"event":"started"' in line)
    journal.write_bytes(b"".join(lines[: last + 1]))
    two = desk.clinvk.json("chain", "--resume", "c", "--json")["results"][1]
    assert (two["state"], two["output"], desk.starts()) == ("done", "<two>", ["one", "two"])


def cut(folder: RunFolder, *, results: int) -> None:
    """As if it had been killed when its first task had ended, and so many results were there."""
    journal = folder.path / "journal.jsonl"
    journal.write_bytes(b"".join(journal.read_bytes().splitlines(keepends=True)[:2]))
    path = folder.events_path(0)
    lines = path.read_bytes().splitlines(keepends=True)
    ends = [i + 1 for i, line in enumerate(lines) if b'"type":"result"' in line]
    path.write_bytes(b"".join(lines[: ends[results - 1] if results else ends[0] - 1]))


def test_what_a_task_took_is_not_lost_where_carrying_on_fails_first(desk: Desk):
    path = desk.file({"tasks": ["one"]})
    [before] = desk.clinvk.json("parallel", path, "--json")["results"]
    folder = RunStore(desk.home.path).find("last")
    cut(folder, results=0)
    assert desk.clinvk("runs", "retry", "last", "nobody").returncode == 1
    [after] = desk.clinvk.json("runs", "resume", "--json")["results"]
    for name in ("state", "output", "usage", "cost", "model", "attempts"):
        assert after[name] == before[name], name
    assert desk.starts() == ["one"]


def test_a_failure_that_may_pass_is_tried_again_by_who_carries_on(desk: Desk):
    desk.home.backend("busy", f"cat >/dev/null; if [ -e ready ]; then {END} exit; fi; {BUSY}")
    path = desk.file({"tasks": [{"prompt": "a", "backend": "busy"}], "retries": 1,
                      "retry_delay": "0.01s"})  # fmt: skip
    assert desk.clinvk("parallel", path).returncode == 1
    folder = RunStore(desk.home.path).find("last")
    cut(folder, results=1)
    assert desk.clinvk("sessions", "delete", f"{folder.id}.1.2", "--yes").returncode == 0
    (desk.home.work / "ready").touch()
    [task] = desk.clinvk.json("runs", "resume", "--json")["results"]
    assert (task["state"], task["attempts"]) == ("done", 2)


def test_few_open_files_are_enough_for_many_tasks(desk: Desk):
    path = desk.file({"tasks": [f"t{i}" for i in range(60)], "max_parallel": 50})
    program = [sys.executable, "-m", "clinvk", "parallel", path, "--json"]
    shell = f"ulimit -Sn 128; exec {' '.join(program)}"
    done = subprocess.run(
        ["/bin/bash", "-c", shell], env=desk.home.env, cwd=desk.home.work,
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert (done.returncode, json.loads(done.stdout)["completed"]) == (0, 60), done.stderr


def test_a_run_that_breaks_tells_in_json_what_is_known_of_its_tasks(desk: Desk):
    need("prlimit")
    path = desk.file({"tasks": ["one", "hold two"], "max_parallel": 1})
    driver = desk.start("parallel", path, "--json")
    desk.wait_for("hold two")
    folder = RunStore(desk.home.path).find("last")
    # A journal that cannot grow: a folder in its place would be met at the start.
    subprocess.run(["prlimit", f"--pid={driver.pid}", "--fsize=1"], check=True)
    desk.let_go()
    out, err = driver.communicate(timeout=60)
    told = json.loads(out)
    assert (driver.returncode, told["id"], told["exit_code"]) == (4, folder.id, 4)
    assert told["error"]["message"] in err
    first = told["results"][0]
    assert (first["name"], first["state"], first["output"]) == ("1", "done", "<one>")


def test_a_run_that_is_not_there_is_told_in_json_too(desk: Desk):
    done = desk.clinvk("runs", "resume", "nosuch", "--json")
    assert (done.returncode, json.loads(done.stdout)["error"]["kind"]) == (4, "session")


@pytest.mark.parametrize("form", ["json", "stream-json"])
@pytest.mark.parametrize(
    ("args", "code", "kind"),
    [
        (["runs", "resume", "nosuch"], 4, "session"),
        (["parallel", "nosuch.yaml"], 3, "config"),
        (["compare", "hi", "--backends", "fake"], 1, "usage"),
        (["-b", "nobody", "hi"], 2, "not_installed"),
        (["resume", "nosuch", "hi"], 4, "session"),
    ],
)
def test_what_is_wrong_is_told_in_the_format_of_the_configuration(
    desk: Desk, form: str, args: list[str], code: int, kind: str
):
    desk.home.config(f"default_backend: fake\noutput: {{format: {form}}}\n")
    done = desk.clinvk(*args)
    told = json.loads(done.stdout)
    assert (done.returncode, told["exit_code"], told["error"]["kind"]) == (code, code, kind)
    assert ("type" in told) == (form == "stream-json")
    assert desk.clinvk(*args, "-o", "text").stdout == ""
    # Nobody knows the format that a broken configuration asks for.
    desk.home.config("output: {format: json, fromat: json}\n")
    done = desk.clinvk(*args)
    assert (done.returncode, done.stdout) == (3, "")


@pytest.mark.anyio
async def test_whatever_keeps_a_batch_from_the_disk_keeps_all_of_it_from_being_told(
    home: Home, anyio_backend: str
):
    def flush(_: object) -> None:
        raise RuntimeError("can't start new thread")

    home.path.mkdir()
    folder = RunStore(home.path).create(Plan(kind="parallel", tasks=(Task(name="a", prompt="p"),)))
    journal = Journal(folder, lambda data: data, flush)
    kept, refused = [], []

    async def end(i: int) -> None:
        try:
            await journal.record_ended(Outcome(index=0, name="a", state="done", session_id=f"s{i}"))
            kept.append(i)
        except (RuntimeError, SessionError):
            refused.append(i)

    async with anyio.create_task_group() as tasks:
        for i in range(3):
            tasks.start_soon(end, i)
    assert (kept, sorted(refused)) == ([], [0, 1, 2])
    journal.close()


def test_a_step_whose_prompt_holds_a_key_is_not_run_twice(desk: Desk):
    key = "ghp_0123456789abcdefghijABCDEFGHIJ012345"
    steps = [{"name": "one", "prompt": f"one {key}"}, {"name": "two", "prompt": "bad two"}]
    path = desk.file({"steps": steps})
    assert desk.clinvk("chain", path, "--checkpoint", "c", "-q").returncode == 1
    desk.file({"steps": [steps[0], {"name": "two", "prompt": "two"}]})
    assert desk.clinvk("chain", path, "--resume", "c", "-q").returncode == 0
    assert desk.starts().count(f"one {key}") == 1


def test_stop_on_failure_holds_whatever_the_configuration_says_of_many_tasks(desk: Desk):
    desk.home.config("default_backend: fake\nparallel: {fail_fast: true}\n")
    path = desk.file({"steps": ["bad one", "two"], "stop_on_failure": False})
    done = desk.clinvk("chain", path, "--json")
    assert [r["state"] for r in json.loads(done.stdout)["results"]] == ["failed", "done"]


def test_a_reader_of_the_stream_that_goes_ends_the_run_and_the_journal_knows(desk: Desk):
    path = desk.file({"tasks": ["one", "hold two", "three"], "max_parallel": 1})
    driver = desk.start("parallel", path, "-o", "stream-json")
    assert driver.stdout is not None
    assert driver.stderr is not None
    desk.wait_for("hold two")
    driver.stdout.close()
    desk.let_go()
    assert driver.wait(60) == 7
    driver.stderr.close()
    result = RunStore(desk.home.path).find("last").result()
    assert result.state == "cancelled"
    assert result.results[0].state == "done"
    assert "running" not in result.counts
    assert "queued" not in result.counts


def test_an_error_of_whoever_watches_loses_nothing_that_is_known(desk: Desk):
    def seen(change: object) -> None:
        raise UsageError("I do not want to see this")

    with pytest.raises(UsageError, match="do not want"):
        fanout.parallel(["one", "two"], dispatcher=desk.dispatcher(), observe=seen, max_parallel=1,
                        workdir=desk.home.work)  # fmt: skip
    result = RunStore(desk.home.path).find("last").result()
    assert result.state == "cancelled"
    assert result.counts.get("running", 0) == 0


def test_what_is_done_needs_nothing_to_carry_the_rest_on(desk: Desk):
    env = {"MY_TOKEN": "a-word-of-no-shape"}
    tasks = [
        {"name": "a", "prompt": "a", "env": {"T": "${MY_TOKEN}"}},
        {"name": "b", "prompt": "bad b"},
    ]
    path = desk.file({"tasks": tasks})
    assert desk.clinvk("parallel", path, "-q", env=env).returncode == 1
    desk.repair()
    done = desk.clinvk("runs", "retry", "last", "--json")
    assert (done.returncode, json.loads(done.stdout)["completed"]) == (0, 2), done.stderr
    again = desk.clinvk("runs", "retry", "last", "a")
    assert (again.returncode, "$MY_TOKEN is not set" in again.stderr) == (3, True)


def test_a_folder_for_answers_that_cannot_be_written_is_met_before_anything_runs(desk: Desk):
    path = desk.file({"tasks": ["one"]})
    done = desk.clinvk("parallel", path, "--output-dir", "/proc/self/answers")
    assert (done.returncode, desk.starts()) == (1, [])
    assert "cannot write to /proc/self/answers" in done.stderr


def test_a_folder_for_answers_that_breaks_later_ends_nothing(desk: Desk):
    folder = desk.home.work / "answers"
    path = desk.file({"tasks": ["one", "hold two"], "max_parallel": 1})
    driver = desk.start("parallel", path, "--output-dir", str(folder))
    desk.wait_for("hold two")
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()
    folder.write_text("in the way")
    desk.let_go()
    out, err = driver.communicate(timeout=60)
    assert (driver.returncode, "2 tasks: 2 done" in out) == (1, True)
    assert "the run itself is complete" in err


def test_github_does_not_obey_what_a_model_says(desk: Desk):
    path = desk.file({"tasks": ["x\n::add-mask::e"]})
    done = desk.clinvk("parallel", path, env={"GITHUB_ACTIONS": "true"})
    lines = done.stdout.splitlines()
    stop = next(i for i, line in enumerate(lines) if line.startswith("::stop-commands::"))
    word = lines[stop].removeprefix("::stop-commands::")
    end = lines.index(f"::{word}::")
    obeyed = [line for line in lines[:stop] + lines[end + 1 :] if "add-mask" in line]
    assert any("add-mask" in line for line in lines[stop:end])
    assert obeyed == []


def test_a_limit_is_told_of_though_all_else_is_quiet(desk: Desk):
    path = desk.file({"tasks": ["limited one"], "limit_wait": 60})
    driver = desk.start("parallel", path, "-q")
    desk.wait_for("limited one")
    shown = wait_for(
        lambda: said if "waiting for a rate limit until" in (said := _shown(desk)) else None,
        "it",
        60,
    )
    assert "usage limit" in shown
    driver.send_signal(signal.SIGINT)
    _, err = driver.communicate(timeout=60)
    assert "rate limit reached; no tasks will start on it until" in err


def _shown(desk: Desk) -> str:
    return str(desk.clinvk("runs", "show").stdout)
