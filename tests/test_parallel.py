"""`clinvk parallel` as it is typed: what it prints, what it leaves, and how it ends."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import (
    ANSWER,
    END,
    START,
    CommandLine,
    Home,
    is_alive,
    living,
    patient,
    pid_in,
    say,
    stubborn,
    wait_for,
)
from tests.everywhere import everywhere

FOREVER = "while :; do sleep 0.1; done\n"
FIELDS = {
    "index", "name", "key", "state", "backend", "model", "session_id", "output", "structured", "error",
    "duration_seconds", "exit_code", "usage", "cost", "attempts", "started_at", "ended_at", "tags",
    "meta", "check",
}  # fmt: skip


def tasks(*prompts: str, backend: str = "fake", **more: Any) -> str:
    return json.dumps({"tasks": [{"prompt": p, "name": p} for p in prompts],
                       "defaults": {"backend": backend}, **more})  # fmt: skip


@pytest.fixture
def fake(home: Home) -> Home:
    """A CLI that answers with its prompt, and fails where that says so."""
    bad = say(type="end", error="it went wrong").strip()
    limit = say(type="end", error="usage limit", status=429).strip()
    home.backend(
        "fake",
        f'p=$(cat)\n{START}case "$p" in bad*) {bad}; exit;; limit*) {limit}; exit;; slow*) sleep 0.5;; esac\n'
        'printf \'{"type":"end","text":"<%s>","usage":{"input":10,"output":5}}\\n\' "$p"\n',
        ephemeral={"argv": ["--keep-nothing"]},
    )  # fmt: skip
    return home


# What it prints


@everywhere
def test_the_answers_and_a_table_of_the_tasks(clinvk: CommandLine, fake: Home):
    done = clinvk("parallel", stdin=tasks("one", "bad", "two"))
    assert done.returncode == 1
    assert done.stdout.index("<one>") < done.stdout.index("<two>") < done.stdout.index("TASK ")
    (row,) = [x for x in done.stdout.splitlines() if x.startswith("bad")]
    assert row.split()[1:3] == ["fake", "failed"]
    assert "✗ bad: it went wrong" in done.stdout
    assert "3 tasks: 2 done, 1 failed" in done.stdout
    assert "30 tokens" in done.stdout
    for told in ("3 of 3 tasks to run", "one: started on fake", "[3/3] ", "clinvk runs retry r"):
        assert told in done.stderr


@everywhere
def test_quietly_the_summary_alone(clinvk: CommandLine, fake: Home):
    done = clinvk("parallel", "-q", stdin=tasks("one", "two"))
    assert (done.returncode, done.stderr) == (0, "")
    assert "<one>" not in done.stdout
    assert "2 tasks: 2 done" in done.stdout


@everywhere
def test_the_json_has_all_published_fields(clinvk: CommandLine, fake: Home):
    text = json.dumps([
        {"prompt": "one", "backend": "fake", "id": "a", "tags": ["t"], "meta": {"x": [1]}, "model": "m"},
        {"prompt": "bad", "backend": "fake"}, {"prompt": "x", "backend": "fake", "needs": "2"},
    ])  # fmt: skip
    done = clinvk("parallel", "--json", stdin=text)
    assert done.returncode == 1
    data = json.loads(done.stdout)
    wanted = {"total_tasks": 3, "completed": 1, "failed": 1, "cancelled": 0, "skipped": 1}
    assert {k: data[k] for k in wanted} == wanted
    assert data["total_duration_seconds"] > 0
    assert data["usage"]["total"] == 15
    fields = FIELDS | {"node"} if fake.cluster else FIELDS
    assert [set(r) for r in data["results"]] == [fields, fields, FIELDS]
    first, bad, skipped = data["results"]
    assert (first["index"], first["name"], first["output"]) == (0, "a", "<one>")
    assert (first["exit_code"], first["attempts"], first["error"]) == (0, 1, None)
    assert (first["tags"], first["meta"], first["model"]) == (["t"], {"x": [1]}, "made-up-1")
    assert first["session_id"] == f"{data['id']}.a"
    assert bad["error"]["kind"] == "backend"
    assert (skipped["state"], skipped["attempts"], skipped["session_id"]) == ("skipped", 0, None)


@everywhere
def test_each_line_of_the_stream_is_json_and_tells_the_story(clinvk: CommandLine, fake: Home):
    done = clinvk("parallel", "-o", "stream-json", stdin=tasks("one", "bad"))
    assert done.returncode == 1
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert (lines[0]["type"], lines[0]["total_tasks"]) == ("begin", 2)
    assert {line["run"] for line in lines[:-1]} == {lines[-1]["id"]}
    assert lines[-1]["type"] == "end"
    assert (lines[-1]["completed"], lines[-1]["failed"]) == (1, 1)
    assert "results" not in lines[-1]
    assert {line["version"] for line in lines} == {1}
    of_one = [line for line in lines if line.get("name") == "one"]
    types = [line["type"] for line in of_one if line["type"] not in ("task_event", "task_node")]
    assert types == ["task_started", "task_ended"]
    assert sum(line["type"] == "task_node" for line in of_one) == (1 if fake.cluster else 0)
    events = [x["event"]["type"] for x in of_one if x["type"] == "task_event"]
    assert [e for e in events if e != "notice"] == ["started", "finished"]
    assert set(of_one[-1]["result"]) == (FIELDS | {"node"} if fake.cluster else FIELDS)


@everywhere
def test_a_dry_run_lists_the_tasks_and_leaves_nothing(clinvk: CommandLine, fake: Home):
    text = json.dumps([
        {"prompt": "one {{x}}", "backend": "fake", "name": "{{x}}", "matrix": {"x": ["a", "b"]}, "model": "m"},
        {"prompt": "two", "backend": "echo", "needs": ["a", "b"], "env": {"TOK": "${HOME}"}},
    ])  # fmt: skip
    before = sorted(p for p in fake.path.rglob("*"))
    done = clinvk("parallel", "--dry-run", stdin=text)
    assert done.returncode == 0
    rows = [line.split() for line in done.stdout.splitlines()]
    assert rows[1] == ["a", "fake", "-", "model=m", "one", "a"]
    assert rows[3] == ["3", "echo", "a,", "b", "env=TOK", "two"]
    data = clinvk.json("parallel", "--dry-run", "--json", stdin=text)
    assert data["tasks"][2]["needs"] == ["a", "b"]
    assert data["tasks"][2]["env"] == {"TOK": "***"} or "user" not in str(data["tasks"][2]["env"])
    assert sorted(p for p in fake.path.rglob("*")) == before
    assert clinvk("parallel", "--dry-run", stdin='[{"prompt": "x", "backend": "no"}]').returncode == 2  # fmt: skip


@everywhere
def test_a_dry_run_tells_all_that_is_said_of_the_tasks(clinvk: CommandLine, fake: Home):
    (fake.work / "here").mkdir()
    said = {"timeout": 90, "stall_timeout": "1m", "workdir": "here", "tags": ["a", "b"], "retries": 2,
            "env": {"TOKEN": "${MINE}", "PLAIN": "value-of-it"}, "model": "m", "idempotent": True}  # fmt: skip
    text = tasks("one", max_parallel=7, budget={"tokens": 1000}, on_limit="fail")
    text = json.dumps({**json.loads(text), "tasks": [{"prompt": "x", **said}, {"prompt": "y"}]})
    done = clinvk("parallel", "--dry-run", stdin=text, env={"MINE": "the-secret-of-it"})
    _, first, second, _, rules = done.stdout.splitlines()
    for word in ("timeout=90", "stall_timeout=60", f"workdir={fake.work / 'here'}", "tags=a,b",
                 "retries=2", "env=TOKEN,PLAIN", "model=m", "idempotent=True"):  # fmt: skip
        assert word in first.split(), first
    assert second.split() == ["2", "fake", "-", "-", "y"]
    assert rules == "2 tasks, 7 at a time; budget=tokens:1000 on_limit=fail"
    printed = clinvk(
        "parallel", "--dry-run", "--json", stdin=text, env={"MINE": "the-secret-of-it"}
    )
    for output in (done.stdout, printed.stdout):
        assert "the-secret-of-it" not in output
        assert "value-of-it" not in output
    data = json.loads(printed.stdout)
    assert data["rules"]["max_parallel"] == 7
    assert data["rules"]["limits"]["action"] == "fail"
    task = data["tasks"][0]
    assert (task["timeout"], task["stall_timeout"], task["retries"]) == (90, 60, 2)
    assert (task["workdir"], task["tags"]) == (str(fake.work / "here"), ["a", "b"])
    assert ({*task["env"]}, task["idempotent"]) == ({"TOKEN", "PLAIN"}, True)
    usual = clinvk.json("parallel", "--dry-run", "--json", stdin=tasks("one"))
    assert usual["rules"]["max_parallel"] == (100 if fake.cluster else 3)


@everywhere
def test_a_folder_of_outputs(clinvk: CommandLine, fake: Home):
    done = clinvk("parallel", "--output-dir", "out/deep", stdin=tasks("one", "bad", "t/../wo"))
    assert done.returncode == 1
    folder = fake.work / "out" / "deep"
    assert sorted(p.name for p in folder.iterdir()) == ["one.md", "results.json", "t-..-wo.md"]
    assert (folder / "one.md").read_text() == "<one>\n"
    assert json.loads((folder / "results.json").read_text())["results"][0]["output"] == "<one>"


def test_a_name_that_would_drive_the_terminal_does_not(clinvk: CommandLine, fake: Home):
    text = [{"prompt": "x", "backend": "fake", "name": "one\x1b[2Jx\ny"}]
    done = clinvk("parallel", stdin=json.dumps(text))
    assert done.returncode == 0
    assert "\x1b" not in done.stdout + done.stderr


# Exit codes


@everywhere
def test_exit_codes(clinvk: CommandLine, fake: Home):
    def code(*prompts: str, flags: tuple[str, ...] = (), **more: Any) -> int:
        return clinvk("parallel", "-q", *flags, stdin=tasks(*prompts, **more)).returncode

    assert code("a", "b") == 0
    assert code("a", "bad") == 1
    assert code("a", flags=("--halt", "sometimes")) == 1
    assert code("a", flags=("--timeout", "soon")) == 1
    assert code("a", backend="no-such") == 2
    assert code("a", max_paralel=3) == 3
    assert code("a", halt="sometimes") == 3
    assert code("a", "limit", "b", on_limit="fail") == 75
    assert code("bad", "limit", on_limit="fail") == 1
    assert code("limit", limit_wait="10m", flags=("--max-wait", "1m")) == 75


@everywhere
def test_what_is_done_about_a_limit_is_told_once(clinvk: CommandLine, fake: Home):
    def told(*flags: str, **more: Any) -> list[str]:
        text = tasks("limit a", "limit b", max_parallel=2, **more)
        lines = clinvk("parallel", *flags, stdin=text).stderr.splitlines()
        return [line for line in lines if "limit reached; " in line]

    for quiet in ((), ("-q",)):
        (line,) = told(*quiet, "--on-limit", "fail")
        assert line == "clinvk: fake: rate limit reached; no new tasks will start on it"
        (line,) = told(*quiet, "--max-wait", "5s")
        assert "not waiting for its end, which would take more than 5.0 s (max_wait)" in line
        (line,) = told(*quiet, "--on-limit", "switch:echo")
        assert line == "clinvk: fake: rate limit reached; echo is used while it lasts"


@everywhere
def test_nothing_to_run_is_told(clinvk: CommandLine):
    done = clinvk("parallel", stdin="")
    assert done.returncode == 3
    assert "there are no tasks" in done.stderr


# Sessions


def test_every_task_is_a_session_of_its_own(clinvk: CommandLine, home: Home):
    data = clinvk.json("parallel", "--json", stdin=tasks("one", "two", backend="echo"))
    run = data["id"]
    assert home.ids() == [f"{run}.one", f"{run}.two"]
    record = home.record(f"{run}.one")
    assert record["tags"] == [f"run:{run}"]
    assert record["task"] == run
    assert (record["title"], record["prompt"]) == (None, "one")
    assert [m["role"] for m in home.transcript(f"{run}.one")] == ["user", "assistant"]
    done = clinvk("resume", f"{run}.one", "and now?")
    assert "Turn 2" in done.stdout
    found = clinvk.json("sessions", "search", "two", "--json")
    assert [h["id"] for h in found["hits"]] == [f"{run}.two"]


def test_the_last_session_is_never_a_task(clinvk: CommandLine, home: Home):
    first = clinvk.json("-b", "echo", "-o", "json", "mine")["session_id"]
    clinvk("parallel", stdin=tasks("one", backend="echo"))
    assert clinvk.json("-c", "-o", "json", "more")["session_id"] == first
    home.config("session: {auto_resume: true}")
    assert clinvk.json("-o", "json", "-b", "echo", "again")["session_id"] == first
    data = clinvk.json("parallel", "--json", stdin=tasks("t", backend="echo"))
    assert data["results"][0]["session_id"] not in (None, first)
    assert "Turn 1" in data["results"][0]["output"]


@everywhere
def test_an_ephemeral_run_leaves_no_file_of_ours(clinvk: CommandLine, fake: Home, tmp_path: Path):
    def files() -> set[Path]:
        return {p for p in tmp_path.rglob("*") if p.is_file()}

    text = tasks("one", "two {{tasks.one.output}}", "bad")
    before = files()
    data = clinvk.json("parallel", "--ephemeral", "--json", stdin=text)
    assert [r["output"] for r in data["results"]][:2] == ["<one>", "<two <one>>"]
    assert data["id"] is None
    assert {r["session_id"] for r in data["results"]} == {None}
    assert files() == before


def test_a_backend_that_cannot_be_told_to_keep_nothing_says_what_would_declare_it(
    clinvk: CommandLine, home: Home
):
    home.backend("other")
    for done in (
        clinvk("-b", "other", "--ephemeral", "hi"),
        clinvk("parallel", "--ephemeral", stdin=tasks("hi", backend="other")),
    ):
        assert "other cannot run without saving a session" in done.stderr
        assert "set it in the manifest: ephemeral: {argv: [" in done.stderr


@everywhere
def test_a_task_that_is_a_dry_run_starts_nothing(clinvk: CommandLine, home: Home):
    home.backend("fake", "touch ran\n" + ANSWER)
    text = '{"tasks": [{"prompt": "x", "backend": "fake", "dry_run": true}]}'
    data = clinvk.json("parallel", "--json", stdin=text)
    assert data["exit_code"] == 0
    assert "fake" in data["results"][0]["output"]
    assert data["results"][0]["session_id"] is None
    assert home.ids() == []
    assert not (home.work / "ran").exists()


# Signals


def finish(process: "subprocess.Popen[str]") -> tuple[str, str]:
    try:
        return process.communicate(timeout=60)
    finally:
        process.kill()


@pytest.mark.parametrize(("number", "said"), [
    (signal.SIGINT, "cancelled"), (signal.SIGTERM, "cancelled by SIGTERM"),
    (signal.SIGHUP, "cancelled by SIGHUP"),
])  # fmt: skip
def test_a_signal_ends_the_run_and_all_that_it_started(
    clinvk: CommandLine, home: Home, tmp_path: Path, number: signal.Signals, said: str
):
    home.backend("fake", f'p=$(cat)\n{START}case "$p" in slow*) echo $$ >{tmp_path}/$p; {FOREVER} ;; esac\n{END}')  # fmt: skip
    (home.work / "t.json").write_text(tasks("one", "slow1", "slow2", "later", max_parallel=2))
    process = clinvk.start("parallel", "t.json")
    pids = [pid_in(tmp_path / name) for name in ("slow1", "slow2")]
    process.send_signal(number)
    out, err = finish(process)
    assert process.returncode == 7
    assert not any(map(is_alive, pids))
    assert f"{said}: stopping…" in err
    assert "It is done." in out
    assert "4 tasks: 1 done, 3 cancelled" in out
    assert "clinvk runs resume r" in err
    assert "Traceback" not in err


# Ctrl-C in the moment in which a module is loaded.
EARLY = """
import os, signal, sys

