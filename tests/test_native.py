"""`--native`: the CLI's own screen, on a session of clinvk."""

import re
import shlex
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pexpect
import psutil
import pytest
from msgspec.structs import replace

from clinvk.cmd.drive.screen import check_native
from clinvk.cmd.options.prompt_flags import PromptFlags
from clinvk.errors import UsageError
from clinvk.model.session import Message, MessageRole
from clinvk.sessions.native import KNOWN, READERS, NativeSession, reader_for
from clinvk.sessions.native.since import new_messages
from tests.conftest import (
    BASH,
    FAKES,
    PROJECT,
    CommandLine,
    Home,
    is_alive,
    wait_for,
    write_program,
)
from tests.terminals import WAIT, Terminal, ending

NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)
READY = "ready>"


@pytest.fixture
def claude(home: Home) -> Home:
    """A home in which `claude` is a made-up CLI with a screen."""
    program = home.path.parent / "bin" / "claude"
    words = f'{shlex.quote(sys.executable)} {shlex.quote(str(FAKES / "screen.py"))} "$@"'
    write_program(program, f"#!/bin/sh\nexec {words}\n")
    home.env["PATH"] = f"{program.parent}:{home.env['PATH']}"
    return home


@pytest.fixture
def shell(claude: Home) -> Iterator[pexpect.spawn]:
    """bash, which controls jobs."""
    env = {**claude.env, "TERM": "xterm", "PS1": "$ "}
    settings: dict[str, Any] = {"encoding": "utf-8", "dimensions": (30, 100), "timeout": WAIT}
    child = pexpect.spawn(
        BASH, ["--norc", "--noprofile", "-i"], cwd=str(claude.work), env=env, **settings
    )
    child.sendline(f"clinvk() {{ {shlex.quote(sys.executable)} -m clinvk \"$@\"; }}; echo be''gin")
    child.expect("begin")
    yield child
    child.close(force=True)


def contents(home: Home) -> list[str]:
    return [line["content"] for line in home.transcript()]


def test_what_was_said_in_the_screen_of_a_cli_is_added_to_the_session(
    claude: Home, terminal: Terminal, clinvk: CommandLine
):
    child = terminal("--native", "-b", "claude", "--model", "opus", width=97)
    child.expect("screen of 97 columns, 0 known")
    child.expect(r"'--session-id', '([0-9a-f-]{36})', '--model', 'opus'")
    assert isinstance(child.match, re.Match)
    native_id = child.match[1]
    for line in ("hello", "and more", "quit 3"):
        child.expect(READY)
        child.sendline(line)
    shown, code = ending(child)
    assert code == 3  # of the CLI
    assert "4 messages added to session" in shown
    record = claude.record()
    assert f'clinvk resume {record["id"]} "your prompt"' in " ".join(shown.split())
    assert record["native_ids"] == {"claude": native_id}
    assert (record["turns"], record["counts"]) == (2, {"user": 2, "assistant": 2})
    assert record["prompt"] == "hello"

    child = terminal("resume", record["id"], "--native")
    child.expect("4 known, .'--resume', '" + native_id)
    child.sendline("a third")
    child.expect("answer to")
    busy = clinvk("resume", record["id"], "--no-wait", "now")
    assert (busy.returncode, "is running" in busy.stderr) == (4, True)
    child.sendline("undo")
    child.sendline("another third")
    child.expect("answer to another third")
    child.sendline("clear")
    child.sendline("of something else")
    child.expect("answer to of")
    child.sendline("quit")
    shown, code = ending(child)
    assert code == 0
    assert "2 messages added" in shown
    assert "claude also used its session" in " ".join(shown.split())
    thirds = ["another third", "answer to another third"]
    assert contents(claude) == [
        "hello",
        "answer to hello",
        "and more",
        "answer to and more",
        *thirds,
    ]
    assert claude.record()["native_ids"] == {"claude": native_id}

    child = terminal("resume", "--last", "--native")
    child.expect(READY)
    child.sendline("quit")
    assert f"no messages added to session {record['id']}" in ending(child)[0]
    assert len(contents(claude)) == 6


def test_a_screen_in_which_nothing_was_said_leaves_no_session(claude: Home, terminal: Terminal):
    child = terminal("chat", "--native", "-b", "claude")
    child.expect(READY)
    child.sendline("quit 1")
    shown, code = ending(child)
    assert (code, "nothing was said" in shown) == (1, True)
    assert claude.ids() == []


