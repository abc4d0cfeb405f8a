"""What somebody sees who uses clinvk for the first time, or slightly wrong."""

import json
import os
import re
import time

import pytest

from clinvk.text.headline import headline
from tests.conftest import END, READ, START, CommandLine, Home, say, wait_for
from tests.desk import Desk, desk, kill
from tests.terminals import Terminal, ending

__all__ = ["desk"]


@pytest.mark.parametrize(("prompt", "shown"), [
    ("# Heading\nHere is **bold** and `code`:\n```python\ndef f(): pass\n```\n", "Heading"),
    ("- [ ] **Fix** the `parser` of [the docs](https://x.example/a)", "Fix the parser of the docs"),
    ("```python\nimport this\n```\nWhat does *this* print?", "What does this print?"),
    ("```\nonly code\n```", "only code"),
    ("\n---\n\n> 1. ***quoted*** text", "quoted text"),
    ("fix __init__.py, snake_case and 2*3*4 with *args and **kwargs",
     "fix __init__.py, snake_case and 2*3*4 with *args and"),
    ("word " * 40, "word word word word word word word word word word word…"),
    ("x" * 100, "x" * 59 + "…"),
    ("one line", "one line"), ("", ""), ("***", "***"),
])  # fmt: skip
def test_a_prompt_is_listed_by_its_first_line_without_markup(prompt: str, shown: str):
    assert headline(prompt).removesuffix("…").startswith(shown.removesuffix("…"))
    assert len(headline(prompt)) <= 60
    assert "\n" not in headline(prompt)


def test_sessions_of_tasks_are_listed_and_found_by_their_prompts(desk: Desk):
    desk.home.backend("one")
    desk.home.backend("two")
    path = desk.file({"tasks": [{"name": "lint", "prompt": "# Check\nthe *style*"}]})
    assert desk.clinvk("parallel", path, "-q").returncode == 0
    assert desk.clinvk("compare", "Which way?", "-b", "one,two", "-q").returncode == 0
    rows = desk.clinvk("sessions", "list").stdout.splitlines()[1:]
    assert sorted(row.split("  ")[-1].strip() for row in rows) == [
        "Check",
        "Which way?",
        "Which way?",
    ]
    found = desk.clinvk("sessions", "search", "the", "style")
    assert found.returncode == 0
    assert found.stdout.splitlines()[0].endswith("Check")
    assert desk.clinvk("sessions", "search", "no", "such").returncode == 1


def test_commands_of_sessions_take_what_others_take(clinvk: CommandLine, home: Home):
    clinvk("-b", "echo", "hello", "--session", "parser")
    for args in (("parser",), ("--session", "parser"), ("last",)):
        done = clinvk("sessions", "options", *args)
        assert (done.returncode, done.stderr) == (0, "session parser has no stored options\n")
    both = clinvk("sessions", "options", "parser", "--session", "other")
    assert (both.returncode, "cannot be used together" in both.stderr) == (1, True)
    merged = clinvk("sessions", "merge", "parser", "pars")
    assert (merged.returncode, "merge session parser with itself" in merged.stderr) == (1, True)
    assert home.ids() == ["parser"]


@pytest.mark.parametrize(("args", "said"), [
    (("runs", "show"), "there are no runs yet\n  hint: start one: clinvk parallel"),
    (("runs", "resume"), "there are no runs yet"),
    (("runs", "report", "r12"), "no run 'r12'\n  hint: there are no runs yet; start one"),
    (("resume",), "there are no sessions yet\n  hint: start one: clinvk"),
    (("resume", "--last", "hi"), "there are no sessions yet"),
    (("resume", "x", "hi"), "no session 'x'\n  hint: there are no sessions yet; start one"),
    (("sessions", "show", "x"), "there are no sessions yet"),
])  # fmt: skip
def test_without_any_run_or_session_the_way_to_one_is_named(
    clinvk: CommandLine, args: tuple[str, ...], said: str
):
    done = clinvk(*args)
    assert done.returncode == 4
    assert said in done.stderr


