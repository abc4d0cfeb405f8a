"""Lists, tables and conversations, as a person sees them on a terminal."""

import re
import sys
from datetime import UTC, datetime, timedelta

import pexpect
import pytest

from clinvk.model.session import Message
from clinvk.store import open_store
from clinvk.terminal import printer, questions
from tests.conftest import READ, START, CommandLine, Home, say
from tests.stores import keep
from tests.terminals import on_terminal, past

NOW = datetime.now(UTC)


def many(home: Home) -> None:
    """A run of twelve tasks, and thirty sessions before it."""
    for n in range(30):
        past(home, f"session{n:02}", title=f"The title of session {n}", updated_at=NOW - timedelta(hours=n + 1))  # fmt: skip
    for n in range(12):
        past(home, f"r123456.task-{n:02}", title=f"Review {n}", task="r123456",
             updated_at=NOW - timedelta(minutes=n), status="error" if n == 3 else "active")  # fmt: skip


@pytest.mark.parametrize("columns", [60, 80, 120])
def test_a_terminal_shows_the_newest_sessions_and_a_run_as_one(home: Home, columns: int):
    many(home)
    written, screen = on_terminal(home, "sessions", "list", columns=columns, rows=40)
    lines = screen.text.splitlines()
    assert len(lines) == 22
    assert lines[-1] == "… and 11 more (--all)"
    assert max(map(len, lines)) <= columns
    assert lines[1].split()[0] == "r123456"
    assert "12 tasks: Review" in lines[1]
    assert [line.split()[0] for line in lines[2:-1]] == [f"session{n:02}" for n in range(19)]
    assert re.search("\x1b\\[31merror", written)
    assert "\x1b[" not in on_terminal(home, "sessions", "list", NO_COLOR="1")[0]


def test_all_sessions_are_shown_on_request_and_in_pipes(clinvk: CommandLine, home: Home):
    many(home)
    assert len(clinvk("sessions", "list").stdout.splitlines()) == 43
    assert len(clinvk.json("sessions", "list", "--json")["sessions"]) == 42
    _, screen = on_terminal(home, "sessions", "list", "--all", rows=60)
    assert len(screen.text.splitlines()) == 43
    _, screen = on_terminal(home, "sessions", "list", "-n", "3")
    assert len(screen.text.splitlines()) == 5


def test_a_run_in_the_list_of_sessions_is_what_the_list_of_runs_says(
    clinvk: CommandLine, home: Home
):
    (home.work / "questions.txt").write_text("the first\nthe second\n")
    home.backend("bad", READ + START + say(type="end", error="No.", status=401))
    made = clinvk("parallel", "questions.txt", env={"CLINVK_BACKEND": "bad"})
    assert made.returncode == 1
    compared = clinvk("compare", "which?", "-b", "echo:a,echo:b")
    assert compared.returncode == 0
    runs = clinvk.json("runs", "list", "--json")["runs"]
    assert [(r["kind"], r["state"]) for r in runs] == [("compare", "done"), ("parallel", "failed")]
    _, screen = on_terminal(home, "sessions", "list", columns=100)
    rows = [line.split() for line in screen.text.splitlines()[1:3]]
    assert [row[0] for row in rows] == [r["id"] for r in runs]
    assert [row[2] for row in rows] == ["done", "failed"]
    titles = [" ".join(row).split("2 tasks: ")[1] for row in rows]
    assert titles == ["echo:a, echo:b", "questions.txt"]

    run = runs[0]["id"]
    for args in (("sessions", "show", run), ("resume", run[:5], "hi")):
        asked = clinvk(*args)
        assert asked.returncode == 4
        assert (
            f"{run} is a run, and each of its tasks has a session:\n  {run}.echo-a" in asked.stderr
        )
        assert f"hint: show the run: clinvk runs show {run}; " in asked.stderr


def test_directories_and_times_are_those_of_the_user(clinvk: CommandLine, home: Home):
    inside = f"{home.env['HOME']}/a/project"
    past(home, "one", cwd=inside, created_at=datetime(2026, 7, 1, 12, 0, tzinfo=UTC))
    _, wide = on_terminal(home, "sessions", "list", "--wide", columns=120)
    assert "~/a/project" in wide.text
    _, shown = on_terminal(home, "sessions", "show", "one", TZ="Etc/GMT-5")
    assert re.search(r"Created: +2026-07-01 17:00:00", shown.text)
    assert re.search(r"Working Directory: +~/a/project", shown.text)
    assert clinvk.json("sessions", "show", "one", "--json")["created_at"] == "2026-07-01T12:00:00.000Z"  # fmt: skip


@pytest.mark.parametrize("columns", [60, 80, 120])
def test_a_run_ends_with_a_table_that_fits(home: Home, columns: int):
    home.config("default_backend: fake\n")
    home.backend("fake", READ + START + say(type="end", text="# An **answer**\n"))
    (home.work / "tasks.txt").write_text("the first task\nthe second task\n")
    written, screen = on_terminal(home, "parallel", "tasks.txt", columns=columns)
    lines = screen.text.splitlines()
    assert lines.count("# An answer") == 2
    assert max(map(len, lines)) <= columns
    assert re.search("\x1b\\[32mdone", written)
    assert re.search(r"run r\w{6}$", lines[-1]) or re.fullmatch(r"r\w{6}", lines[-1])
    for args in (["runs", "list"], ["runs", "show"], ["doctor"]):
        written, screen = on_terminal(home, *args, columns=columns)
        assert max(map(len, screen.text.splitlines())) <= columns, screen.text
    _, shown = on_terminal(home, "runs", "show", "last", "1", columns=columns)
    assert "# An answer" in shown.text


