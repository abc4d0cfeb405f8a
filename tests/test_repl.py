"""The interactive prompt without a screen: what lines mean, what is shown, and line by line."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import anyio
import pytest

from clinvk.cmd.interactive.typed import read_typed
from clinvk.config import loading
from clinvk.dispatch.dispatcher import Dispatcher
from clinvk.errors import ClinvkError, UsageError
from clinvk.model.events import Delta, Event, Thinking
from clinvk.model.request import Request
from clinvk.repl.conversation import Conversation
from clinvk.repl.screen import answer as answers
from clinvk.repl.screen.answer import PLAIN_NOTICE, AnswerText
from clinvk.repl.screen.pastes import Pastes
from clinvk.repl.screen.status import Status, status_pieces
from clinvk.repl.screen.tools import ToolLine, describe_input, describe_output
from clinvk.repl.screen.turn_view import THOUGHT_KEPT, TurnView
from clinvk.repl.sending import Sender
from clinvk.repl.slash import TABLE
from clinvk.terminal.printer import Printer
from tests.conftest import FAKES, CommandLine, Home, python
from tests.terminals import Terminal, past

TALKER = python((FAKES / "talker.py").read_text())
EVENTS = [
    {"when": "type == 'start'", "emit": "started", "set": {"native_id": "id", "model": "model"}},
    {"when": "type == 'delta'", "emit": "delta", "set": {"text": "text"}},
    {"when": "type == 'text'", "emit": "text", "set": {"text": "text"}},
    {"when": "type == 'end' && error", "emit": "failed", "set": {"message": "error"}},
    {"when": "type == 'end'", "emit": "finished", "set": {"text": "text", "usage": "usage", "cost": "cost"}},
]  # fmt: skip


@pytest.fixture
def talkers(home: Home) -> None:
    for name in ("talker", "other"):
        home.backend(name, TALKER, events=EVENTS)
    home.config("default_backend: talker\n")


# What a line is.

COMMANDS: dict[str, Any] = {
    "sessions": ("list", "show", "resume", "search", "help", "delete"),
    "session": ("list", "show", "resume", "search", "help", "delete"),
    "backends": ("list",), "config": ("get", "set", "show"), "runs": ("list",),
    **dict.fromkeys(("ask", "chat", "repl", "resume", "last", "compare", "parallel", "chain",
                     "init", "doctor", "completion", "help", "version"), ()),
}  # fmt: skip


@pytest.mark.parametrize(
    "text",
    [
        "sessions list", "session", "session --list", "session --model gpt-4-turbo",
        "session --temperature 0.5 --max-tokens 1024", "session --option stop=\"['END']\"",
        "sessions show abc", "sessions delete abc --yes", "session help", "version", "help",
        "help sessions list", "backends list", "config get default_backend", "doctor", "last",
        'chat "what now?"', "chat 'x'", "ask hello", 'chat --temperature 0.9 -b llm "x"',
        "resume", "resume known", 'resume known "go on"', "resume --last", "compare -b a,b 'x'",
        'compare "why?"', "completion bash", "repl",
    ],
)  # fmt: skip
def test_a_command_line_is_recognized(text: str):
    argv = read_typed(text, COMMANDS, lambda word: word == "known")
    assert argv is not None
    assert argv[0] == text.split(maxsplit=1)[0]
    assert read_typed(f"clinvk {text}", COMMANDS, lambda word: word == "known") == argv


@pytest.mark.parametrize(
    "text",
    [
        "hello", "help me with the parser", "sessions are broken", "compare these two files",
        "resume the work", "last week it worked", "chat about life and so on", "it's broken",
        "config is read twice, why?", "version 2 fails", "parallel lines never meet", "yes", "y",
        "continue", "chain of thought", "list the files", "show me", "clinvk is slow here",
        "sessions list\nand then", "doctor who", "backends need a list of models", "init the repo",
        "-c", "--help", '"quoted"', "runs fine", "run it", "version?",
    ],
)  # fmt: skip
def test_a_sentence_is_a_message(text: str):
    assert read_typed(text, COMMANDS) is None


@pytest.mark.parametrize(
    ("text", "meant"),
    [("sesions list", "sessions"), ("sessions lst", "sessions list"), ("verson", "version"),
     ("backend list", "backends"), ("session --lst", None), ("doctr", "doctor")],
)  # fmt: skip
def test_a_misspelled_command_line_reaches_no_model(text: str, meant: str | None):
    if meant is None:  # the command line itself reports it
        assert read_typed(text, COMMANDS) == text.split()
        return
    with pytest.raises(UsageError, match=f"did you mean: {meant}"):
        read_typed(text, COMMANDS)


def test_the_name_of_the_program_alone_reaches_no_model():
    with pytest.raises(UsageError, match="this is the prompt of clinvk"):
        read_typed(" clinvk ", COMMANDS)


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("why?", ["why?"]),
        ("-b a,b why?", ["-b", "a,b", "why?"]),
        ('-b a,b print("x")\n    it\'s', ["-b", "a,b", 'print("x")\n    it\'s']),
        ("--judge 'a b' --sequential \"why is it so?\"", ["--judge", "a b", "--sequential", "why is it so?"]),
        ('-b a,b "one" and  "two"', ["-b", "a,b", '"one" and  "two"']),
        ("--approval auto --memory -m opus fix it", ["--approval", "auto", "--memory", "-m", "opus", "fix it"]),
        ("--approval=auto --timeout 5m fix it", ["--approval=auto", "--timeout", "5m", "fix it"]),
        ("-b a,b -- -x", ["-b", "a,b", "--", "-x"]),
        ("-b", ["-b"]),
    ],
)  # fmt: skip
def test_a_message_to_several_backends_is_sent_as_it_was_typed(argument: str, words: list[str]):
    class Recorder:
        def command_line(self, argv: list[str], _text: str) -> None:
            assert argv == ["compare", *words]

    TABLE.find("compare").run(Recorder(), argument)  # type: ignore[arg-type]


def test_every_slash_command_is_complete_and_a_misspelled_one_is_named():
    for command in TABLE.commands:
        assert command.help.endswith(".")
        assert TABLE.find(command.name) is command
    with pytest.raises(UsageError, match=r"unknown command /sesions; did you mean /sessions\?"):
        TABLE.find("sesions")
    assert TABLE.find("quit").name == "exit"


# What is shown.


@pytest.mark.parametrize(
    ("width", "shown"),
    [
        (59, "claude · opus · Fix the parser · 12,345 tokens · $0.12"),
        (79, "claude · opus · Fix the parser of our configuration · 12,345 tokens · $0.12"),
        (119, "claude · opus · Fix the parser of our configuration · /srv/work/project · 12,345 tokens · $0.12"),
        (30, "claude · opus · Fix the par…"),
        (10, "claude"),
    ],
)  # fmt: skip
def test_the_status_fits_into_every_width(width: int, shown: str):
    title = "Fix the parser of our configuration" if width > 60 else "Fix the parser"
    status = Status("claude", "opus", title, "/srv/work/project", 12345, 0.12)
    assert "".join(text for text, _ in status_pieces(status, width)) == shown


def test_the_status_begins_with_a_rate_limit():
    until = datetime.now(UTC) + timedelta(hours=40)
    (text, kind), *_ = status_pieces(Status("claude", limited_until=until), 79)
    assert text.startswith("rate limit until ")
    assert kind == "warning"
    over = Status("claude", limited_until=datetime.now(UTC) - timedelta(seconds=1))
    assert status_pieces(over, 79)[0][0] == "claude"


def test_a_long_paste_has_a_label_that_stands_for_it():
    pastes = Pastes()
    long, wide = "a line\n" * 3119 + "end", "x" * 5000
    assert pastes.shorten("one\r\ntwo\rthree") == "one\ntwo\nthree"
    label, other = pastes.shorten(long), pastes.shorten(long.replace("a", "b"))
    assert (label, other) == ("[pasted 3,120 lines]", "[pasted 3,120 lines #2]")
    assert pastes.shorten(long) == label
    assert pastes.shorten(wide) == "[pasted 5,000 characters]"
    assert pastes.expand(f"see {label} and [pasted 7 lines]") == f"see {long} and [pasted 7 lines]"
    assert pastes.label_before(f"see {label}") == label
    assert pastes.label_before("see [pasted 3,120 line]") == ""


def test_of_very_long_thinking_the_beginning_is_kept():
    class Page:
        columns = 80

        def redraw(self) -> None: ...

    view = TurnView(Page(), Printer.for_errors("never"))  # type: ignore[arg-type]

    async def think() -> None:
        for number in range(60_000):
            await view.show(Thinking(text=f"{number:5} "))

    anyio.run(think)
    assert "".join(view.thoughts).startswith("    0     1 ")
    assert THOUGHT_KEPT <= len("".join(view.thoughts)) < THOUGHT_KEPT + 10


@pytest.mark.parametrize(
    ("value", "about"),
    [
        ({"command": "make\ntest", "timeout": 5}, "make test"), ({"file_path": "a.py"}, "a.py"),
        ({"command": ["bash", "-c", "ls"]}, "bash -c ls"), ({}, ""), (None, ""), ("text", "text"),
        ({"odd": 1}, '{"odd": 1}'), ([1, 2], "[1, 2]"), ({"path": "\x1b[31mred"}, "red"),
    ],
)  # fmt: skip
def test_a_tool_call_is_described_in_a_few_words(value: Any, about: str):
    assert describe_input(value) == about


def test_a_tool_call_is_one_line_with_its_outcome():
    assert ToolLine("Bash", "make", True).text(79) == "✓ Bash  make"
    assert ToolLine("Bash", "make", None).text(79) == "• Bash  make"
    failed = ToolLine("Bash", "make " * 40, False, describe_output("no rule\nmore"))
    assert failed.text(60).endswith("… · no rule")
    assert len(failed.text(60)) <= 60
    assert describe_output([{"type": "text", "text": "one\ntwo"}]) == "one"
    assert describe_output({"stderr": "bad"}) == "bad"


def shown(answer: AnswerText) -> str:
    text = ""
    while piece := answer.take():
        text += piece
    return text


def test_an_answer_is_printed_in_blocks_and_its_end_can_still_change():
    answer = AnswerText(lambda: 40, color=False)
    for piece in ("# Tit", "le\n\nSome **bo", "ld** text\n\n- it", "em\n"):
        answer.feed(piece)
    assert shown(answer) == "\n# Title\n\nSome bold text\n"
    assert answer.open_lines(5) == ["", "• item"]
    answer.aside("✓ Read")
    answer.feed("More, and a\x1b[31m word")
    assert shown(answer) == "\n• item\n\n✓ Read\n"
    assert answer.open_lines(5) == ["", "More, and a word"]
    answer.end_part()
    answer.feed("Another part")
    answer.end_part()
    assert shown(answer) == "\nMore, and a word\n\nAnother part\n"
    assert answer.open_lines(5) == []


def test_an_answer_that_comes_too_fast_is_plain_text_and_complete(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(answers, "MAX_WAITING", 20_000)
    answer = AnswerText(lambda: 80, color=True)
    line = "a line of **text** that is not so short\n\n"
    for _ in range(1000):
        answer.feed(line)
    answer.feed("the end")
    answer.end_part()
    text = shown(answer)
    assert PLAIN_NOTICE in text
    assert text.count("a line of") == 1000
    assert text.endswith("a line of **text** that is not so short\n\nthe end\n")


# A conversation, on both event loops.


class Heard:
    def __init__(self) -> None:
        self.notices: list[str] = []
        self.events: list[Event] = []

    def notify(self, message: str) -> None:
        self.notices.append(message)

    def begin(self, turn: Any) -> None:
        self.turn = turn

    async def show(self, event: Event) -> None:
        self.events.append(event)
        if isinstance(event, Delta) and event.text == "I am waiting":
            self.turn.cancel("cancelled")


def test_a_conversation_goes_on_from_message_to_message(
    talkers: None, home: Home, anyio_backend: str, monkeypatch: pytest.MonkeyPatch
):
    import anyio

    monkeypatch.chdir(home.work)

    async def talk() -> None:
        with Dispatcher(loading.load(home.env), env=home.env) as dispatcher:
            talk = Conversation(
                dispatcher, Request(prompt="-", title="mine", options={"model": "m1"})
            )
            assert talk.open() is None
            assert (talk.backend, talk.model, talk.session, talk.tokens) == (
                "talker",
                "m1",
                None,
                0,
            )

            async def said(prompt: str, **more: Any) -> str:
                heard = Heard()
                result = await Sender(talk).send(talk.request(prompt, **more), heard)
                assert result is not None
                return result.text

            assert await said("tools") == "turn 1 on talker"
            assert talk.session is not None
            first = talk.session.id
            assert (talk.session.title, talk.model) == ("mine", "m1")
            assert await said("again") == "turn 2 on talker"
            assert (talk.tokens, talk.dollars) == (2200, 0.02)
            assert await said("wait") == "I am waiting"
            assert talk.last.error.kind == "cancelled"
            assert talk.switch_backend("other")
            assert talk.model is None
            assert await said("finish") == "turn 1 on other"
            assert talk.session.id == first
            assert talk.backend == "other"
            assert await said("one more") == "turn 2 on other"
            given = Request(prompt="x", options={"max_turns": 3}, session="last")
            assert await said("with options", given=given) == "turn 3 on other"
            talk.start_new("second")
            assert await said("new") == "turn 1 on other"
            assert talk.session.id != first
            talk.resume(dispatcher.store.get(first))
            assert await said("back") == "turn 4 on other"
            with pytest.raises(ClinvkError, match="unknown backend 'nope'"):
                talk.switch_backend("nope")
            dispatcher.store.delete(first)
            assert not talk.refresh()
            assert await said("fresh") == "turn 1 on other"

    anyio.run(talk, backend=anyio_backend)


# Line by line.


def test_on_a_pipe_each_line_is_a_message_of_one_session(
    talkers: None, clinvk: CommandLine, home: Home
):
    lines = ["tools", "", "session --list", "/cost", "/bakend", "clinvk sessions list", "fail",
             'chat --title x "by a command"', "/to other", "last one"]  # fmt: skip
    done = clinvk("repl", stdin="\n".join(lines))
    assert done.returncode == 1  # of the last failure
    assert "turn 1 on talker" in done.stdout
    assert "1 turn, 1,000 tokens in" in done.stdout
    assert "TITLE/PROMPT" in done.stdout
    assert "turn 3 on talker" in done.stdout
    assert done.stdout.endswith("turn 1 on other\n")
    assert "did you mean /backend?" in done.stderr
    assert "talker: it broke" in done.stderr
    assert [m["content"] for m in home.transcript() if m["role"] == "user"] == [
        "tools", "fail", "by a command", "last one",
    ]  # fmt: skip
    assert clinvk("repl", stdin="hello\n").returncode == 0
    assert clinvk("repl", "-c", "first", stdin="then").stdout.count("turn") == 2


def test_commands_at_the_prompt_use_its_store_and_its_configuration(
    talkers: None, clinvk: CommandLine, home: Home
):
    config = home.work / "other.yaml"
    config.write_text("default_backend: other\n")
    lines = "hello\nsessions list\nconfig get default_backend\n"
    done = clinvk("repl", "--storage-backend", "sqlite", "--config", str(config), stdin=lines)
    said = done.stdout.splitlines()
    assert said[0] == "turn 1 on other"
    assert said[2].endswith("hello")
    assert said[3] == "other"
    assert home.ids() == []


def test_a_line_that_is_not_text_is_reported_and_the_others_are_sent(talkers: None, home: Home):
    import subprocess
    import sys

    done = subprocess.run(
        [sys.executable, "-m", "clinvk", "repl"], input=b"one\n\xff\xfe\ntwo\n", cwd=home.work,
        env=home.env, capture_output=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 1
    assert b"stdin: not UTF-8 text" in done.stderr
    assert [m["content"] for m in home.transcript() if m["role"] == "user"] == ["one", "two"]


@pytest.mark.parametrize(
    ("args", "stdin", "said"),
    [
        (["repl", "--session", "a", "-c"], "x", "-c and --session cannot be used together"),
        (["repl", "-b", "nope"], "x", "unknown backend 'nope'"),
        (["repl", "one", "two"], "x", "put the first message in quotes"),
        (["repl", "--template", "nope"], "", "nope"),
    ],
)
def test_what_cannot_be_opened_is_an_error(
    talkers: None, clinvk: CommandLine, args: list[str], stdin: str, said: str
):
    done = clinvk(*args, stdin=stdin)
    assert done.returncode != 0
    assert said in done.stderr


def test_a_dumb_terminal_has_a_prompt_without_sequences(
    talkers: None, home: Home, terminal: Terminal
):
    child = terminal(TERM="dumb")
    for line, answer in (("hello", "turn 1 on talker"), ("/to other", "next message goes to other"),
                         ("sessions list", "TITLE/PROMPT"), ("more", "turn 1 on other")):  # fmt: skip
        child.expect("(talker|other)> ")
        child.sendline(line)
        child.expect(answer)
        assert "\x1b" not in child.before
    child.expect("other> ")
    child.sendeof()
    child.expect("resume with: clinvk resume")
    child.wait()
    assert child.exitstatus == 0


def test_on_a_pipe_all_of_it_is_one_prompt_of_clinvk_and_chat(
    talkers: None, clinvk: CommandLine, home: Home
):
    for args in ([], ["chat"]):
        done = clinvk(*args, stdin="one\ntwo\n")
        assert done.stdout == "turn 1 on talker\n"
    prompts = [json.loads(p.read_text())["prompt"] for p in (home.path / "sessions").glob("*.json")]
    assert prompts == ["one\ntwo"] * 2 or all("one" in p and "two" in p for p in prompts)


def test_what_is_typed_is_kept_only_for_its_user(home: Home, talkers: None, terminal: Terminal):
    child = terminal("repl")
    child.expect("new session")
    child.send("remember me")
    child.expect("remember me")
    child.send("\r")
    child.expect("turn 1 on talker")
    child.send("\x04")
    child.wait()
    path = Path(home.path) / "history.jsonl"
    assert json.loads(path.read_text()) == "remember me"
    assert path.stat().st_mode & 0o777 == 0o600
    child = terminal("repl")
    child.expect("new session")
    child.send("\x12rememb")  # Ctrl-R
    child.expect("reverse-i-search|I-search")
    child.send("\r")
    child.send("\r")
    child.expect("turn 1 on talker")
    child.send("\x04")


# Documented command lines of other tools, for which `clinvk session` stands.
DOCUMENTED = r"""
session
session --list
session --model gpt-4-turbo
session --temperature 0.5 --max-tokens 1024 --top-p 0.9 --frequency-penalty 0.3
session --stream
session --option presence_penalty=0.6 --option stop="['END']"
session --clear --model
session --clear --option presence_penalty
session --reset
chat "This command uses the defaults"
clinvk chat --temperature 0.9 --dry-run -b talker --lenient "This command is only shown"
sessions list --backend claude --status active --limit 5
sessions clean --older-than 30d
session create --title "Bug Investigation" --metadata '{"project": "webapp", "priority": "high"}'
session start my-project
ask "What's the next step?" --session my-project
session show my-project
session export my-project --format markdown --output chat.md
session export my-project --format json --include-metadata --include-tokens --output all.json
session search "next step" --limit 10
session stats my-project
session help
session resume my-project "and then?"
session delete my-project --yes
session list --storage-backend sqlite --storage-path sessions.db
help
version
backends list
config get default_backend
"""


def test_documented_command_lines_work_at_the_prompt(
    talkers: None, clinvk: CommandLine, home: Home
):
    done = clinvk("repl", stdin=DOCUMENTED)
    assert done.returncode == 0, done.stderr
    assert "this is only shown" not in done.stdout.lower()
    assert done.stdout.count("turn 1 on talker") >= 2
    assert "turn 2 on talker" in done.stdout
    assert {"chat.md", "all.json"} <= {p.name for p in home.work.iterdir()}


def test_a_notice_of_each_turn_is_told_once_for_a_session(home: Home, clinvk: CommandLine):
    home.config("default_backend: echo\n")
    clinvk("session", "--temperature", "0.5")
    done = clinvk("repl", stdin="one\ntwo\n/new\nthree\n")
    assert done.stdout.count("(echo, no model)") == 3
    assert done.stderr.count("'temperature'; dropped (from the stored options)") == 2


def test_the_cost_of_a_copy_names_the_turns_before_it(
    talkers: None, home: Home, clinvk: CommandLine
):
    done = clinvk("repl", stdin="tools\nagain\n/undo\n/cost\nonce more\n/cost\n")
    assert ": 1 turn, 1 of them copied; since then" in done.stdout
    assert ": 2 turns, 1 of them copied; since then 1,000 tokens in" in done.stdout


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("/co", ["/compare", "/copy", "/cost"]), ("/to t", ["talker"]), ("/copy ", ["code"]),
        ("/resume par", ["parser"]), ("/thinking o", ["on", "off"]), ("/nope x", []),
        ("see @n", ["@nested/", "@notes.md"]), ("see @nested/", ["@nested/deep.py"]),
        ("@.", ["@.hidden"]), ("sess", ["sessions", "session"]), ("sessions sh", ["show"]),
        ("plain words", []), (" sessions sh", []),
    ],
)  # fmt: skip
def test_what_can_follow_is_offered(
    talkers: None, home: Home, monkeypatch: pytest.MonkeyPatch, typed: str, offered: list[str]
):
    from prompt_toolkit.completion import CompleteEvent
    from prompt_toolkit.document import Document

    from clinvk.repl.screen.completion import PromptCompleter
    from clinvk.repl.sitting import Sitting

    for name, value in home.env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir("/")  # files are those of the conversation's directory
    (home.work / "nested").mkdir()
    for name in ("notes.md", "nested/deep.py", ".hidden"):
        (home.work / name).touch()
    past(home, "parser")
    with Dispatcher(loading.load(home.env), env=home.env) as dispatcher:
        talk = Conversation(dispatcher, Request(prompt="-", cwd=home.work))
        sitting = Sitting(talk, Lines(), TABLE)  # type: ignore[arg-type]
        found = PromptCompleter(sitting).get_completions(
            Document(typed), CompleteEvent(completion_requested=True)
        )
        assert [c.text for c in found] == offered


class Lines:
    """As much of a command line as completion needs."""

    def names(self) -> list[str]:
        return ["sessions", "session", "config"]

    def complete(self, words: list[str], _incomplete: str) -> list[tuple[str, str]]:
        return [("show", ""), ("list", "")] if words == ["sessions"] else []
