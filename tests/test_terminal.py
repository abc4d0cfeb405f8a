"""What a person at a terminal sees and answers."""

import json
import os
import re
import signal
import sys
from pathlib import Path

import pexpect
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clinvk.terminal.message_lines import wrap_message
from clinvk.text.width import display_width
from tests.conftest import (
    END,
    FAKES,
    READ,
    START,
    CommandLine,
    Home,
    is_alive,
    pid_in,
    say,
    stubborn,
    wait_for,
)
from tests.terminals import Terminal, ending, past

TURNS = (FAKES / "turns.sh").read_text()


@pytest.fixture(autouse=True)
def fake(home: Home) -> Path:
    home.config("default_backend: fake\n")
    return home.backend("fake", TURNS)


def test_a_misspelled_command_is_not_sent_from_a_terminal_either(terminal: Terminal, home: Home):
    text, code = ending(terminal("sesions"))
    assert "did you mean: clinvk sessions?" in text
    assert (code, home.ids()) == (1, [])


DOWN, ESCAPE = "\x1b[B", "\x1b"


def test_resume_lets_one_be_picked_with_the_arrows(terminal: Terminal, home: Home):
    past(home, "one", title="The first")
    past(home, "two", title="The second")
    child = terminal("resume")
    child.expect("> two")  # the newest is the first of the list
    child.send(DOWN)
    child.expect("clinvk resume one")
    child.send("\r")
    child.expect("session one: 0 messages")
    child.expect("The first · ")
    child.send("go on")
    child.expect("go on")
    child.send("\r")
    child.expect("turn 2: go on")
    child.send("\x04")
    assert ending(child)[1] == 0


def test_typing_narrows_the_picker(terminal: Terminal, home: Home):
    past(home, "one", title="The first")
    past(home, "two", title="The second")
    past(home, "three", title="The third")
    child = terminal("resume", "-i", "go on")
    child.expect("> three")
    child.send("first")
    child.expect("clinvk resume one")
    child.send("\r")
    text, code = ending(child)
    assert code == 0
    assert "turn 2: go on" in text
    assert home.record("one")["turns"] == 1


@pytest.mark.parametrize("key", [ESCAPE, "\x03", "\x04"])
def test_the_picker_can_be_left(terminal: Terminal, home: Home, key: str):
    past(home, "one")
    child = terminal("resume")
    child.expect("Esc: cancel")
    child.send(key)
    assert ending(child)[1] == 7


def test_the_picker_shows_nothing_that_drives_the_terminal(terminal: Terminal, home: Home):
    past(home, "one", title="a\x1b]2;pwned\x07b", cwd="/x\x1b]2;pwned\x07")
    child = terminal("resume")
    child.expect("Esc: cancel")
    shown = child.before
    child.send(ESCAPE)
    assert "\x1b]2" not in shown + ending(child)[0]


def test_on_a_dumb_terminal_one_is_picked_by_its_number(terminal: Terminal, home: Home):
    past(home, "one", title="The first")
    past(home, "two", title="The second")
    child = terminal("resume", TERM="dumb")
    child.expect(r"Session number \[1-2")
    child.sendline("7")  # there is no such number
    child.expect(r"Session number")
    child.sendline("2")
    child.expect("fake> ")
    child.sendline("go on")
    child.expect("turn 2: go on")
    child.sendeof()
    assert ending(child)[1] == 0
    assert home.record("one")["turns"] == 1


def test_an_empty_answer_to_that_gives_up(terminal: Terminal, home: Home):
    past(home, "one")
    child = terminal("resume", TERM="dumb")
    child.expect(r"Session number")
    child.sendline("")
    assert ending(child)[1] == 7


@pytest.mark.parametrize("args", [["resume"], ["sessions", "delete", "one"]])
def test_ctrl_c_at_a_question_exits_with_7(terminal: Terminal, home: Home, args: list[str]):
    past(home, "one")
    child = terminal(*args, TERM="dumb")
    child.expect(r"Session number|\[y/N\]")
    child.sendintr()
    text, code = ending(child)
    assert code == 7, text
    assert "Traceback" not in text
    assert home.ids() == ["one"]


def test_ctrl_d_at_a_question_is_a_no(terminal: Terminal, home: Home):
    past(home, "one")
    child = terminal("sessions", "delete", "one")
    child.expect(r"\[y/N\]")
    child.sendeof()
    assert ending(child)[1] != 0
    assert home.ids() == ["one"]


