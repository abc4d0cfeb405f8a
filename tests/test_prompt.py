"""The prompt of `clinvk resume ID >FILE`, which asks for one message only, since its answer goes
elsewhere, and what becomes of text that is pasted into it."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pexpect
import pytest

from clinvk.config.schema import Loaded
from clinvk.terminal.prompt_history import MOST, PromptHistory
from tests.conftest import FAKES, Home, wait_for
from tests.terminals import ending, past

LEFT, UP, ESCAPE = "\x1b[D", "\x1b[A", "\x1b"
TOKEN = "ghp_" + "0123456789abcdefABCDEF0123456789abcd"[:36]


@pytest.fixture(autouse=True)
def session(home: Home) -> None:
    home.config("default_backend: fake\n")
    home.backend("fake", (FAKES / "turns.sh").read_text())
    past(home, "one")


def prompts(home: Home) -> list[str]:
    """Those that reached the backend."""
    path = home.path / "transcripts" / "one.jsonl"
    messages = home.transcript("one") if path.exists() else []
    return [m["content"] for m in messages if m["role"] == "user"]


def asked(home: Home, *args: str, **env: str) -> pexpect.spawn:
    line = f"exec {sys.executable} -m clinvk resume one {' '.join(args)} >answer"
    child = pexpect.spawn("/bin/sh", ["-c", line], cwd=str(home.work), encoding="utf-8", timeout=60,
                          env={**home.env, "TERM": "xterm", **env})  # fmt: skip
    child.expect("one > ")
    return child


def kept(home: Home) -> list[str]:
    return PromptHistory(home.path / "history.jsonl").prompts()


def plain(text: str) -> str:
    """What was drawn, without the sequences that drew it."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text).replace("\r", "")


# Editing


def test_keys_edit_the_prompt_and_none_of_them_reaches_the_model(home: Home):
    child = asked(home)
    child.send("hello wrld" + LEFT * 3 + "o" + "\x01" + "X" + "\r")
    assert ending(child)[1] == 0
    assert prompts(home) == ["Xhello world"]


@pytest.mark.parametrize("keys", [ESCAPE + "\r", ESCAPE + "\n"])
def test_alt_enter_adds_a_line(home: Home, keys: str):
    child = asked(home)
    child.send("first" + keys)
    child.send("second\r")
    assert ending(child)[1] == 0
    assert prompts(home) == ["first\nsecond"]


def test_the_up_arrow_brings_back_the_prompt_of_an_earlier_command(
    home: Home,
):
    child = asked(home)
    child.send("the first\r")
    assert ending(child)[1] == 0
    child = asked(home)
    child.send(UP + " again\r")
    assert ending(child)[1] == 0
    assert prompts(home) == ["the first", "the first again"]
    assert kept(home) == ["the first", "the first again"]
    assert (home.path / "history.jsonl").stat().st_mode & 0o777 == 0o600


# Leaving


@pytest.mark.parametrize("term", ["xterm", "dumb", ""])
def test_ctrl_d_leaves_without_a_call(home: Home, term: str):
    child = asked(home, TERM=term)
    child.sendeof()
    text, code = ending(child)
    assert code == 0
    assert plain(text).strip(" ").endswith("\n")
    assert "clinvk" not in text
    assert prompts(home) == []


@pytest.mark.parametrize("term", ["xterm", "dumb"])
def test_ctrl_c_cancels_on_a_line_of_its_own(home: Home, term: str):
    child = asked(home, TERM=term)
    child.send("half a prom")
    child.expect("half a prom")
    child.sendintr()
    text, code = ending(child)
    assert code == 7
    assert "clinvk: cancelled" in plain(text).splitlines()
    assert prompts(home) == kept(home) == []