def test_a_cli_that_cannot_be_started_leaves_no_session(claude: Home, terminal: Terminal):
    program = claude.path.parent / "bin" / "claude"
    write_program(program, "#!/nonexistent/interpreter\n")
    shown, code = ending(terminal("--native", "-b", "claude"))
    assert (code, "'/nonexistent/interpreter', the interpreter" in " ".join(shown.split())) == (
        2,
        True,
    )
    program.unlink()  # as if it had been uninstalled
    shown, code = ending(terminal("--native", "-b", "claude"))
    assert (code, "is not installed" in shown) == (2, True)
    assert claude.ids() == []


def test_a_conversation_that_was_started_over_in_a_new_screen_is_the_session(
    claude: Home, terminal: Terminal
):
    child = terminal("--native", "-b", "claude")
    child.expect(READY)
    child.sendline("clear")
    child.sendline("hello")
    child.expect("answer")
    child.sendline("quit")
    assert "2 messages added" in ending(child)[0]
    (known,) = (claude.path.parent / "user").glob(".claude/projects/p/*.jsonl")
    assert claude.record()["native_ids"] == {"claude": known.stem}


@pytest.mark.parametrize("how", ["stop", "stop-all"])  # the CLI alone, or all of its group
def test_the_screen_is_suspended_and_continued_like_any_job(
    claude: Home, shell: pexpect.spawn, how: str
):
    shell.sendline("clinvk --native -b claude")
    shell.expect(READY)
    shell.sendline(how)
    shell.expect("Stopped")
    shell.sendline("fg; echo code $?.")
    shell.expect(READY)
    shell.sendline("hello")
    shell.expect("answer to hello")
    shell.sendline("quit 5")
    shell.expect("2 messages added")
    shell.expect("code 5\\.")
    assert contents(claude) == ["hello", "answer to hello"]


def test_the_terminal_is_restored_if_the_cli_is_killed(claude: Home, shell: pexpect.spawn):
    shell.sendline("stty -a > before; clinvk --native -b claude; echo code $?.")
    shell.expect(READY)
    shell.sendline("hello")
    shell.expect("answer to hello")
    shell.sendline("crash")
    shell.expect("in raw mode")
    shell.expect_exact("\x1b[?1049l")
    shell.expect("claude was ended by signal 9")
    shell.expect("2 messages added")
    shell.expect("code 137\\.")
    shell.sendline("stty -a > after; echo be''fore")
    shell.expect("before")
    assert (claude.work / "after").read_text() == (claude.work / "before").read_text()


def test_a_terminal_that_closes_ends_the_screen_and_loses_nothing(
    claude: Home, terminal: Terminal, clinvk: CommandLine
):
    child = terminal("--native", "-b", "claude")
    child.expect(READY)
    child.sendline("hello")
    child.expect("answer to hello")
    ours = psutil.Process(child.pid)
    started = ours.children(recursive=True)
    child.close(force=False)  # the terminal
    wait_for(lambda: not ours.is_running() or ours.status() == psutil.STATUS_ZOMBIE)
    wait_for(lambda: not any(p.is_running() for p in started))
    assert contents(claude) == ["hello", "answer to hello"]
    assert clinvk("sessions", "delete", "--yes", *claude.ids()).returncode == 0  # none runs


def test_a_screen_whose_clinvk_was_killed_is_ended_by_the_next_turn(
    claude: Home, shell: pexpect.spawn
):
    shell.sendline("clinvk --native -b claude")
    shell.expect(READY)
    shell.sendline("hello")
    shell.expect("answer to hello")
    (ours,) = psutil.Process(shell.pid).children()
    (screen,) = ours.children()
    ours.kill()
    shell.expect("Killed")
    shell.sendline("stop")  # the next line may still go to the screen
    shell.sendline("clinvk resume --last --native")
    shell.expect("was interrupted")
    shell.expect("2 known")
    assert not is_alive(screen.pid)
    shell.expect(READY)
    shell.sendline("again")
    shell.expect("answer to again")
    shell.sendline("quit")
    shell.expect("2 messages added")
    assert contents(claude) == ["again", "answer to again"]


FLAGS = {name: False if "bool" in str(kind) else None for name, kind in PromptFlags.__annotations__.items()}  # fmt: skip