@pytest.mark.parametrize(("answer", "left"), [("y", []), ("n", ["one"]), ("", ["one"])])
def test_delete_asks_first(terminal: Terminal, home: Home, answer: str, left: list[str]):
    past(home, "one")
    child = terminal("sessions", "delete", "one")
    child.expect(r"Delete session one\? \[y/N\]")
    child.sendline(answer)
    text, _ = ending(child)
    assert ("Session one deleted." in text) is (left == [])
    assert home.ids() == left


@pytest.mark.parametrize(("answer", "code"), [("y", 0), ("n", 4)])
def test_continue_in_a_folder_without_a_session_asks(
    terminal: Terminal, home: Home, tmp_path: Path, answer: str, code: int
):
    past(home, "one", title="The work")
    child = terminal("-c", "go on", cwd=tmp_path)
    child.expect("The work")
    child.expect(r"Continue it\? \[y/N\]")
    child.sendline(answer)
    text, exit_code = ending(child)
    assert exit_code == code
    assert ("turn 2: go on" in text) is (code == 0)


def test_while_the_backend_is_silent_a_line_says_so_and_goes_when_it_speaks(
    terminal: Terminal, home: Home, tmp_path: Path
):
    gate = tmp_path / "gate"
    wait = f"while [ ! -e {gate} ]; do sleep 0.02; done\n"
    home.backend("fake", READ + START + wait + say(type="delta", text="The answer.") + END)
    child = terminal("-b", "fake", "x")
    child.expect("fake is working")
    gate.touch()
    child.expect("The answer")
    assert child.before.endswith("\r\x1b[K")
    text, code = ending(child)
    assert code == 0
    assert "is working" not in text


def test_the_silent_line_names_the_tool_that_runs(terminal: Terminal, home: Home, tmp_path: Path):
    gate = tmp_path / "gate"
    wait = f"while [ ! -e {gate} ]; do sleep 0.02; done\n"
    home.backend("fake", READ + START + say(type="tool", name="Ba\x1b]2;x\x07sh") + wait + END)
    child = terminal("-b", "fake", "x")
    child.expect("fake: Bash")
    gate.touch()
    assert ending(child)[1] == 0
    assert "\x1b]2" not in child.before


def test_ctrl_c_ends_the_tree_and_clears_the_line(terminal: Terminal, home: Home, tree: Path):
    home.backend("fake", stubborn(tree))
    child = terminal("-b", "fake", "x")
    child.expect("fake is working")
    pid_in(tree / "self")
    child.sendintr()
    text, code = ending(child)
    assert code == 7
    assert "cancelled" in text
    assert "clinvk resume" in text


def test_a_hangup_of_the_terminal_ends_the_run(terminal: Terminal, home: Home, tree: Path):
    home.backend("fake", stubborn(tree))
    child = terminal("-b", "fake", "x")
    child.expect("fake is working")
    pid = pid_in(tree / "self")
    os.kill(child.pid, signal.SIGHUP)
    wait_for(lambda: not is_alive(pid))
    assert wait_for(lambda: home.record()["error"])["kind"] == "cancelled"


def test_messages_break_between_words_and_commands_stay_whole(terminal: Terminal, home: Home):
    past(home, "one", cwd="/elsewhere")
    shown, code = ending(terminal("resume", "--here", width=60))
    assert code == 4
    lines = [line.rstrip() for line in shown.splitlines()]
    assert max(map(display_width, lines)) <= 60
    shown, _ = ending(terminal("sesions", "list", width=60))
    lines = [re.sub(r"\x1b\[[\d;]*m", "", line).strip() for line in shown.splitlines()]
    assert any(line == "clinvk sessions list?" for line in lines), lines


@given(st.text("ab clinvk;:,\"'()", max_size=90), st.integers(20, 60))
def test_wrapping_a_message_loses_no_word_and_breaks_none(text: str, width: int):
    lines = wrap_message("clinvk: ", text, width)
    assert " ".join(lines).split() == f"clinvk: {text}".split()
    for line in lines:
        assert display_width(line) <= width or "clinvk " in line or len(line.split()) <= 2


def test_tables_keep_to_the_width_of_the_terminal(terminal: Terminal, home: Home):
    past(home, "one", title="A very long title " * 20, cwd="/a/long/folder" * 20)
    for args in (["sessions", "list"], ["sessions", "list", "--wide"], ["config", "show", "--origin"],
                 ["backends", "list"]):  # fmt: skip
        text, _ = ending(terminal(*args))
        lines = [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in text.split("\r\n")]
        assert max(map(len, lines)) <= 80, args