@pytest.mark.parametrize("term", ["xterm", "dumb"])
def test_an_empty_prompt_names_this_session(home: Home, term: str):
    child = asked(home, TERM=term)
    child.send("\r")
    text, code = ending(child)
    assert code == 1
    assert 'clinvk resume one "…"' in text


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_leaves_the_terminal_as_it_was(
    home: Home,
    number: signal.Signals,
):
    child = asked(home)
    child.send("abc")
    child.expect("abc")
    assert not termios.tcgetattr(child.child_fd)[3] & termios.ICANON
    os.kill(child.pid, number)
    child.expect(pexpect.EOF)
    child.close()
    assert child.signalstatus == number
    assert "\x1b[?2004l" in child.before


# Terminals that can do little


def test_a_dumb_terminal_gets_no_escape_sequence(home: Home):
    child = asked(home, TERM="dumb")
    child.send("plain\n")
    text, code = ending(child)
    assert code == 0
    assert "\x1b" not in text
    assert prompts(home) == kept(home) == ["plain"]


@pytest.mark.parametrize("end", ["\n", ""])
def test_on_a_dumb_terminal_a_paste_is_one_prompt(home: Home, end: str):
    child = asked(home, TERM="dumb")
    child.send("first\n\n  second\nthird" + end)
    if not end:
        child.expect("third")
        child.send(", and last\n")
    assert ending(child)[1] == 0
    assert prompts(home) == ["first\n\n  second\nthird" + ("" if end else ", and last")]


def test_without_colours_the_prompt_has_none(home: Home):
    child = asked(home, NO_COLOR="1")
    child.send("x\r")
    text, code = ending(child)
    assert code == 0
    assert not re.search(r"\x1b\[[0-9;]*[349][0-7][;m]", text)


@pytest.mark.parametrize("term", ["xterm", "dumb"])
@pytest.mark.parametrize("redirected", ["> out", "> out 2> err"])
def test_the_prompt_is_on_the_terminal_and_the_answer_alone_on_stdout(
    home: Home, redirected: str, term: str
):
    line = f"{sys.executable} -m clinvk resume one {redirected}"
    child = pexpect.spawn("/bin/sh", ["-c", line], cwd=str(home.work), encoding="utf-8", timeout=60,
                          env={**home.env, "TERM": term})  # fmt: skip
    child.expect("one > ")
    child.send("to a file\r")
    assert ending(child)[1] == 0
    assert (home.work / "out").read_text().strip() == "turn 2: to a file"
    assert prompts(home) == ["to a file"]


# What is kept


def test_what_looks_like_a_key_is_not_kept(home: Home):
    for text in (f"use {TOKEN}", "use nothing"):
        child = asked(home)
        child.send(text + "\r")
        assert ending(child)[1] == 0
    assert kept(home) == ["use nothing"]


@pytest.mark.parametrize(
    ("config", "args"), [("session: {store_messages: false}\n", []), ("", ["--dry-run"])]
)
def test_nothing_is_kept_where_messages_are_not(
    home: Home,
    config: str,
    args: list[str],
):
    home.config("default_backend: fake\n" + config)
    child = asked(home, *args)
    child.send("a prompt\r")
    assert ending(child)[1] == 0
    assert not (home.path / "history.jsonl").exists()


def test_a_history_stays_small_private_and_readable(tmp_path: Path):
    history = PromptHistory(tmp_path / "new" / "history.jsonl")
    for i in range(40):
        history.add(f"{i} " + "x y " * 10_000)
    assert history.path is not None
    assert history.path.stat().st_size <= MOST
    assert history.path.stat().st_mode & 0o777 == 0o600
    assert history.path.parent.stat().st_mode & 0o777 == 0o700
    assert history.prompts()[-1].startswith("39 ")
    with history.path.open("ab") as file:
        file.write(b'{"not": "text"}\n\xff\n"half of')
    assert history.prompts()[-1].startswith("39 ")