def test_the_hint_for_an_invalid_file_edits_that_file(clinvk: CommandLine, home: Home):
    home.config("x: [\n")
    assert "fix it with: clinvk config edit\n" in clinvk("hi").stderr
    (home.work / "my config.yaml").write_text("x: [\n")
    for args, env in (
        (("--config", "my config.yaml", "hi"), {}),
        (("config", "check", "my config.yaml"), {}),
    ):
        said = clinvk(*args, env=env).stderr
        assert "clinvk config edit --config 'my config.yaml'" in said
    in_use = {"CLINVK_CONFIG": "my config.yaml"}
    assert "fix it with: clinvk config edit\n" in clinvk("hi", env=in_use).stderr


@pytest.mark.parametrize(("name", "text", "said"), [
    ("t.yaml", "tasks: [{prompt: x, approval: yes}]",
     "tasks[0].approval: expected one of: default, auto, none, always; found true; put it in quotes"),
    ("t.yaml", "tasks: [{prompt: x, backend: no}]", "expected text, found false; put it in quotes"),
    ("t.csv", "prompt,a\nx,1\ny,2,3\n", "line 3: expected 2 columns, found 3"),
    ("t.csv", "prompt,a\nx\n", "line 2: expected 2 columns, found 1"),
    ("t.csv", 'prompt,a\nx,1\n"y,2\nz,3\n', "line 3: the file ends inside a quoted value"),
    ("t.csv", 'prompt,a\n"y,2\nz,3\n', "line 2: the file ends inside a quoted value"),
    ("t.csv", '"prompt,a\ny,2\nz,3\n', "line 1: the file ends inside a quoted value"),
])  # fmt: skip
def test_what_is_wrong_in_a_file_of_tasks_is_said(
    clinvk: CommandLine, home: Home, name: str, text: str, said: str
):
    (home.work / name).write_text(text)
    done = clinvk("parallel", name, "-b", "echo")
    assert done.returncode == 3
    assert said in done.stderr


def test_tasks_of_a_csv_file_are_named_by_its_first_column(desk: Desk):
    (desk.home.work / "t.csv").write_text(
        "backend,file,needs\necho,a.py,\necho,b {{x}}.py,1\necho,a.py,2\necho,,\n"
    )
    done = desk.clinvk("parallel", "t.csv", "--prompt", "review {{file}}", "--json")
    data = json.loads(done.stdout)
    assert [o["name"] for o in data["results"]] == ["a.py", "b {{x}}.py", "a.py", "4"]
    assert [o["state"] for o in data["results"]] == ["done"] * 4
    assert "2 tasks have the same name: 'a.py'" in done.stderr
    (desk.home.work / "p.csv").write_text("prompt,name\nx,first\ny,second\n")
    data = desk.clinvk.json("parallel", "p.csv", "-b", "echo", "--json")
    assert [o["name"] for o in data["results"]] == ["first", "second"]


def test_a_killed_run_lists_how_long_it_ran(desk: Desk):
    driver, id_ = desk.begin("hold a", until="hold a")
    alive = desk.at(id_).path / "alive"
    wait_for(alive.exists, "a sign of life")
    kill(driver)
    began = desk.at(id_).result().results[0].started_at
    assert began
    os.utime(alive, (began.timestamp() + 90,) * 2)
    shown = desk.clinvk("runs", "show", id_).stdout
    assert [line.split()[3:5] for line in shown.splitlines() if " fake " in line] == [["1m", "30s"]]
    assert "1m 30s" in desk.clinvk("runs", "list").stdout
    assert desk.clinvk("runs", "resume", id_, "-q").returncode == 1
    assert " ? " in desk.clinvk("runs", "show", id_).stdout  # nothing says how long it took
    (begun,) = [x for x in desk.at(id_).journal_path.read_text().splitlines()[1:] if '"begin"' in x]
    assert json.loads(begun)["seconds"] >= 90  # so that it is not lost if that is killed, too