def test_errors_are_coloured_unless_nobody_wants_that(terminal: Terminal, home: Home):
    assert "\x1b[31m" in ending(terminal("resume", "nobody", "x"))[0]
    assert "\x1b[" not in ending(terminal("resume", "nobody", "x", NO_COLOR="1"))[0]
    assert "\x1b[" not in ending(terminal("resume", "nobody", "x", TERM="dumb"))[0]
    home.config("output: {color: never}\n")
    assert "\x1b[" not in ending(terminal("resume", "nobody", "x"))[0]


def test_an_answer_is_shown_once_on_a_terminal(terminal: Terminal, home: Home):
    home.backend("fake", READ + START + say(type="delta", text="It is done.") + END)
    text, code = ending(terminal("-b", "fake", "x"))
    assert (text.replace("\x1b[K", "").replace("\r", ""), code) == ("It is done.\n", 0)


@pytest.mark.parametrize("args", [[], ["ask"], ["chat"], ["--color", "never"], ["-m", "x"]])
def test_without_a_prompt_the_interactive_one_is_opened(terminal: Terminal, args: list[str]):
    child = terminal(*args, TERM="dumb")
    child.expect("fake> ")
    child.sendeof()
    assert ending(child)[1] == 0


@pytest.mark.parametrize("flag", ["--json", "--dry-run", "--ephemeral"])
def test_what_is_for_one_prompt_needs_one(terminal: Terminal, flag: str):
    text, code = ending(terminal(flag, TERM="dumb"))
    assert code == 1
    assert f"{flag} needs a prompt" in text


def test_without_a_place_to_type_a_prompt_clinvk_shows_its_short_help(
    home: Home, clinvk: CommandLine
):
    line = f"{sys.executable} -m clinvk >help"
    child = pexpect.spawn("/bin/sh", ["-c", line], cwd=str(home.work), env={**home.env, "TERM": "xterm"})  # fmt: skip
    assert ending(child)[1] == 0
    assert (home.work / "help").read_text() == clinvk("-h").stdout
    done = clinvk()  # nothing is in the pipe
    assert (done.returncode, done.stdout) == (1, "")
    assert "the prompt is empty" in done.stderr


# Tables


LONG = "a name that is long enough to be in the way"


def table(terminal: Terminal, width: int, *args: str) -> list[str]:
    """The lines that are printed on a terminal of that width."""
    text, _ = ending(terminal(*args, width=width, CI="1", NO_COLOR="1"))
    return text.replace("\r", "").split("\n")


def columns_of(line: str) -> list[str]:
    return re.split(r" {2,}", line.strip())


@pytest.mark.parametrize("name", [LONG, "长的名字" * 6])
def test_a_long_name_gets_shorter_before_anything_else_goes(
    terminal: Terminal, home: Home, name: str
):
    tasks = [{"name": name, "prompt": "a"}, {"name": "b", "prompt": "b"}]
    (home.work / "tasks.yaml").write_text(json.dumps(tasks))
    lines = table(terminal, 80, "parallel", "tasks.yaml", "-q", "-b", "fake")
    at = next(i for i, line in enumerate(lines) if line.startswith("TASK"))
    heads, first, second = map(columns_of, lines[at : at + 3])
    assert {"TASK", "STATE", "SESSION"} <= {*heads}
    assert len(heads) == len(first) == len(second)
    row = dict(zip(heads, first, strict=True))
    assert row["TASK"].endswith("…")
    assert name.startswith(row["TASK"][:-1])
    assert row["STATE"] == "done"
    assert row["SESSION"] in home.ids()
    assert display_width(lines[at + 1]) <= 80
    assert "…" not in lines[at + 2]