def test_a_history_that_is_not_a_file_is_ignored(tmp_path: Path):
    target = tmp_path / "target"
    for make in (Path.mkdir, os.mkfifo, lambda path: path.symlink_to(target)):
        path = tmp_path / "history.jsonl"
        make(path)
        history = PromptHistory(path)
        assert history.prompts() == []
        history.add("a prompt")
        assert not target.exists()
        path.rmdir() if path.is_dir() else path.unlink()


def test_a_link_in_place_of_the_history_is_neither_read_nor_followed(tmp_path: Path):
    target, path = tmp_path / "target", tmp_path / "history.jsonl"
    target.write_text(json.dumps("not mine") + "\n" + "x" * MOST)
    before = target.read_text()
    path.symlink_to(target)
    history = PromptHistory(path)
    assert history.prompts() == []
    history.add("a prompt")
    assert target.read_text() == before


def test_a_line_that_a_killed_clinvk_has_left_spoils_no_other(tmp_path: Path):
    history = PromptHistory(tmp_path / "history.jsonl")
    history.add("first")
    with (tmp_path / "history.jsonl").open("ab") as file:
        file.write(b'"half of')
    history.add("second")
    assert history.prompts() == ["first", "second"]


def test_redaction_that_is_switched_off_keeps_everything(home: Home):
    from clinvk.config import loading

    home.config("session: {redact: false}\n")
    loaded: Loaded = loading.load(home.env)
    PromptHistory.of(loaded).add(f"use {TOKEN}")
    assert kept(home) == [f"use {TOKEN}"]
    assert json.loads((home.path / "history.jsonl").read_text()) == f"use {TOKEN}"


# A paste, in a shell

PASTED = "please fix this:\necho EXECUTED >executed\nthanks\n"


class Shell:
    """bash in tmux, into which one pastes."""

    def __init__(self, home: Home, socket: Path) -> None:
        self.home, self.socket = home, socket
        self.env = {**home.env, "TERM": "xterm-256color", "PS1": "$ "}

    def tmux(self, *args: str, stdin: str | None = None) -> str:
        argv = ["tmux", "-S", str(self.socket), "-f", "/dev/null", *args]
        return subprocess.run(argv, env=self.env, input=stdin, capture_output=True, text=True,
                              check=True).stdout  # fmt: skip

    def start(self) -> None:
        rc = self.home.work / "rc"
        rc.write_text(
            f'clinvk() {{ {sys.executable} -m clinvk "$@"; }}\n'
            "bind 'set enable-bracketed-paste off' 2>/dev/null\n"
        )
        line = f"cd {self.home.work}; exec bash --noprofile --rcfile {rc} -i"
        self.tmux("new-session", "-d", "-x", "100", "-y", "30", line)

    def paste(self, text: str, *how: str) -> None:
        self.tmux("load-buffer", "-", stdin=text)
        self.tmux("paste-buffer", *how)

    def type(self, line: str) -> None:
        self.tmux("send-keys", "-l", line)
        self.tmux("send-keys", "Enter")

    def shows(self, text: str) -> None:
        wait_for(lambda: text in self.screen(), f"{text!r} on the screen", 60)

    def screen(self) -> str:
        return self.tmux("capture-pane", "-p")

    def ends(self) -> None:
        """The command has ended, and the shell executes what comes next and nothing else."""
        wait_for(lambda: re.search(r"(?m)^ended \d+$", self.screen()), "the end", 60)
        self.type("echo rea''dy")
        self.shows("\nready\n")
        assert not (self.home.work / "executed").exists(), self.screen()
        assert "not found" not in self.screen()


@pytest.fixture
def shell(home: Home, tmp_path: Path) -> Iterator[Shell]:
    if not shutil.which("tmux"):
        (pytest.fail if os.environ.get("CI") else pytest.skip)("tmux is not installed")
    shell = Shell(home, tmp_path / "tmux")
    shell.start()
    yield shell
    shell.tmux("kill-server")


# A turn that says when it has begun, and goes on a moment after all was typed.
SLOW = """cd "$(dirname "$0")"; touch began; until [ -e typed ]; do sleep 0.05; done; sleep 1
""" + (FAKES / "turns.sh").read_text()