def test_a_run_in_progress_lists_how_long_it_has_been_running(desk: Desk):
    driver, id_ = desk.begin("hold a", until="hold a")
    try:
        time.sleep(0.4)
        data = desk.clinvk.json("runs", "show", id_, "--json")
        assert data["state"] == "running"
        assert data["total_duration_seconds"] >= data["results"][0]["duration_seconds"] > 0.3
        (row,) = [x for x in desk.clinvk("runs", "list").stdout.splitlines() if id_ in x]
        assert re.search(r"\b\d[\w.]* s\b", row), row
    finally:
        kill(driver)


def test_a_task_without_a_directory_of_its_own_shows_where_it_ran(desk: Desk):
    (desk.home.work / "t.yaml").write_text("tasks: [{prompt: a, name: one}]")
    assert desk.clinvk("parallel", "t.yaml", "-q").returncode == 0
    assert f"Directory: {desk.home.work}" in " ".join(
        desk.clinvk("runs", "show", "last", "one").stdout.split()
    )


def test_the_first_prompt_says_that_files_cannot_be_edited(home: Home, terminal: Terminal):
    home.backend("fake")
    hint = "fake cannot edit files by default; to allow it: --approval auto"
    for args, said in (
        (("-b", "echo", "--ephemeral", "hi"), False),
        (("-b", "fake", "--dry-run", "hi"), False),
        (("-b", "fake", "hi"), True),
        (("-b", "fake", "hi"), False),
    ):
        text, code = ending(terminal(*args, width=200))
        assert (code, hint in text) == (0, said), text


def test_a_first_prompt_with_an_approval_or_in_a_script_needs_no_hint(
    home: Home, terminal: Terminal, clinvk: CommandLine
):
    home.backend("fake")
    text, code = ending(terminal("-b", "fake", "--approval", "auto", "hi", width=200))
    assert (code, "cannot edit files" in text) == (0, False)
    for id_ in home.ids():
        assert clinvk("sessions", "delete", id_, "--yes").returncode == 0
    assert clinvk("-b", "fake", "hi").stderr == ""


def test_doctor_exits_with_2_until_an_ai_cli_is_installed(clinvk: CommandLine, home: Home):
    done = clinvk("doctor")
    assert (done.returncode, "no AI CLI is installed" in done.stdout) == (2, True)
    assert clinvk("doctor", "--json").returncode == 2
    home.backend("fake", 'echo "fake 1.2.3"\n')
    done = clinvk("doctor")
    assert (done.returncode, "no AI CLI is installed" in done.stdout) == (0, False)


def test_a_quiet_run_has_a_board_on_a_terminal_and_nothing_else(home: Home, terminal: Terminal):
    task = {"backend": "echo", "prompt": "one two three four", "options": {"delay": 0.2}}
    (home.work / "t.json").write_text(json.dumps({"tasks": [task, task]}))
    child = terminal("parallel", "t.json", "-q")
    child.expect("answering")
    text, code = ending(child)
    assert code == 0
    assert "2 tasks: 2 done" in text
    assert "── " not in text.replace("━", "─").split("\x1b[?25h")[-1]


def test_a_denied_tool_is_explained_once(clinvk: CommandLine, home: Home):
    home.backend("fake", READ + START + say(type="denied", name="Bash", reason="") + END)
    alone = clinvk("-b", "fake", "hi").stderr
    assert alone.count("hint:") == 1
    assert "--allowed-tools" in alone
    both = clinvk("-b", "fake", "--new", "--fail-on-denied", "hi")
    assert both.returncode == 1
    assert both.stderr.count("hint:") == 1


def test_the_default_is_the_first_that_is_installed_whichever_that_is(
    clinvk: CommandLine, home: Home
):
    done = clinvk("hello")
    assert done.returncode == 2
    assert "no AI CLI is installed" in done.stderr
    assert "npm install -g @openai/codex" in done.stderr
    for name, said in (("pi", "hello"), ("qwen", "hello"), ("opencode", "hello")):
        program = home.work.parent / "bin" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text("#!/bin/sh\ncat >/dev/null\nexit 9\n")
        program.chmod(0o755)
        done = clinvk(said, env={"PATH": f"{program.parent}:/usr/bin:/bin"})
        assert "no AI CLI is installed" not in done.stderr
        assert f"claude is not installed; using {name}" in done.stderr