def test_what_matters_less_is_left_out_whole_on_a_narrow_terminal(terminal: Terminal, home: Home):
    tasks = [{"name": LONG, "prompt": "a"}, {"name": "b", "prompt": "b"}]
    (home.work / "tasks.yaml").write_text(json.dumps(tasks))
    lines = table(terminal, 40, "parallel", "tasks.yaml", "-q", "-b", "fake")
    at = next(i for i, line in enumerate(lines) if line.startswith("TASK"))
    heads, first, second = map(columns_of, lines[at : at + 3])
    assert {"TASK", "STATE"} <= {*heads}
    assert not {"SESSION", "TOKENS"} & {*heads}
    run = next(i.split(".")[0] for i in home.ids())
    assert f"sessions: clinvk runs show {run} TASK" in lines
    rows = [dict(zip(heads, row, strict=True)) for row in (first, second)]
    assert [row["STATE"] for row in rows] == ["done", "done"]
    assert rows[1]["TASK"] == "b"
    assert len(heads) == len(first) == len(second)
    assert LONG.startswith(first[0].removesuffix("…"))
    heads, run = map(columns_of, table(terminal, 40, "runs", "list")[:2])
    assert {"ID", "STATE", "TASKS"} <= {*heads}
    assert dict(zip(heads, run, strict=True))["TASKS"] == "2 done"


def test_the_session_to_go_on_with_stays_in_a_comparison(terminal: Terminal, home: Home):
    home.backend("a-backend-with-a-long-name", TURNS)
    pair = ("--backends", "fake,a-backend-with-a-long-name")
    for width in (80, 60):
        lines = table(terminal, width, "compare", "hi", "-q", *pair)
        at = next(i for i, line in enumerate(lines) if line.startswith("BACKEND"))
        heads, first, second = map(columns_of, lines[at : at + 3])
        assert {"STATE", "SESSION"} <= {*heads}
        assert (first[-1] in home.ids(), second[-1] in home.ids()) == (True, True)
        assert second[0].startswith("a-backend-w")


@pytest.mark.parametrize("command", ["compare", "parallel"])
@pytest.mark.parametrize("width", [60, 80])
def test_tokens_and_cost_go_before_the_session(
    terminal: Terminal, home: Home, command: str, width: int
):
    (home.work / "tasks.json").write_text(json.dumps([{"name": "one", "prompt": "a"}, "b"]))
    asked = {
        "compare": ("hi", "-b", "echo:model-one,echo:model-two"),
        "parallel": ("tasks.json", "-b", "echo"),
    }[command]
    lines = table(terminal, width, command, *asked, "-q")
    at = next(i for i, line in enumerate(lines) if line.startswith(("BACKEND", "TASK")))
    heads, first = map(columns_of, lines[at : at + 2])
    assert heads[-1] == "SESSION"
    assert first[-1] in home.ids()
    assert not any(line.startswith("sessions:") for line in lines)
    assert all(display_width(line) <= width for line in lines)


def test_a_list_of_sessions_keeps_the_ids(terminal: Terminal, home: Home):
    past(home, "one", title=LONG * 3)
    past(home, "two", title="short")
    wide = table(terminal, 80, "sessions", "list")
    assert columns_of(wide[0])[0:2] == ["ID", "BACKEND"]
    assert [display_width(line) for line in wide[1:3] if line.startswith("one")] == [80]
    assert next(line for line in wide if line.startswith("two")).endswith("  short")
    narrow = table(terminal, 40, "sessions", "list")
    assert columns_of(narrow[0])[0] == "ID"
    assert columns_of(narrow[0])[-1] == "TITLE/PROMPT"
    assert next(line for line in narrow if line.startswith("two")).endswith("  short")


@pytest.mark.parametrize("width", [40, 80])
@pytest.mark.parametrize("args", [["doctor"], ["backends", "list"], ["templates", "list"],
                                  ["runs", "list"]])  # fmt: skip
def test_every_table_fits(terminal: Terminal, home: Home, args: list[str], width: int):
    (home.work / "tasks.yaml").write_text(json.dumps([{"name": LONG, "prompt": "a"}]))
    ending(terminal("parallel", "tasks.yaml", "-q"))
    lines = table(terminal, width, *args)
    rows = lines[: next(i for i, line in enumerate(lines) if not line)]
    assert len(rows) > 1
    assert max(map(display_width, rows)) <= width


def test_a_pipe_gets_every_column_whole(terminal: Terminal, home: Home):
    (home.work / "tasks.yaml").write_text(
        json.dumps([{"name": LONG * 2, "title": LONG * 2, "prompt": "a"}])
    )
    done = CommandLine(home)("parallel", "tasks.yaml", "-q", env={"COLUMNS": "40"})
    assert LONG * 2 in done.stdout
    assert "…" not in done.stdout
    (session,) = home.ids()
    assert session in CommandLine(home)("sessions", "list", env={"COLUMNS": "40"}).stdout