@pytest.mark.parametrize(
    ("flags", "others", "words", "said"),
    [
        ({}, {}, ["hello"], "--native takes no prompt"),
        ({"timeout": "5m"}, {}, None, "--timeout and --native"),
        ({"as_json": True}, {}, None, "--json and --native"),
        ({"output_format": "json"}, {}, [], "--output-format and --native"),
        ({"ephemeral": True}, {}, None, "--ephemeral and --native"),
        ({"worktree": True}, {}, None, "--worktree and --native"),
        ({"to": "codex"}, {}, None, "--to and --native"),
        ({}, {"--file": "x", "--edit": False}, None, "--file and --native"),
        ({}, {}, None, "--native needs a terminal"),
    ],
)
def test_what_a_screen_cannot_do_is_rejected_by_name(
    flags: dict[str, Any], others: dict[str, Any], words: list[str] | None, said: str
):
    with pytest.raises(UsageError, match=said):
        check_native(PromptFlags(**{**FLAGS, "options": {}, **flags}), others, words)


def test_an_option_that_the_screen_lacks_is_rejected_by_name(claude: Home, clinvk: CommandLine):
    (claude.work / "any.json").write_text("{}")
    for words, said in [
        (["claude", "--max-turns", "3"], "claude does not support --max-turns: its own screen"),
        (["claude", "--schema", "any.json"], "--schema and --native cannot"),
        (["claude", "--schema-retries", "3"], "--schema-retries and --native cannot"),
        (["claude", "--memory"], "--memory and --native cannot"),
        (["claude", "--planning"], "--permission-mode plan"),
        (["echo"], "echo: its manifest does not say how its own screen is opened"),
        (["claude", "--option", "effort=low", "--", "--bare"], "--effort low --bare"),
    ]:
        done = clinvk("--native", "--dry-run", "-b", *words)
        assert said in " ".join((done.stdout + done.stderr).split()), words
    assert claude.ids() == []


def test_a_session_that_the_cli_has_not_seen_is_not_opened(claude: Home, terminal: Terminal, clinvk: CommandLine):  # fmt: skip
    clinvk("-b", "echo", "--session", "talk", "hello")
    clinvk("sessions", "edit", "talk", "--status", "active")
    child = terminal("--native", "--session", "talk", "-b", "claude")
    shown, code = ending(child)
    assert code == 4
    assert "has no session of claude yet" in " ".join(shown.split())


@pytest.mark.parametrize("backend", sorted({*KNOWN} - {*READERS}))
def test_a_session_of_a_newer_cli_is_read(backend: str):
    user = PROJECT / "tests" / "recordings" / "native" / backend
    reader = reader_for(backend)
    (path,) = reader.find_files({"HOME": str(user)})
    native = reader.read_session(path)
    assert native is not None
    assert native.native_id == reader.find_native_id(path)
    assert (native.cwd, native.model) == ("/home/somebody/project", "made-up")
    assert [(m.role.value, m.content.strip()) for m in native.messages] == [
        ("user", "hello there"),
        ("assistant", "answer 1 to: hello there | began with: hello there"),
        ("user", "and now?"),
        ("assistant", "answer 2 to: and now? | began with: hello there"),
    ]
    assert native.created < native.updated
    assert native.problems == ()


U, A = MessageRole.USER, MessageRole.ASSISTANT


@pytest.mark.parametrize(
    ("before", "after", "new"),
    [
        ("", "hi+ yes+", "hi yes"),
        ("hi yes", "hi yes", ""),
        ("hi yes", "hi yes more+ sure+", "more sure"),
        ("hi yes", "hi yes more+", "more"),  # interrupted
        ("hi yes more sure", "hi yes other+ well+", "other well"),  # undone
        ("hi yes more sure", "hi yes", ""),  # undone, and nothing else
        ("hi yes more sure", "summary fine new+ ok+", "new ok"),  # shortened
        ("hi yes", "summary+ fine+ new+ ok+", "summary fine new ok"),
        ("hi yes", "hi yes|and|on+", "and|on"),  # a piece without a prompt between them
        ("", "", ""),
    ],
)
def test_only_new_messages_count(before: str, after: str, new: str):
    assert [m.content.replace("\n\n", "|") for m in new_messages(native(before), native(after), NOON)] == new.split()  # fmt: skip


def native(words: str) -> NativeSession | None:
    """A session whose messages take turns; those with a + were said in the screen."""
    if not words:
        return None
    messages = [
        Message((U, A)[i % 2], w.rstrip("+").replace("|", "\n\n"), NOON + timedelta(hours=1 if w[-1] == "+" else -1))
        for i, w in enumerate(words.split())
    ]  # fmt: skip
    return replace(NativeSession(backend="claude", native_id="n", cwd=None, messages=messages))
