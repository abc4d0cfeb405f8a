"""The interactive prompt on a terminal: what is typed, and what is on the screen."""

import json
import os
import re
import signal
from contextlib import suppress

import psutil
import pytest

from tests.conftest import FAKES, Home, python, wait_for
from tests.tmux import Tmux

TALKER = python((FAKES / "talker.py").read_text())
EVENTS = [
    {"when": "type == 'start'", "emit": "started", "set": {"native_id": "id", "model": "model"}},
    {"when": "type == 'delta'", "emit": "delta", "set": {"text": "text"}},
    {"when": "type == 'text'", "emit": "text", "set": {"text": "text"}},
    {"when": "type == 'thinking'", "emit": "thinking", "set": {"text": "text"}},
    {"when": "type == 'tool'", "emit": "tool", "set": {"id": "id", "name": "name", "input": "input"}},
    {"when": "type == 'result'", "emit": "tool_result", "set": {"id": "id", "ok": "ok", "output": "output"}},
    {"when": "type == 'end' && error", "emit": "failed", "set": {"message": "error"}},
    {"when": "type == 'end'", "emit": "finished", "set": {"text": "text", "usage": "usage", "cost": "cost"}},
]  # fmt: skip


@pytest.fixture(autouse=True)
def talkers(home: Home) -> None:
    for name in ("talker", "other"):
        home.backend(name, TALKER, events=EVENTS)
    home.config("default_backend: talker\nsession: {auto_resume: false}\n")