def test_answers_stand_beside_each_other_rendered(home: Home):
    for name in ("north", "south"):
        home.backend(
            name, READ + START + say(type="end", text=f"**{name}** says `x`\n\n- a\n- b\n")
        )
    _, screen = on_terminal(home, "compare", "x", "-b", "north,south", columns=120)
    assert re.search(r"north says x +│ south says x", screen.text)
    assert re.search(r"• a +│ • a", screen.text)


@pytest.mark.parametrize(
    "command", [["parallel", "tasks.txt"], ["chain", "steps.yaml"], ["compare", "x", "-b", "fake,other"],
                ["runs", "retry", "last", "1"], ["runs", "show", "last", "1"]], ids=" ".join,
)  # fmt: skip
def test_every_command_that_prints_answers_can_print_them_as_they_were_written(
    home: Home, clinvk: CommandLine, command: list[str]
):
    home.config("default_backend: fake\n")
    for name in ("fake", "other"):
        home.backend(name, READ + START + say(type="end", text="an **answer**\n"))
    (home.work / "tasks.txt").write_text("the first task\n")
    (home.work / "steps.yaml").write_text("steps: [{prompt: x}]\n")
    if command[0] == "runs":
        assert clinvk("parallel", "tasks.txt").returncode == 0
    _, screen = on_terminal(home, *command, "--plain")
    assert "an **answer**" in screen.text
    home.config("default_backend: fake\noutput: {render: false}\n")
    _, screen = on_terminal(home, *command)
    assert "an **answer**" in screen.text


def test_a_question_and_a_field_are_wrapped_between_words(monkeypatch: pytest.MonkeyPatch):
    asked = []
    monkeypatch.setattr(questions, "can_ask", lambda: True)
    monkeypatch.setattr(questions, "ask_line", lambda text: asked.append(text) or "y")
    monkeypatch.setattr(printer, "_stream_width", lambda _: 40)
    assert questions.confirm("Delete the session 'one', and all of the answers in it?")
    assert asked == ["Delete the session 'one', and all of the\nanswers in it? [y/N] "]

    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(printer, "terminal_width", lambda: 40)
    monkeypatch.setenv("NO_COLOR", "1")
    lines = printer.field_lines({"Title": "some words that need two lines here", "A longer": "x"})
    assert lines[:2] == ["Title:    some words that need two lines", " " * 10 + "here"]


def conversation(home: Home, count: int) -> None:
    past(home, "talk", title="A talk")
    with keep(open_store("file", home.path)) as store:
        for n in range(count):
            store.append("talk", [Message("user", f"Question {n}", NOW),
                                  Message("assistant", f"Answer **{n}**", NOW)], lambda s: s)  # fmt: skip


def test_a_conversation_is_shown_below_its_header(clinvk: CommandLine, home: Home):
    conversation(home, 2)
    text = clinvk("sessions", "show", "talk").stdout
    assert text.startswith("ID: ")
    assert re.search(
        r"── User · .* ──\nQuestion 0\n\n── Assistant · .* ──\nAnswer \*\*0\*\*\n", text
    )
    assert "Question 0" not in clinvk("sessions", "show", "talk", "--messages", "2").stdout
    assert "Question" not in clinvk("sessions", "show", "talk", "--messages", "0").stdout
    assert "recent" not in clinvk.json("sessions", "show", "talk", "--json")
    _, screen = on_terminal(home, "sessions", "show", "talk", rows=50)
    assert "Answer 0" in screen.text
    assert "Answer **0**" in on_terminal(home, "sessions", "show", "talk", "--plain", rows=50)[0]


def test_a_long_conversation_goes_through_the_pager(home: Home):
    conversation(home, 30)
    program = home.backend(
        "pager", 'echo "LESS=$LESS"; head -n 12; cat >/dev/null; echo; echo PAGED\n'
    )
    written, _ = on_terminal(home, "sessions", "show", "talk", PAGER=str(program))
    assert written.startswith("LESS=FRX")
    assert "A talk" in written
    assert "PAGED" in written
    written, _ = on_terminal(home, "sessions", "show", "talk", PAGER="/no/such/pager")
    assert "Answer" in written
    written, _ = on_terminal(home, "sessions", "show", "talk", "--messages", "1", rows=40, PAGER=str(program))  # fmt: skip
    assert "PAGED" not in written


def test_last_prints_the_last_answer(clinvk: CommandLine, home: Home):
    assert "no sessions yet" in clinvk("last").stderr
    past(home, "older", updated_at=NOW - timedelta(days=1))
    conversation(home, 2)
    past(home, "r1.task", task="r1", updated_at=NOW + timedelta(minutes=1))
    assert clinvk("last").stdout == "Answer **1**\n"
    assert on_terminal(home, "last")[1].text == "Answer 1"


def test_less_shows_colors_and_is_left_with_q(home: Home):
    conversation(home, 30)
    child = pexpect.spawn(sys.executable, ["-m", "clinvk", "sessions", "show", "talk"], timeout=60,
                          cwd=str(home.work), env={**home.env, "TERM": "xterm", "PAGER": "less"},
                          encoding="utf-8", dimensions=(24, 80))  # fmt: skip
    child.expect("Question 0")
    child.send("q")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0