wanted = sys.argv.pop(1)

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == wanted:
            sys.meta_path.remove(self)
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Finder())
from clinvk.__main__ import main
main()
"""


@pytest.mark.parametrize("module", [
    "clinvk.cmd.main", "typer", "clinvk.cmd.parallel", "clinvk.plans.parse", "anyio",
    "clinvk.process.child", "clinvk.engine.scheduling.scheduler",
])  # fmt: skip
def test_ctrl_c_before_anything_has_begun_leaves_nothing_half_begun(
    clinvk: CommandLine, fake: Home, module: str
):
    (fake.work / "t.json").write_text(tasks("one", "two"))
    done = subprocess.run(
        [sys.executable, "-c", EARLY, module, "parallel", "t.json"],
        capture_output=True, text=True, env=fake.env, cwd=fake.work, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 7, done.stderr
    assert "clinvk: cancelled" in done.stderr
    assert "Traceback" not in done.stderr
    runs = json.loads(clinvk("runs", "list", "--json").stdout)["runs"]
    assert {run["state"] for run in runs} <= {"cancelled"}


def test_a_program_that_loads_us_keeps_its_own_ctrl_c():
    program = "import clinvk.__main__, signal; print(signal.getsignal(signal.SIGINT).__name__)"
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)  # fmt: skip
    assert said.stdout == "default_int_handler\n"


def test_it_runs_in_a_thread_too():
    program = (
        "import sys, threading; from clinvk.__main__ import main; sys.argv[1:] = ['version']\n"
        "thread = threading.Thread(target=main); thread.start(); thread.join()"
    )
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)  # fmt: skip
    assert (said.returncode, said.stderr) == (0, "")
    assert said.stdout.startswith("clinvk ")


def test_a_second_signal_ends_it_at_once(clinvk: CommandLine, home: Home, tree: Path):
    home.backend("fake", stubborn(tree))
    (home.work / "t.json").write_text(tasks("one"))
    process = patient(home, "parallel", "t.json")
    pid_in(tree / "self")
    process.send_signal(signal.SIGINT)
    while "press Ctrl-C again" not in (line := process.stderr.readline()):
        assert line
    process.send_signal(signal.SIGINT)
    _, err = finish(process)  # less than what one that is asked once is waited for
    assert process.returncode == 7
    assert living(tree) == []
    assert "stopping immediately" in err


def test_a_reader_that_goes_away_ends_the_run(clinvk: CommandLine, home: Home, tmp_path: Path):
    talk = say(type="text", text="x")  # the same start again would be no output
    home.backend(
        "fake", f"p=$(cat)\necho $$ >{tmp_path}/$p\n{START}while sleep 0.2; do\n{talk}done\n"
    )
    (home.work / "t.json").write_text(tasks("one", "two"))
    process = clinvk.start("parallel", "t.json", "-o", "stream-json")
    assert process.stdout
    pids = [pid_in(tmp_path / name) for name in ("one", "two")]
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(60) == 7
    wait_for(lambda: not any(map(is_alive, pids)), "their end")
    assert process.stderr
    assert "Traceback" not in process.stderr.read()
    process.stderr.close()


# The configuration


# It goes on when as many have begun as may run at a time.
COUNTING = f"""p=$(cat)
echo + >>log
{START}until [ "$(grep -c + log)" -ge "$(cat together)" ]; do sleep 0.02; done
sleep 0.3
echo - >>log
{END}"""


def most(clinvk: CommandLine, home: Home, expected: int, *args: str, stdin: str) -> int:
    """How many of the tasks ran at a time."""
    (home.work / "together").write_text(str(expected))
    assert clinvk("parallel", "-q", *args, stdin=stdin).returncode == 0
    now = found = 0
    for sign in (home.work / "log").read_text().split():
        now += 1 if sign == "+" else -1
        found = max(found, now)
    (home.work / "log").unlink()
    return found


@everywhere
def test_as_many_run_at_a_time_as_the_configuration_says(clinvk: CommandLine, home: Home):
    home.backend("fake", COUNTING)
    four = tasks("a", "b", "c", "d")
    usual = 4 if home.cluster else 3
    assert most(clinvk, home, usual, stdin=four) == usual
    home.config("parallel: {max_workers: 1}")
    assert most(clinvk, home, 1, stdin=four) == 1
    assert most(clinvk, home, 4, "-j", "4", stdin=four) == 4
    home.config("parallel: {max_workers: 4, max_parallel_per_backend: {fake: 2}}")
    assert most(clinvk, home, 2, stdin=four) == 2
    one = tasks("a", "b", "c", max_parallel_per_backend={"fake": 1})
    assert most(clinvk, home, 1, stdin=one) == 1


@everywhere
def test_the_configuration_may_ask_to_fail_fast(clinvk: CommandLine, fake: Home):
    text = tasks("bad", "one", "two")
    assert clinvk.json("parallel", "-j", "1", "--json", stdin=text)["completed"] == 2
    fake.config("parallel: {fail_fast: true}")
    data = clinvk.json("parallel", "-j", "1", "--json", stdin=text)
    assert (data["failed"], data["completed"], data["cancelled"]) == (1, 0, 2)
    data = clinvk.json("parallel", "-j", "1", "--no-fail-fast", "--json", stdin=text)
    assert data["completed"] == 2


def test_the_configuration_may_ask_for_each_answer_at_once(clinvk: CommandLine, home: Home):
    home.backend("fake", f'p=$(cat)\n{START}[ "$p" = slow ] && while [ ! -e go ]; do sleep 0.05; done\n{END}')  # fmt: skip
    home.config("parallel: {aggregate_output: false}")
    (home.work / "t.json").write_text(tasks("slow", "quick"))
    process = clinvk.start("parallel", "t.json", stderr=subprocess.DEVNULL)
    assert process.stdout
    assert "quick" in process.stdout.readline()  # while the other one runs
    (home.work / "go").touch()
    out = process.stdout.read()
    process.stdout.close()
    assert process.wait(60) == 0
    assert out.count("It is done.") == 2
    assert out.index("── slow") < out.index("TASK ")


def test_answers_come_together_at_the_end_else(clinvk: CommandLine, fake: Home):
    done = clinvk("parallel", stdin=tasks("slow", "quick"))
    assert done.stdout.index("<slow>") < done.stdout.index("<quick>")


# Odds and ends


def test_many_tasks_are_run_with_few_files_open(clinvk: CommandLine, fake: Home):
    done = subprocess.run(
        ["bash", "-c", 'ulimit -n 100; exec "$@"', "-", sys.executable, "-m", "clinvk", "parallel", "-q", "-j", "5"],
        input=tasks(*(f"p{i}" for i in range(60))), env=fake.env, cwd=fake.work,
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "60 tasks: 60 done" in done.stdout


@everywhere
def test_a_file_is_named_in_two_ways_or_piped_in(clinvk: CommandLine, fake: Home):
    (fake.work / "t.json").write_text(tasks("one"))
    for args in (["t.json"], ["-f", "t.json"], ["t.json", "--file", "t.json"]):
        assert clinvk("parallel", "-q", *args).returncode == 0
    assert clinvk("parallel", "-q", "-", stdin=tasks("one")).returncode == 0
    done = clinvk("parallel", "-q", "t.json", "-f", "u.json")
    assert done.returncode == 1
    assert "both name a task file" in done.stderr


@everywhere
def test_lines_go_into_a_prompt(clinvk: CommandLine, fake: Home):
    done = clinvk("parallel", "--format", "lines", "--prompt", "review {{line}}", "-b", "fake",
                  "--json", stdin="a.py\n{{{b}}}.py\n")  # fmt: skip
    outputs = [r["output"] for r in json.loads(done.stdout)["results"]]
    assert outputs == ["<review a.py>", "<review {{{b}}}.py>"]


def test_a_run_from_inside_of_another_is_ended_with_it(
    clinvk: CommandLine, home: Home, tmp_path: Path
):
    home.backend("inner", f"cat >/dev/null\necho $$ >{tmp_path}/pid\n{START}{FOREVER}")
    inner = (
        f"echo '[{{prompt: x, backend: inner}}]' | {sys.executable} -m clinvk parallel >/dev/null"
    )
    home.backend("fake", f"cat >/dev/null\n{START}{inner} 2>&1\n{END}")
    (home.work / "t.json").write_text(tasks("outer"))
    process = clinvk.start("parallel", "t.json")
    pid = pid_in(tmp_path / "pid")
    os.kill(process.pid, signal.SIGTERM)
    finish(process)
    wait_for(lambda: not is_alive(pid), "its end")