def is_running(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def without_times(screen: str) -> str:
    """A busy machine takes seconds from one line to the next."""
    return re.sub(r"thought for \d+ s", "thought for 0 s", screen)


def has_started(parent: psutil.Process, word: str) -> bool:
    for process in parent.children(recursive=True):
        with suppress(psutil.Error):  # it has ended meanwhile
            if word in process.cmdline():
                return True
    return False


def asked(home: Home, id_: str | None = None) -> list[str]:
    return [m["content"] for m in home.transcript(id_) if m["role"] == "user"]


def test_a_conversation_from_its_first_message_to_its_last(tmux: Tmux, home: Home):
    tmux.start()
    tmux.shows("new session")
    tmux.type("tools")
    tmux.shows("1,100 tokens · $0.01")
    screen = without_times(tmux.screen())
    for line in ("› tools", "• thought for 0 s (/thinking shows it)", "I look at it first.",
                 "✓ Read  src/parser.py", "✗ Bash  make test · make: no rule"):  # fmt: skip
        assert line in screen.splitlines(), screen
    assert screen.endswith("1,100 tokens · $0.01")
    assert "talker · made-up-1 · tools · " in screen

    hold = home.path.parent / "fakes" / "hold"
    hold.touch()
    tmux.type("list them")
    tmux.shows("Ctrl-C stops")
    tmux.type("and this")  # while the answer streams
    tmux.shows("queued: and this")
    hold.unlink()
    tmux.shows("turn 3 on talker")
    wait_for(lambda: asked(home) == ["tools", "list them", "and this"], "the messages", 60)
    assert "• item 20" in tmux.history()
    assert tmux.history().index("• item 20") < tmux.history().index("› and this")

    tmux.type("/bakend other")
    tmux.shows("unknown command /bakend; did you mean /backend?")
    tmux.type("fail now")
    tmux.shows("clinvk: talker: it broke")
    tmux.type("sessions list")
    tmux.shows("TITLE/PROMPT")
    tmux.type("/to other finish it")
    tmux.shows("turn 1 on other")
    assert "handing " in tmux.history()
    tmux.shows("other · made-up-1 · tools")
    tmux.keys("C-d")
    tmux.shows("exit 0")
    assert f"resume with: clinvk resume {home.ids()[0]}" in tmux.screen()
    assert asked(home) == ["tools", "list them", "and this", "fail now", "finish it"]
    record = home.record()
    assert record["backend"] == "other"
    assert set(record["native_ids"]) == {"talker", "other"}


def test_ctrl_c_stops_the_answer_and_keeps_the_session(tmux: Tmux, home: Home):
    tmux.start()
    tmux.shows("new session")
    tmux.type("wait here")
    tmux.shows("I am waiting")
    tmux.type("for later")
    tmux.shows("queued: for later")
    tmux.keys("C-c")
    tmux.shows("• cancelled; the session is kept")
    tmux.shows("› for later")  # it is offered again
    assert not is_running(int((home.path.parent / "fakes" / "tool").read_text()))
    tmux.keys("C-c")
    tmux.waits(lambda: "› for later" not in tmux.screen(), "an empty line")
    tmux.keys("C-c")
    tmux.shows("Ctrl-D exits")
    tmux.type("list")
    tmux.shows("turn 2 on talker")
    assert asked(home) == ["wait here", "list"]
    tmux.type("/exit")
    tmux.shows("exit 0")


def test_what_is_typed_while_a_command_fills_the_input_line_stays(tmux: Tmux, home: Home):
    tmux.start()
    tmux.shows("new session")
    hold = home.path.parent / "fakes" / "hold"
    hold.touch()
    tmux.type("list them")
    tmux.shows("Ctrl-C stops")
    tmux.type("/undo")
    tmux.shows("queued: /undo")
    tmux.tmux("send-keys", "and more")
    hold.unlink()
    tmux.shows("the next message starts a new session")
    tmux.waits(lambda: "› list them\n  and more" in tmux.screen(), "both in the input line")
    tmux.keys("C-c", "C-d")
    tmux.shows("exit 0")


def test_ctrl_d_during_the_first_answer_exits_after_it(tmux: Tmux, home: Home):
    hold = home.path.parent / "fakes" / "hold"
    hold.touch()
    tmux.start("repl", "list them")
    tmux.shows("Ctrl-C stops")
    tmux.keys("C-d")
    tmux.shows("exits after this answer")
    hold.unlink()
    tmux.shows("exit 0")
    assert asked(home) == ["list them"]


def test_a_closed_terminal_ends_the_cli_and_saves_the_session(tmux: Tmux, home: Home):
    tmux.start()
    tmux.shows("new session")
    tmux.type("wait here")
    tmux.shows("I am waiting")
    clinvk = next(
        p for p in psutil.Process(tmux.pid()).children(recursive=True) if "clinvk" in p.cmdline()
    )
    tree = [clinvk, *clinvk.children(recursive=True)]
    tool = int((home.path.parent / "fakes" / "tool").read_text())
    tmux.close()
    psutil.wait_procs(tree, timeout=60)
    assert not [p for p in tree if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
    wait_for(lambda: not is_running(tool), "the end of the tool", 60)
    assert asked(home) == ["wait here"]
    assert home.record()["error"]["kind"] == "cancelled"
    assert "I am waiting" in [m["content"] for m in home.transcript()][-1]


@pytest.mark.parametrize("number", [signal.SIGTERM])
def test_a_signal_stops_the_turn_and_leaves_the_terminal_usable(
    tmux: Tmux, home: Home, number: signal.Signals
):
    tmux.start()
    tmux.shows("new session")
    tmux.type("wait here")
    tmux.shows("I am waiting")
    clinvk = next(
        p for p in psutil.Process(tmux.pid()).children(recursive=True) if "clinvk" in p.cmdline()
    )
    clinvk.send_signal(number)
    tmux.shows("exit 7")
    assert home.record()["error"]["kind"] == "cancelled"


@pytest.mark.parametrize(
    ("term", "typed"),
    [("tmux-256color", 'compare -b talker,other "wait here"'), ("dumb", "wait here"),
     ("dumb", 'compare -b talker,other "wait here"')],
)  # fmt: skip
def test_a_signal_during_a_command_that_was_typed_ends_the_prompt(
    tmux: Tmux, home: Home, term: str, typed: str
):
    tmux.start("repl", TERM=term)
    tmux.shows("talker>" if term == "dumb" else "new session")
    clinvk = next(
        p for p in psutil.Process(tmux.pid()).children(recursive=True) if "clinvk" in p.cmdline()
    )
    tmux.type(typed)
    tool = home.path.parent / "fakes" / "tool"
    wait_for(lambda: tool.exists() and tool.read_text(), "the tool", 60)
    os.kill(clinvk.pid, signal.SIGTERM)
    tmux.shows("exit 7")
    wait_for(lambda: not is_running(int(tool.read_text())), "the end of the tool", 60)


def test_a_signal_during_a_command_of_the_shell_ends_both(tmux: Tmux):
    tmux.start()
    tmux.shows("new session")
    clinvk = next(
        p for p in psutil.Process(tmux.pid()).children(recursive=True) if "clinvk" in p.cmdline()
    )
    tmux.type("!(sleep 97; true); echo sl''eeps; sleep 98; true")
    wait_for(lambda: has_started(clinvk, "97"), "sleep", 60)
    started = clinvk.children(recursive=True)
    os.kill(clinvk.pid, signal.SIGTERM)
    tmux.shows("exit 7")
    wait_for(lambda: not any(is_running(p.pid) for p in started), "the end of the command", 60)


def test_a_large_paste_is_shown_as_one_label_and_sent_as_it_is(tmux: Tmux, home: Home):
    tmux.start()
    tmux.shows("new session")
    text = "".join(
        f"{i:>6} some text of a log file, which goes on and on and on\n" for i in range(3200)
    )
    tmux.paste("see this:\n" + text)
    tmux.shows("[pasted 3,202 lines]")
    tmux.type(" size?")
    tmux.keys("")
    tmux.shows("turn 1 on talker")
    assert asked(home) == ["see this:\n" + text + " size?"]
    assert "some text of a log" not in tmux.history()
    tmux.paste("one\ntwo")
    tmux.shows(re.compile("› one\n  two"))
    tmux.keys("Enter")
    tmux.shows("turn 2 on talker")
    assert asked(home)[1] == "one\ntwo"


def test_a_session_is_resumed_with_what_was_said(tmux: Tmux, home: Home):
    tmux.start("chat", "--session", "parser")
    tmux.shows("new session")
    tmux.type("tools")
    tmux.shows("turn 1 on talker")
    tmux.type("/new")
    tmux.shows("starts a new session")
    tmux.type("another")
    tmux.shows("· another ·")
    tmux.type("resume parser")
    tmux.shows("session parser: 2 messages")
    tmux.type("/model opus")
    tmux.type("again")
    tmux.shows("turn 2 on talker")
    tmux.shows("talker · opus · tools")
    tmux.keys("C-d")
    tmux.shows("exit 0")
    assert asked(home, "parser") == ["tools", "again"]

    tmux.close()
    tmux.start("resume", "parser", columns=60)
    tmux.shows("session parser: 4 messages")
    assert "\nAssistant (talker): turn 2 on talker" in tmux.history()
    tmux.type("and once more")
    tmux.shows("turn 3 on talker")


def test_command_lines_run_as_in_a_shell(tmux: Tmux, home: Home):
    tmux.start("-b", "talker", "--title", "mine")
    tmux.shows("new session")
    tmux.type("session --temperature 0.7")
    tmux.shows(re.compile(r"it applies to llm\n\n›"))
    tmux.type("session --list")
    tmux.shows(re.compile(r"temperature +0\.7"))
    tmux.type('chat "list it"')
    tmux.shows("turn 1 on talker")
    tmux.type("sesions list")
    tmux.shows("did you mean: sessions")
    tmux.type("config set default_backend other")
    tmux.shows(re.compile(r"default_backend other\n+›"))
    tmux.type("/new")
    tmux.shows("new session")
    tmux.type('clinvk ask "hello"')
    tmux.shows("· hello ·")
    tmux.keys("C-d")
    tmux.shows("exit 0")
    titles = sorted(
        json.loads(p.read_text())["title"] or "-" for p in (home.path / "sessions").glob("*.json")
    )
    assert titles == ["-", "mine"]


@pytest.mark.parametrize("columns", [60, 80, 120])
def test_the_screen_at_every_width(tmux: Tmux, home: Home, columns: int):
    tmux.start(columns=columns)
    tmux.shows("new session")
    tmux.type("tools")
    tmux.shows("turn 1 on talker")
    tmux.shows(re.compile(r"tokens[^\n]*$"))
    lines = without_times(tmux.screen()).splitlines()
    work = os.path.realpath(home.work)
    assert lines[0] == "clinvk, on talker. /help lists the commands, Ctrl-D exits."
    assert lines[1:-2] == [
        "", "› tools", "", "• thought for 0 s (/thinking shows it)", "", "I look at it first.", "",
        "✓ Read  src/parser.py", "✗ Bash  make test · make: no rule", "", "turn 1 on talker", "",
    ]  # fmt: skip
    assert lines[-2].rstrip() == "›"
    assert len(lines[-1]) < columns
    assert lines[-1].startswith("talker · made-up-1 · tools · ")
    assert lines[-1].endswith("1,100 tokens · $0.01")
    whole = f"talker · made-up-1 · tools · {work} · 1,100 tokens · $0.01"
    assert (work in lines[-1]) == (len(whole) < columns)


def test_a_resized_terminal_keeps_one_input_line(tmux: Tmux, home: Home):
    tmux.start(columns=100)
    tmux.shows("new session")
    tmux.type("list it")
    tmux.shows("item 5")
    tmux.resize(50, 20)
    tmux.shows("turn 1 on talker")
    tmux.resize(90, 24)
    tmux.type("more")
    tmux.shows("turn 2 on talker")
    shown = tmux.history()
    assert shown.count("• item 20") == 1
    assert len(re.findall(r"(?m)^›\s*$", tmux.screen())) == 1


def test_a_backend_that_was_uninstalled_is_reported_and_the_prompt_stays(tmux: Tmux, home: Home):
    program = home.path.parent / "fakes" / "talker"
    tmux.start()
    tmux.shows("new session")
    tmux.type("list")
    tmux.shows("turn 1 on talker")
    program.rename(program.with_suffix(".gone"))
    tmux.type("more")
    tmux.shows("is not installed")
    program.with_suffix(".gone").rename(program)
    tmux.type("again")
    tmux.shows("turn 2 on talker")


def test_without_colors_there_are_none(home: Home, terminal):
    child = terminal("repl", NO_COLOR="1")
    child.expect("new session")
    child.send("tools")
    child.expect("tools")
    child.send("\r")
    child.expect("turn 1 on talker")
    assert not re.search(r"\x1b\[[0-9;]*[349][0-7][;m]", child.before)
    child.send("\x04")