# How a terminal pastes: marked as a paste, or as keys, with either line end.
HOW = {"bracketed": ["-p"], "as keys": [], "as lines": ["-r"]}


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("term", ["xterm-256color", "dumb"])
def test_a_paste_is_one_prompt_and_none_of_it_reaches_the_shell(
    shell: Shell, home: Home, how: str, term: str
):
    shell.type(f"TERM={term} clinvk resume one >answer; echo ended $?")
    shell.shows("\none >")
    shell.paste(PASTED, *HOW[how])
    if how == "bracketed" and term != "dumb":
        shell.shows("thanks")
        assert prompts(home) == []
        shell.tmux("send-keys", "Enter")
    shell.ends()
    assert prompts(home) == [PASTED.strip()]


@pytest.mark.parametrize("term", ["xterm-256color", "dumb"])
@pytest.mark.parametrize("gap", [0.1, 0.25])
def test_lines_that_come_slowly_are_discarded_with_a_notice(
    shell: Shell, home: Home, gap: float, term: str
):
    home.backend("fake", SLOW)
    shell.type(f"TERM={term} clinvk resume one >answer; echo ended $?")
    shell.shows("\none >")
    shell.type("the prompt")
    for _ in range(4):
        time.sleep(gap)
        shell.type("echo EXECUTED >executed")
    (home.path.parent / "fakes" / "typed").touch()
    shell.ends()
    lines = prompts(home)[0].splitlines()
    assert lines[0] == "the prompt"
    # On a busy machine all of them may be read at once, as a paste.
    assert "was discarded" in shell.screen() or len(lines) == 5


def test_a_half_line_typed_during_the_turn_is_discarded(shell: Shell, home: Home):
    home.backend("fake", SLOW)
    shell.type("clinvk resume one >answer; echo ended $?")
    shell.shows("\none >")
    shell.type("the prompt")
    wait_for((home.path.parent / "fakes" / "began").exists, "the turn")
    shell.tmux("send-keys", "-l", "echo EXECUTED >executed;")
    (home.path.parent / "fakes" / "typed").touch()
    shell.ends()
    assert "was discarded" in shell.screen()


def test_an_answer_alone_brings_no_notice(shell: Shell, home: Home):
    shell.type("clinvk sessions delete one; echo ended $?")
    shell.shows("[y/N]")
    shell.type("y")
    shell.ends()
    assert "discarded" not in shell.screen()
    assert home.ids() == []


def test_what_is_pasted_before_there_is_a_prompt_belongs_to_it(shell: Shell, home: Home):
    shell.type("sleep 0.5; clinvk resume one >answer; echo ended $?")
    shell.paste(PASTED)
    shell.ends()
    assert prompts(home) == [PASTED.strip()]


@pytest.mark.parametrize("term", ["xterm-256color", "dumb"])
def test_a_paste_into_the_picker_chooses_nothing_and_reaches_no_shell(
    shell: Shell, home: Home, term: str
):
    shell.type(f"TERM={term} clinvk resume >answer; echo ended $?")
    shell.shows("Session number" if term == "dumb" else "Esc: cancel")
    shell.paste("1\n" + PASTED)
    if term != "dumb":
        shell.shows("thanks")
        shell.tmux("send-keys", "Escape")
    shell.ends()
    assert "ended 7" in shell.screen()
    assert prompts(home) == []


@pytest.mark.parametrize("pasted", ["y\n" + PASTED, "y\necho EXECUTED >executed"])
def test_a_paste_into_a_question_is_no_answer_and_reaches_no_shell(
    shell: Shell, home: Home, pasted: str
):
    shell.type("clinvk sessions delete one; echo ended $?")
    shell.shows("[y/N]")
    shell.paste(pasted)
    shell.ends()
    assert "several lines were pasted" in shell.screen()
    assert home.ids() == ["one"]
