"""The command line as scripts use it: exit codes, prompts, JSON, pipes and signals."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from clinvk.model.session import Message, Session
from clinvk.store import open_store
from tests.conftest import (
    END,
    FAKES,
    READ,
    START,
    TREE,
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
from tests.stores import keep

TURNS = (FAKES / "turns.sh").read_text()
SAYS_PROMPT = (
    """\
prompt=$(cat; echo x); prompt=${prompt%x}
printf '%s' "$prompt" >"$0.prompt"
echo "$@" >"$0.argv"
[ "$1" = resume ] && id=$2 || id=native-1
printf '{"type": "start", "id": "%s"}\\n' "$id"
"""
    + END
)
FOREVER = "while :; do sleep 0.1; done\n"
ESCAPES = "\x1b[31mred\x1b[0m \x1b]2;title\x07 \x9b1m \x1b]8;;http://x\x1b\\link\rover\x08\x00end"


@pytest.fixture
def told(home: Home) -> Callable[[], str]:
    """A backend `fake`; gives the prompt that reached it."""
    program = home.backend("fake", SAYS_PROMPT)
    return program.with_name("fake.prompt").read_text


def past(home: Home, id_: str, days: float = 0, **values: Any) -> Session:
    """A session that was used last so many days ago."""
    when = datetime.now(UTC) - timedelta(days=days)
    values = {"backend": "fake", "cwd": os.path.realpath(home.work), "created_at": when,
              "native_ids": {"fake": f"native-of-{id_}"}, "updated_at": when, **values}  # fmt: skip
    return keep(open_store("file", home.path)).create(Session(id=id_, **values))


# Exit codes


def failing(**line: Any) -> str:
    return READ + START + say(type="end", **line) + "exit 1\n"


EXITS: dict[str, tuple[str, list[str], int]] = {
    "success": (ANSWER := READ + START + END, ["-b", "fake", "hi"], 0),
    "a backend that failed": (READ + "exit 3\n", ["-b", "fake", "hi"], 1),
    "a backend's own code": (READ + "exit 42\n", ["-b", "fake", "hi"], 42),
    "killed": (READ + "kill -9 $$\n", ["-b", "fake", "hi"], 137),
    "no word of success": (READ + START, ["-b", "fake", "hi"], 1),
    "wrong usage": (ANSWER, ["--no-such-option", "hi"], 1),
    "an empty prompt": (ANSWER, ["-b", "fake", ""], 1),
    "not installed": (ANSWER, ["-b", "claude", "hi"], 2),
    "an unknown backend": (ANSWER, ["-b", "nobody", "hi"], 2),
    "no configuration": (ANSWER, ["--config", "/no/such.yaml", "-b", "fake", "hi"], 3),
    "no session": (ANSWER, ["resume", "nothing", "hi"], 4),
    "nothing to continue": (ANSWER, ["-c", "hi"], 4),
    "a lost session": (READ + "echo no such session >&2; exit 1\n", ["-b", "fake", "hi"], 4),
    "a timeout": (READ + START + FOREVER, ["-b", "fake", "--timeout", "0.4", "hi"], 6),
    "the limit": (failing(error="x", status=429), ["-b", "fake", "hi"], 75),
    "no login": (failing(error="x", status=401), ["-b", "fake", "hi"], 1),
    "a server's error": (failing(error="x", status=500), ["-b", "fake", "hi"], 1),
}


@pytest.mark.parametrize(
    ("name", "form"),
    [(name, "text") for name in EXITS]
    + [
        (name, form)
        for name in ("success", "not installed", "a timeout", "a lost session")
        for form in ("json", "stream-json")
    ],
)
def test_an_exit_code_says_what_happened(clinvk: CommandLine, home: Home, name: str, form: str):
    script, args, code = EXITS[name]
    home.backend("fake", script)
    done = clinvk("-o", form, *args) if args[0] != "resume" else clinvk(*args, "-o", form)
    assert done.returncode == code, done
    assert "Traceback" not in done.stderr
    if code:
        assert done.stderr.startswith("clinvk: ")
    if form != "text" and name not in ("wrong usage", "no configuration", "no session",
                                       "nothing to continue", "an empty prompt"):  # fmt: skip
        assert (
            json.loads(done.stdout.splitlines()[-1] if form == "stream-json" else done.stdout)[
                "exit_code"
            ]
            == code
        )


@pytest.mark.parametrize("args", [
    ["sessions", "list", "--nope"], ["sessions", "nope"], ["backends", "nope"], ["config", "nope"],
    ["--timeout", "-1", "-b", "echo", "x"], ["--timeout", "soon", "x"], ["-o", "yaml", "-b", "echo", "x"],
    ["-b"], ["two", "words"], ["sessions", "show"], ["--max-turns", "0", "-b", "echo", "x"],
    ["--approval", "perhaps", "-b", "echo", "x"], ["--option", "novalue", "-b", "echo", "x"],
    ["-b", "echo", "--anywhere", "x"], ["-b", "echo", "-c", "--new", "x"],
    ["-b", "echo", "-c", "--ephemeral", "x"], ["resume", "--last", "--ephemeral", "x"],
    ["-b", "echo", "x", "--file", "y"], ["-b", "echo", "--file", "/no/such/file"],
    ["-b", "echo", "--no-such-flag", "x"], ["-b", "echo", "--modle", "x"], ["completion", "tcsh"],
    ["sessions", "clean", "--older-than", "7x"], ["sessions", "list", "--status", "happy"],
])  # fmt: skip
def test_wrong_usage_is_told_and_exits_with_1(clinvk: CommandLine, home: Home, args: list[str]):
    done = clinvk(*args)
    assert done.returncode == 1, done
    assert done.stdout == ""
    assert re.match(r"clinvk: \S", done.stderr)
    assert "Traceback" not in done.stderr
    assert home.ids() == []


# Prompts


@pytest.mark.parametrize("prompt", [
    "-fix this", "--help me please", "-1 is a number", "- a list\n- of things", "--model is a flag",
    "-b or not -b", "hello world", "\\n $HOME `id` \"'", "é😀\u2028", "a" * 5000, "ask me", "sessions are nice",
])  # fmt: skip
@pytest.mark.parametrize("command", [[], ["ask"]])
def test_a_prompt_reaches_the_backend_as_it_is(
    clinvk: CommandLine, told: Callable, prompt: str, command: list[str]
):
    done = clinvk(*command, "-b", "fake", prompt)
    assert done.returncode == 0, done
    assert told() == prompt


@pytest.mark.parametrize("prompt", ["-fix this", "--last one", "-1 more"])
def test_a_prompt_that_begins_with_a_dash_goes_on_with_a_session(
    clinvk: CommandLine, home: Home, told: Callable, prompt: str
):
    past(home, "s")
    assert clinvk("resume", "s", prompt).returncode == 0
    assert told() == prompt
    assert clinvk("-c", f"{prompt} again").returncode == 0
    assert told() == f"{prompt} again"
    assert clinvk("resume", "--last", f"{prompt} at last").returncode == 0
    assert told() == f"{prompt} at last"


def test_a_lone_word_that_begins_with_a_dash_is_an_option_that_is_refused(
    clinvk: CommandLine, told: Callable
):
    done = clinvk("-b", "fake", "--modle")
    assert done.returncode == 1
    assert "--model" in done.stderr  # what was meant


def test_behind_the_dashes_the_first_word_is_the_prompt_where_there_is_none(
    clinvk: CommandLine, home: Home, told: Callable
):
    assert clinvk("-b", "fake", "--", "-x").returncode == 0
    assert told() == "-x"
    assert clinvk("-b", "fake", "--", "--help", "--verbose").returncode == 0
    assert told() == "--help"
    assert "--verbose" in (home.path.parent / "fakes" / "fake.argv").read_text()


def test_what_stands_behind_the_dashes_is_handed_to_the_backend(
    clinvk: CommandLine, home: Home, told: Callable
):
    assert clinvk("-b", "fake", "hello", "--", "--flag", "-x", "--", "a b").returncode == 0
    assert told() == "hello"
    assert (home.path.parent / "fakes" / "fake.argv").read_text() == "run --flag -x -- a b\n"


def test_on_resume_the_dashes_do_the_same(clinvk: CommandLine, home: Home, told: Callable):
    past(home, "s")
    assert clinvk("resume", "s", "hello", "--", "--flag").returncode == 0
    assert told() == "hello"
    assert "--flag" in (home.path.parent / "fakes" / "fake.argv").read_text()
    assert clinvk("resume", "s", "--", "-x").returncode == 0
    assert told() == "-x"


def test_options_may_stand_anywhere(clinvk: CommandLine, home: Home, told: Callable):
    assert clinvk("hello there", "-b", "fake", "--model", "big", "--max-turns=3").returncode == 0
    assert told() == "hello there"
    argv = (home.path.parent / "fakes" / "fake.argv").read_text()
    assert "--model big --max-turns 3" in argv


def test_the_value_of_an_option_may_begin_with_a_dash(
    clinvk: CommandLine, home: Home, told: Callable
):
    assert clinvk("-b", "fake", "--model", "-odd one", "hello").returncode == 0
    assert told() == "hello"
    assert "-odd one" in (home.path.parent / "fakes" / "fake.argv").read_text()


def test_a_piped_stdin_is_the_prompt_where_there_is_no_other(clinvk: CommandLine, told: Callable):
    assert clinvk("-b", "fake", stdin="from a pipe\n").returncode == 0
    assert told() == "from a pipe\n"


def test_a_dash_alone_is_stdin(clinvk: CommandLine, told: Callable):
    assert clinvk("-b", "fake", "-", stdin="from a pipe").returncode == 0
    assert told() == "from a pipe"


def test_a_dash_behind_a_prompt_puts_stdin_behind_it(clinvk: CommandLine, told: Callable):
    assert clinvk("-b", "fake", "explain this:", "-", stdin="a log\n").returncode == 0
    assert told() == "explain this:\n\na log\n"


def test_a_prompt_can_come_from_a_file(clinvk: CommandLine, home: Home, told: Callable):
    (home.work / "prompt.txt").write_bytes(b"\xef\xbb\xbffrom a file\n")
    assert clinvk("-b", "fake", "--file", "prompt.txt").returncode == 0
    assert told() == "from a file\n"
    assert clinvk("-b", "fake", "--file", "-", stdin="from stdin").returncode == 0
    assert told() == "from stdin"


def test_a_prompt_that_is_no_text_is_refused(clinvk: CommandLine, home: Home, told: Callable):
    (home.work / "image").write_bytes(b"\xff\xd8\xff")
    done = clinvk("-b", "fake", "--file", "image")
    assert done.returncode == 1
    assert "not UTF-8" in done.stderr


def test_a_stdin_that_nobody_asked_for_is_not_read(clinvk: CommandLine, told: Callable):
    read, write = os.pipe()
    try:
        process = clinvk.start("-b", "fake", "hello", stdin=read)
        out, _ = process.communicate(timeout=60)
    finally:
        os.close(write)
        os.close(read)
    assert (process.returncode, out) == (0, "It is done.\n")
    assert told() == "hello"


def test_a_closed_stdin_is_no_problem(clinvk: CommandLine, home: Home, told: Callable):
    command = " ".join([*clinvk.program, "-b", "fake", "hello", "<&-"])
    done = subprocess.run(["sh", "-c", command], env=home.env, cwd=home.work, text=True,
                          capture_output=True, timeout=60, check=False)  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "It is done.\n"), done.stderr


def test_no_prompt_at_all_is_told(clinvk: CommandLine, told: Callable):
    done = clinvk("-b", "fake")  # stdin is /dev/null
    assert done.returncode == 1
    assert "prompt is empty" in done.stderr


def test_a_million_characters_arrive_whole(clinvk: CommandLine, told: Callable):
    text = "é" * 1_000_000
    assert clinvk("-b", "fake", "-", stdin=text).returncode == 0
    assert told() == text


@pytest.mark.parametrize("word", ["sesions", "sessins", "sesssions", "resum", "confg", "docter",
                                  "backend", "verison", "versio"])  # fmt: skip
def test_a_lone_word_that_is_almost_a_command_is_not_sent(
    clinvk: CommandLine, home: Home, told: Callable, word: str
):
    home.config("default_backend: fake")
    done = clinvk(word)
    assert done.returncode == 1
    assert "did you mean" in done.stderr
    assert f"clinvk ask {word}" in done.stderr
    assert home.ids() == []


@pytest.mark.parametrize(
    "args",
    [["sesions please"], ["ask", "sesions"], ["ask", "--", "ls"], ["hello"], ["listen"], ["slow"]],
)
def test_other_words_are_sent(clinvk: CommandLine, home: Home, told: Callable, args: list[str]):
    home.config("default_backend: fake")
    assert clinvk(*args).returncode == 0
    assert told() == args[-1]


# Continue and resume


def test_continue_goes_on_and_says_where_nothing_is(
    clinvk: CommandLine, home: Home, tmp_path: Path
):
    home.backend("fake", TURNS)
    clinvk("-b", "fake", "one")
    (id_,) = home.ids()
    assert clinvk("-c", "two").stdout == "turn 2: two\n"
    elsewhere = clinvk("-c", "three", cwd=tmp_path)
    assert elsewhere.returncode == 4
    assert f"clinvk resume {id_}" in elsewhere.stderr
    assert "--anywhere" in elsewhere.stderr
    assert clinvk("-c", "--anywhere", "three", cwd=tmp_path).stdout == "turn 3: three\n"
    assert (home.path.parent / "fakes" / "cwd").read_text().strip() == os.path.realpath(home.work)


def test_resume_last_goes_on_wherever_it_was(clinvk: CommandLine, home: Home, tmp_path: Path):
    home.backend("fake", TURNS)
    clinvk("-b", "fake", "one")
    assert clinvk("resume", "--last", "two", cwd=tmp_path).stdout == "turn 2: two\n"
    done = clinvk("resume", "--last", "--here", "three", cwd=tmp_path)
    assert done.returncode == 4


def test_last_is_an_id_wherever_one_session_is_read(
    clinvk: CommandLine, home: Home, tmp_path: Path
):
    home.backend("fake", TURNS)
    assert clinvk("-b", "fake", "one").returncode == 0
    (id_,) = home.ids()
    resumed = clinvk("resume", "last", "two", cwd=tmp_path)
    assert (resumed.stdout, resumed.stderr) == ("turn 2: two\n", "")
    assert clinvk.json("sessions", "show", "last", "--json")["id"] == id_
    assert clinvk.json("sessions", "stats", "last", "--json")["id"] == id_
    assert "turn 2" in clinvk("sessions", "export", "last").stdout
    assert clinvk("sessions", "delete", "last", "--yes").returncode != 0  # say which
    assert clinvk("-b", "fake", "--session", "last", "three").returncode == 4  # it is reserved


@pytest.mark.parametrize(("flags", "expected"), [
    ([], "new"), (["--here"], "new"), (["-b", "fake"], "new"), (["-b", "other"], "other"),
    (["--tag", "t"], "tagged"), (["--here", "--tag", "t", "-b", "fake"], "tagged"),
])  # fmt: skip
def test_resume_last_takes_the_newest_that_the_filters_leave(
    clinvk: CommandLine, home: Home, told: Callable, flags: list[str], expected: str
):
    home.backend("other", SAYS_PROMPT)
    past(home, "new", 1)
    past(home, "tagged", 2, tags=("t",))
    past(home, "other", 3, backend="other", native_ids={"other": "native-of-other"})
    past(home, "archived", 0, status="archived")
    past(home, "task", 0, task="run")
    done = clinvk.json("resume", "--last", *flags, "--dry-run", "-o", "json", "go on")
    assert done["session_id"] == expected


@pytest.mark.parametrize("flags", [[], ["--here"], ["-b", "fake"], ["--tag", "t"], ["-i"]])
def test_resume_without_an_id_lists_what_matches_where_there_is_no_terminal(
    clinvk: CommandLine, home: Home, told: Callable, flags: list[str]
):
    past(home, "one", 1, title="The first", tags=("t",))
    past(home, "two", 2, title="The second", tags=("t",))
    done = clinvk("resume", *flags)
    assert done.returncode == 4
    assert done.stdout == ""
    assert done.stderr.index("The first") < done.stderr.index("The second")


def test_resume_without_a_prompt_is_wrong_usage_where_there_is_no_terminal(
    clinvk: CommandLine, home: Home, told: Callable
):
    past(home, "one")
    done = clinvk("resume", "one")
    assert done.returncode == 1
    assert "prompt" in done.stderr


def test_resume_takes_a_prompt_from_a_pipe(clinvk: CommandLine, home: Home, told: Callable):
    past(home, "one")
    assert clinvk("resume", "one", stdin="piped").returncode == 0
    assert told() == "piped"


@pytest.mark.parametrize(
    "command", [["resume"], ["sessions", "show"], ["sessions", "delete", "-y"]]
)
def test_an_ambiguous_prefix_lists_the_candidates(
    clinvk: CommandLine, home: Home, told: Callable, command: list[str]
):
    past(home, "abc1", title="The first")
    past(home, "abc2", title="The second")
    done = clinvk(*command, "abc", *(["hello"] if command == ["resume"] else []))
    assert done.returncode == 4
    assert "abc1" in done.stderr
    assert "The second" in done.stderr
    assert home.ids() == ["abc1", "abc2"]


@pytest.mark.parametrize("name", ["native-of-one", "o", "ONE", "one"])
def test_a_session_is_found_by_id_prefix_and_native_id(clinvk: CommandLine, home: Home, name: str):
    past(home, "one")
    past(home, "two")
    assert clinvk.json("sessions", "show", name, "--json")["id"] == "one"


# What is printed


RUN_KEYS = {
    "version", "backend", "session_id", "native_id", "model", "content", "structured",
    "structured_attempts", "usage", "cost", "duration_seconds", "exit_code", "backend_exit_code", "unrecognized_lines", "denied", "check",
    "error",
}  # fmt: skip


def test_json_is_one_object_of_a_known_shape(clinvk: CommandLine, home: Home):
    home.backend("fake", TURNS)
    data = clinvk.json("-b", "fake", "-o", "json", "hello")
    assert set(data) == RUN_KEYS
    assert data["version"] == 1
    assert data["content"] == "turn 1: hello"
    assert data["session_id"] == home.ids()[0]
    assert data["usage"] == {
        "input": 100, "output": 10, "cached": 20, "cache_write": None, "reasoning": None, "total": 110,
    }  # fmt: skip
    assert data["cost"] == {"usd": 1.0, "source": "reported"}
    assert data["error"] is None


def test_a_failure_in_json_has_the_same_shape(clinvk: CommandLine, home: Home):
    home.backend("fake", failing(error="usage limit reached|1900000000"))
    data = clinvk.json("-b", "fake", "-o", "json", "hello")
    assert set(data) == RUN_KEYS
    assert data["error"] == {
        "kind": "limit", "message": "usage limit reached|1900000000", "hint": None,
        "retry_at": "2030-03-17T17:46:40.000Z",
    }  # fmt: skip


@pytest.mark.parametrize("args", [["-b", "claude", "hi"], ["-b", "fake", "--effort-is-no-option", "x"],
                                  ["-b", "fake", "--option", "effort=1", "x"]])  # fmt: skip
def test_what_fails_before_it_runs_has_the_same_shape_too(
    clinvk: CommandLine, home: Home, args: list[str]
):
    home.backend("fake")
    done = clinvk("-o", "json", *args)
    assert done.returncode in (1, 2)
    if done.stdout:  # options that do not parse are told on stderr alone
        assert set(json.loads(done.stdout)) == RUN_KEYS


def test_stream_json_is_one_event_a_line(clinvk: CommandLine, home: Home):
    script = (
        READ + START + say(type="delta", text="It ") + say(type="text", text="It is.")
        + say(type="tool", id="1", name="Bash", input={"command": "ls"})
        + say(type="denied", name="Bash") + say(type="notice", message="odd") + END
    )  # fmt: skip
    home.backend("fake", script)
    lines = [
        json.loads(x) for x in clinvk("-b", "fake", "-o", "stream-json", "x").stdout.splitlines()
    ]
    assert [x["type"] for x in lines] == [
        "started", "delta", "text", "tool", "denied", "notice", "finished",
    ]  # fmt: skip
    assert all(x["version"] == 1 for x in lines)
    assert all("raw" not in x for x in lines)
    assert set(lines[-1]) == RUN_KEYS | {"type"}
    assert lines[3]["input"] == {"command": "ls"}


def test_stream_json_with_raw_has_the_backends_own_lines(clinvk: CommandLine, home: Home):
    home.backend("fake")
    done = clinvk("-b", "fake", "-o", "stream-json", "--raw", "x")
    lines = [json.loads(x) for x in done.stdout.splitlines()]
    assert lines[0]["raw"] == {"type": "start", "id": "native-1", "model": "made-up-1"}
    assert lines[-1]["raw"]["text"] == "It is done."


def test_text_streams_as_it_comes(clinvk: CommandLine, home: Home, tmp_path: Path):
    gate = tmp_path / "gate"
    wait = f"while [ ! -e {gate} ]; do sleep 0.02; done\n"
    home.backend("fake", READ + START + say(type="delta", text="first ") + wait + END)
    process = clinvk.start("-b", "fake", "hello")
    assert process.stdout.read(6) == "first "
    gate.touch()
    process.communicate(timeout=60)


@pytest.mark.parametrize(("lines", "shown"), [
    (say(type="end", text="All at the end."), "All at the end.\n"),
    (say(type="delta", text="a") + say(type="delta", text="b") + say(type="end"), "ab\n"),
    (say(type="delta", text="a") + say(type="text", text="ab") + say(type="end", text="ab"), "ab\n"),
    (say(type="text", text="one") + say(type="tool", name="t") + say(type="text", text="two")
     + say(type="end", text="two"), "one\n\ntwo\n"),
    (say(type="delta", text="one") + say(type="tool", name="t") + say(type="delta", text="two")
     + say(type="end"), "one\n\ntwo\n"),
    (say(type="end", text="with its newline\n"), "with its newline\n"),
    (say(type="end", text=""), ""),
])  # fmt: skip
def test_an_answer_is_shown_once(clinvk: CommandLine, home: Home, lines: str, shown: str):
    home.backend("fake", READ + START + lines)
    done = clinvk("-b", "fake", "hello")
    assert (done.returncode, done.stdout) == (0, shown)


def test_an_answer_that_came_before_a_failure_is_shown(clinvk: CommandLine, home: Home):
    home.backend("fake", READ + START + END + "exit 1\n")
    done = clinvk("-b", "fake", "hello")
    assert (done.returncode, done.stdout) == (1, "It is done.\n")
    home.backend("fake", READ + START + say(type="denied", name="Bash") + END)
    done = clinvk("-b", "fake", "--fail-on-denied", "hello")
    assert (done.returncode, done.stdout) == (1, "It is done.\n")


def test_a_denied_tool_is_told_on_stderr(clinvk: CommandLine, home: Home):
    home.backend("fake", READ + START + say(type="denied", name="Bash", reason="no") + END)
    done = clinvk("-b", "fake", "hello")
    assert "Bash was denied" in done.stderr
    assert done.stdout == "It is done.\n"


def test_verbose_shows_tools_and_thinking_on_stderr(clinvk: CommandLine, home: Home):
    tool = say(type="tool", name="Bash", input={"command": "ls -l"})
    home.backend("fake", READ + START + say(type="thinking", text="hmm") + tool + END)
    quiet, loud = clinvk("-b", "fake", "x"), clinvk("-b", "fake", "-v", "x")
    assert "ls -l" not in quiet.stderr
    assert "ls -l" in loud.stderr
    assert "hmm" in loud.stderr
    assert loud.stdout == quiet.stdout == "It is done.\n"


def has_sequences(text: str) -> bool:
    return bool(re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", text))


def test_control_sequences_of_an_answer_are_taken_out(clinvk: CommandLine, home: Home):
    pieces = "".join(say(type="delta", text=c) for c in ESCAPES)
    home.backend("fake", READ + START + pieces + say(type="end"))
    in_pieces = clinvk("-b", "fake", "x")
    home.backend("fake", READ + START + say(type="text", text=ESCAPES) + say(type="end"))
    whole = clinvk("-b", "fake", "x")
    assert not has_sequences(in_pieces.stdout)
    assert in_pieces.stdout == whole.stdout == "red   linkoverend\n"


def test_control_sequences_of_an_answer_are_passed_with_raw(clinvk: CommandLine, home: Home):
    home.backend("fake", READ + START + say(type="text", text=ESCAPES) + say(type="end"))
    process = subprocess.run([*clinvk.program, "-b", "fake", "--raw", "x"], env=home.env,
                             cwd=home.work, capture_output=True, timeout=60, check=False)  # fmt: skip
    assert process.stdout.decode() == ESCAPES + "\n"


def test_nothing_that_is_stored_drives_the_terminal(clinvk: CommandLine, home: Home):
    nasty = f"a\nb{ESCAPES}\u202edesrever"
    past(home, "s", title=nasty, prompt=nasty, model=nasty, tags=(nasty,), cwd=f"/x{nasty}",
         native_ids={"fake": nasty}, error={"kind": nasty, "message": nasty})  # fmt: skip
    store = keep(open_store("file", home.path))
    store.append("s", [Message("assistant", nasty)], lambda s: s)
    for args in (["sessions", "list"], ["sessions", "list", "--wide"], ["sessions", "show", "s"],
                 ["sessions", "show", "s", "--messages", "5"], ["resume"],
                 ["resume", "s", "--dry-run", "x", "-b", "fake"], ["-c", "x"]):  # fmt: skip
        done = clinvk(*args)
        assert not has_sequences(done.stdout + done.stderr), args
        assert "\u202e" not in done.stdout if "list" in args else True


def test_nothing_that_a_backend_says_on_stderr_drives_the_terminal(clinvk: CommandLine, home: Home):
    script = (
        READ
        + say(type="notice", message=ESCAPES)
        + say(type="denied", name=ESCAPES, reason=ESCAPES)
    )
    home.backend("fake", script + "printf '\\033]2;x\\007\\033[31mbad\\n' >&2; exit 1\n")
    done = clinvk("-b", "fake", "-v", "x")
    assert "bad" in done.stderr
    assert not has_sequences(done.stderr)


@pytest.mark.parametrize("args", [
    ["-b", "fake", "hi"], ["-b", "claude", "hi"], ["sessions", "list"], ["sessions", "show", "s"],
    ["backends", "list"], ["doctor"], ["config", "show"], ["--help"], ["sessions", "--help"], ["resume"],
])  # fmt: skip
@pytest.mark.parametrize("env", [{"NO_COLOR": "1"}, {"TERM": "xterm-256color"}])
def test_a_pipe_gets_no_escape_sequences(
    clinvk: CommandLine, home: Home, args: list[str], env: dict
):
    home.backend("fake")
    past(home, "s")
    done = clinvk(*args, env=env)
    assert "\x1b" not in done.stdout + done.stderr
    assert "\r" not in done.stdout + done.stderr


def test_a_character_that_the_terminal_lacks_is_no_failure(clinvk: CommandLine, home: Home):
    home.backend("fake", READ + START + say(type="end", text="é😀"))
    env = {"LANG": "C", "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0",
           "PYTHONIOENCODING": "ascii"}  # fmt: skip
    done = clinvk("-b", "fake", "é", env=env)
    assert done.returncode == 0, done.stderr


TABLES = {
    ("sessions", "list", "--json"): {"version", "total", "sessions"},
    ("sessions", "show", "s", "--json"): {
        "id", "backend", "model", "status", "cwd", "title", "native_ids", "native_id", "turns",
        "messages", "usage", "cost", "tags", "parents", "metadata", "created_at", "updated_at",
        "error", "size", "version",
    },
    ("sessions", "clean", "--dry-run", "--json"): {
        "version", "dry_run", "deleted", "interrupted",
    },
    ("backends", "list", "--json"): {"version", "backends"},
    ("backends", "show", "claude", "--json"): {"version", "name", "command", "can", "options"},
    ("config", "show", "--json"): {"version", "path", "settings"},
    ("doctor", "--json"): {"version", "clinvk", "home", "config", "problem", "backends"},
    ("version", "--json"): {"version", "clinvk", "python"},
}  # fmt: skip


@pytest.mark.parametrize("args", TABLES, ids=" ".join)
def test_what_is_shown_as_a_table_is_there_as_json(
    clinvk: CommandLine, home: Home, args: tuple[str, ...]
):
    past(home, "s")
    data = clinvk.json(*args)
    assert TABLES[args] <= set(data)
    assert data["version"] == 1


# Who reads the output goes away


@pytest.mark.parametrize("form", ["text", "stream-json"])
def test_a_reader_that_goes_away_ends_the_run(
    clinvk: CommandLine, home: Home, tmp_path: Path, form: str
):
    pid = tmp_path / "pid"
    script = f"echo $$ >{pid}\n" + READ + START + 'yes \'{"type": "delta", "text": "x \\n"}\'\n'
    home.backend("fake", script)
    command = " ".join([*clinvk.program, "-b", "fake", "-o", form, "x"])
    done = subprocess.run(["bash", "-c", f"{command} | head -1 >/dev/null; echo ${{PIPESTATUS[0]}}"],
                          env=home.env, cwd=home.work, capture_output=True, text=True,
                          timeout=60, check=False)  # fmt: skip
    assert "Traceback" not in done.stderr
    assert "BrokenPipe" not in done.stderr
    assert done.stdout.strip() == "7"
    assert not is_alive(pid_in(pid))


def test_a_reader_of_a_table_may_go_away(clinvk: CommandLine, home: Home):
    for i in range(300):
        past(home, f"s{i}", title="x" * 60)
    for args in ("sessions list", "config show", "--help", "backends list", "sessions", "runs"):
        command = " ".join([*clinvk.program, args])
        done = subprocess.run(["bash", "-c", f"{command} | head -1 >/dev/null"], env=home.env,
                              cwd=home.work, capture_output=True, text=True, timeout=60, check=False)  # fmt: skip
        assert done.stderr == "", args


def test_an_output_that_cannot_be_written_is_told(clinvk: CommandLine, home: Home):
    home.backend("fake")
    with Path("/dev/full").open("w") as full:
        process = clinvk.start("-b", "fake", "x", stdout=full)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "No space left" in err
    assert "Traceback" not in err


# Signals


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("form", ["text", "json", "stream-json"])
def test_a_signal_ends_the_whole_tree(
    clinvk: CommandLine, home: Home, tree: Path, number: signal.Signals, form: str
):
    home.backend("fake", stubborn(tree))
    process = clinvk.start("-b", "fake", "-o", form, "x")
    wait_for(lambda: home.ids() and home.record()["native_ids"])
    assert living(tree) == list(TREE)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 7
    assert living(tree) == []
    assert "cancelled" in err
    assert f"clinvk resume {home.ids()[0]}" in err
    if form == "json":
        assert json.loads(out)["error"]["kind"] == "cancelled"
    assert home.record()["error"]["kind"] == "cancelled"


def test_a_second_signal_ends_it_at_once(clinvk: CommandLine, home: Home, tree: Path):
    asked = tree.parent / "asked"
    polite = f"(trap ': >{asked}' TERM; while :; do sleep 0.05; done) &\n"
    home.backend("fake", polite + stubborn(tree))
    process = patient(home, "-b", "fake", "x")
    wait_for(lambda: home.ids() and home.record()["native_ids"])
    living(tree)
    process.send_signal(signal.SIGINT)
    wait_for(asked.exists, "the question")
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)  # less than what one that is asked once is waited for
    assert process.returncode == 7
    assert living(tree) == []


def test_a_signal_before_the_first_word_ends_it_too(
    clinvk: CommandLine, home: Home, tmp_path: Path
):
    pid = tmp_path / "pid"
    home.backend("fake", f"echo $$ >{pid}\n{FOREVER}")
    process = clinvk.start("-b", "fake", "x")
    number = pid_in(pid)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 7
    assert not is_alive(number)


def test_a_signal_while_it_waits_for_another_turn_gives_up(clinvk: CommandLine, home: Home):
    past(home, "s")
    home.backend("fake")
    turn = keep(open_store("file", home.path)).acquire_turn("s")
    try:
        process = clinvk.start("resume", "s", "x")
        assert "waiting" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    finally:
        turn.close()
    assert process.returncode == 7
    assert "cancelled" in err


def test_under_nohup_a_hangup_does_not_end_it(clinvk: CommandLine, home: Home, tmp_path: Path):
    gate = tmp_path / "gate"
    home.backend("fake", READ + START + f"while [ ! -e {gate} ]; do sleep 0.02; done\n" + END)
    process = clinvk.start(
        "-b", "fake", "x", preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN)
    )
    wait_for(lambda: home.ids() and home.record()["native_ids"])
    process.send_signal(signal.SIGHUP)
    time.sleep(0.3)
    gate.touch()
    out, _ = process.communicate(timeout=60)
    assert (process.returncode, out) == (0, "It is done.\n")


def test_a_signal_is_told_to_the_backend_as_its_manifest_says(
    clinvk: CommandLine, home: Home, tmp_path: Path
):
    trap = f'for s in INT TERM; do trap "echo $s >{tmp_path}/got; exit 0" $s; done\n'
    home.backend("fake", trap + READ + START + FOREVER, stop="SIGINT")
    process = clinvk.start("-b", "fake", "x")
    wait_for(lambda: home.ids() and home.record()["native_ids"])
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert (tmp_path / "got").read_text() == "INT\n"


# Sessions


def test_an_empty_list_says_so(clinvk: CommandLine, home: Home):
    done = clinvk("sessions", "list")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "no sessions\n")
    assert clinvk.json("sessions", "list", "--json")["sessions"] == []


def test_the_list_has_its_columns_and_the_newest_first(clinvk: CommandLine, home: Home):
    past(home, "old", 40, title="The old one")
    past(home, "new", 0, prompt="the new one", usage=None)
    past(home, "mid", 2, backend="claude", native_ids={}, status="error")
    lines = clinvk("sessions", "list").stdout.splitlines()
    assert lines[0].split("  ")[0] == "ID"
    assert re.split(r"\s{2,}", lines[0]) == [
        "ID", "BACKEND", "STATUS", "LAST USED", "TOKENS", "TITLE/PROMPT",
    ]  # fmt: skip
    assert [line.split()[0] for line in lines[1:]] == ["new", "mid", "old"]
    assert re.search(r"just now|\d+s ago", lines[1])
    assert "2d ago" in lines[2]
    assert "error" in lines[2]
    assert re.search(r"40d ago\s+-\s+The old one", lines[3])


def test_tokens_have_thousands_separators(clinvk: CommandLine, home: Home):
    home.backend(
        "fake", READ + START + say(type="end", text="x", usage={"input": 1234567, "output": 1})
    )
    clinvk("-b", "fake", "x")
    assert "1,234,568" in clinvk("sessions", "list").stdout
    assert clinvk.json("sessions", "list", "--json")["sessions"][0]["usage"]["total"] == 1_234_568


def test_wide_adds_number_messages_folder_and_a_footer(clinvk: CommandLine, home: Home):
    past(home, "a", counts={"user": 2, "assistant": 1})
    past(home, "b", 1)
    lines = clinvk("sessions", "list", "--wide").stdout.splitlines()
    assert "MESSAGES" in lines[0]
    assert "DIRECTORY" in lines[0]
    assert lines[1].startswith("1 ")
    assert str(home.work) in lines[1]
    assert lines[-1] == "Total: 2 sessions"


FILTERS = {
    ("-b", "claude"): ["b"], ("--status", "error"): ["c"], ("--tag", "t"): ["a", "c"], ("-n", "2"): ["a", "b"],
    ("--here",): ["a", "b"], ("--metadata", "ticket=7"): ["a"], ("--tag", "t", "--here"): ["a"],
    ("--status", "completed"): [],
}  # fmt: skip


@pytest.mark.parametrize("flags", FILTERS, ids=" ".join)
def test_the_list_is_filtered(clinvk: CommandLine, home: Home, flags: tuple[str, ...]):
    past(home, "a", 1, tags=("t",), metadata={"ticket": 7})
    past(home, "b", 2, backend="claude")
    past(home, "c", 3, tags=("t",), status="error", cwd="/elsewhere")
    found = clinvk.json("sessions", "list", "--json", *flags)["sessions"]
    assert [s["id"] for s in found] == FILTERS[flags]


def test_an_unknown_status_names_the_valid_ones(clinvk: CommandLine, home: Home):
    done = clinvk("sessions", "list", "--status", "happy")
    assert "invalid status filter" in done.stderr
    for status in ("active", "error", "completed", "paused", "archived"):
        assert status in done.stderr


def test_session_is_another_word_for_sessions(clinvk: CommandLine, home: Home):
    past(home, "a")
    assert clinvk("session", "list").stdout == clinvk("sessions", "list").stdout


def test_show_tells_everything_of_a_session(clinvk: CommandLine, home: Home):
    home.backend("fake", TURNS)
    clinvk("-b", "fake", "--title", "My title", "--tag", "a", "--tag", "b", "hello")
    (id_,) = home.ids()
    text = clinvk("sessions", "show", id_).stdout
    fields = dict(re.findall(r"^([A-Z][A-Za-z ]+?):\s+(.*)$", text, re.MULTILINE))
    assert fields["ID"] == id_
    assert fields["Backend"] == "fake"
    assert fields["Model"] == "made-up-1"
    assert fields["Status"] == "active"
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", fields["Created"])
    assert re.fullmatch(r"\d{4}-\S+ \S+ \((just now|\d+s ago)\)", fields["Last Used"])
    assert fields["Working Directory"] == os.path.realpath(home.work)
    assert fields["Backend Session"].startswith("native-")
    assert fields["Turns"] == "1"
    assert fields["Token Usage"] == "Input 100, Output 10, Cached 20, Total 110"
    assert fields["Tags"] == "[a, b]"
    assert fields["Title"] == "My title"
    assert fields["Messages"] == "2 (user 1, assistant 1)"
    assert re.fullmatch(r"[\d.]+ (B|KB)", fields["Storage Size"])
    shown = clinvk("sessions", "show", id_, "--messages", "1").stdout
    assert "turn 1: hello" in shown
    assert "hello\n" not in shown.replace("turn 1: hello\n", "")


def test_show_in_json_counts_the_turns(clinvk: CommandLine, home: Home):
    home.backend("fake", TURNS)
    clinvk("-b", "fake", "hello")
    data = clinvk.json("sessions", "show", home.ids()[0], "--json", "--messages", "9")
    assert data["turns"] == 1
    assert data["usage"]["input"] == 100
    assert [m["content"] for m in data["recent"]] == ["hello", "turn 1: hello"]


def test_delete_prints_what_is_gone(clinvk: CommandLine, home: Home):
    past(home, "a")
    past(home, "b")
    done = clinvk("sessions", "delete", "a", "b", "--yes")
    assert done.stdout == "Session a deleted.\nSession b deleted.\n"
    assert home.ids() == []


def test_delete_does_not_ask_where_nobody_is(clinvk: CommandLine, home: Home):
    past(home, "a")
    done = clinvk("sessions", "delete", "a")
    assert done.returncode == 1
    assert "--yes" in done.stderr
    assert home.ids() == ["a"]


def test_delete_of_several_goes_on_behind_an_unknown_one(clinvk: CommandLine, home: Home):
    past(home, "a")
    past(home, "b")
    done = clinvk("sessions", "delete", "a", "nobody", "b", "-y")
    assert done.returncode == 4
    assert home.ids() == []


@pytest.mark.parametrize(("age", "words", "gone"), [
    ("30d", "30 days", ["d40"]), ("30", "30 days", ["d40"]), ("12h", "12 hours", ["d3", "d40"]),
    ("2w", "2 weeks", ["d40"]), ("1d", "1 day", ["d3", "d40"]), ("1w", "1 week", ["d40"]),
])  # fmt: skip
def test_clean_deletes_what_was_not_used_for_so_long(
    clinvk: CommandLine, home: Home, age: str, words: str, gone: list[str]
):
    for days in (0, 3, 40):
        past(home, f"d{days}", days, created_at=datetime(2020, 1, 1, tzinfo=UTC))
    dry = clinvk("sessions", "clean", "--older-than", age, "--dry-run")
    assert dry.stdout.splitlines()[:-1] == gone
    assert len(home.ids()) == 3
    done = clinvk("sessions", "clean", "--older-than", age)
    assert done.stdout == f"Deleted {len(gone)} session(s) older than {words}.\n"
    assert not set(home.ids()) & set(gone)
    again = clinvk("sessions", "clean", "--older-than", age)
    assert (again.returncode, again.stdout, again.stderr) == (0, "", "no sessions to clean\n")


@pytest.mark.parametrize("how", ["--dry-run", "--yes"])
def test_clean_names_the_sessions_that_it_keeps(clinvk: CommandLine, home: Home, how: str):
    for id_ in ("idle", "cut-off", "running"):
        past(home, id_, 40)
    store = keep(open_store("file", home.path))
    turns = [store.acquire_turn(id_) for id_ in ("cut-off", "running")]
    for turn in turns:
        assert turn is not None
        turn.note({"run": "x"})
    assert turns[0] is not None
    turns[0].abandon()
    done = clinvk("sessions", "clean", how)
    assert done.stdout.endswith(" 1 session(s) older than 30 days.\n")
    assert done.stderr == (
        "clinvk: kept 1 session whose last turn was interrupted; "
        "delete with: clinvk sessions delete cut-off\n"
    )
    assert turns[1] is not None
    turns[1].close()


@pytest.mark.parametrize(
    ("days", "left"), [(0, ["a", "b"]), (30, ["a"]), (1, ["a"]), (50, ["a", "b"])]
)
def test_clean_without_an_age_keeps_to_the_configuration(
    clinvk: CommandLine, home: Home, days: int, left: list[str]
):
    past(home, "a")
    past(home, "b", 40)
    home.config(f"session: {{retention_days: {days}}}")
    assert clinvk("sessions", "clean").returncode == 0
    assert home.ids() == left


@pytest.mark.parametrize("age", ["7x", "", "d", "-1", "1.5d", "30m"])
def test_an_age_that_is_none_is_an_error_and_deletes_nothing(
    clinvk: CommandLine, home: Home, age: str
):
    past(home, "a", 400)
    done = clinvk("sessions", "clean", "--older-than", age)
    assert done.returncode == 1, done
    assert home.ids() == ["a"]


def test_clean_leaves_a_running_one(clinvk: CommandLine, home: Home):
    past(home, "a", 40)
    turn = keep(open_store("file", home.path)).acquire_turn("a")
    try:
        assert clinvk("sessions", "clean", "--older-than", "1d").returncode == 0
    finally:
        turn.close()
    assert home.ids() == ["a"]


# Options


def test_dry_run_prints_the_command_quoted_and_where_settings_come_from(
    clinvk: CommandLine, home: Home
):
    home.backend("fake", SAYS_PROMPT)
    folder = home.work / "a b"
    folder.mkdir()
    home.config("backends: {fake: {model: from-file, env: {SECRET: abc}}}")
    done = clinvk(
        "-b", "fake", "--dry-run", "--add-dir", str(folder), "--approval", "auto", "hello"
    )
    assert done.returncode == 0
    first = done.stdout.splitlines()[0]
    assert f"'{folder}'" in first
    assert "--model from-file" in first
    assert re.search(r"# model: from-file +\(.*config\.yaml\)", done.stdout)
    assert re.search(r"# approval: auto +\(command line\)", done.stdout)
    assert "abc" not in done.stdout
    assert home.ids() == []
    assert not (home.path / "locks").exists()
    data = clinvk.json("-b", "fake", "--dry-run", "-o", "json", "hello")
    assert data["prompt"] == "hello"
    assert data["env"]["SECRET"] != "abc"


def test_a_dry_run_can_be_pasted_into_a_shell(clinvk: CommandLine, home: Home):
    program = home.backend("fake", SAYS_PROMPT, env={"A": "x y", "PATH_X": None})
    line = clinvk("-b", "fake", "--dry-run", "--model", "it's", "hello").stdout.splitlines()[0]
    subprocess.run(["sh", "-c", line], stdin=subprocess.DEVNULL, env=home.env, check=True,
                   capture_output=True)  # fmt: skip
    assert program.with_name("fake.argv").read_text() == "run --model it's\n"


def test_workdir_is_where_the_program_runs(clinvk: CommandLine, home: Home, tmp_path: Path):
    home.backend("fake", TURNS)
    (tmp_path / "there").mkdir()
    assert clinvk("-b", "fake", "-w", str(tmp_path / "there"), "x").returncode == 0
    assert (home.path.parent / "fakes" / "cwd").read_text().strip() == str(tmp_path / "there")
    assert home.record()["cwd"] == str(tmp_path / "there")
    assert clinvk("-b", "fake", "-w", "/no/such", "x").returncode == 1


def test_a_schema_that_is_no_json_is_told(clinvk: CommandLine, home: Home):
    home.backend("fake")
    (home.work / "schema.json").write_text("{")
    done = clinvk("-b", "fake", "--schema", "schema.json", "x")
    assert done.returncode == 3
    assert "not JSON" in done.stderr


def test_the_footer_shows_tokens_and_time_where_it_is_wanted(clinvk: CommandLine, home: Home):
    home.backend("fake", TURNS)
    home.config("output: {show_tokens: true, show_timing: true}")
    done = clinvk("-b", "fake", "x")
    assert re.search(r"100 tokens in, 10 out · \$1.0000 as reported · \d+\.\d s", done.stderr)
    assert done.stdout == "turn 1: x\n"


@pytest.mark.parametrize("args", [["--version"], ["version"]])
def test_the_version_is_told(clinvk: CommandLine, args: list[str]):
    import clinvk as package

    assert clinvk(*args).stdout == f"clinvk {package.__version__}\n"


@pytest.mark.parametrize("args", [["--help"], ["-h"], ["ask", "--help"], ["resume", "-h"], ["sessions", "-h"],
                                  ["sessions", "list", "-h"], ["config", "-h"], ["doctor", "-h"]])  # fmt: skip
def test_help_is_there_everywhere(clinvk: CommandLine, args: list[str]):
    done = clinvk(*args)
    assert done.returncode == 0
    assert "Usage" in done.stdout or "usage" in done.stdout
    assert done.stderr == ""


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_completion_script_is_printed(clinvk: CommandLine, shell: str):
    done = clinvk("completion", shell)
    assert done.returncode == 0
    assert "_CLINVK_COMPLETE" in done.stdout


def test_completion_completes_commands_and_sessions(clinvk: CommandLine, home: Home):
    past(home, "abc123")
    env = {"_CLINVK_COMPLETE": "complete_bash", "COMP_WORDS": "clinvk sess", "COMP_CWORD": "1"}
    assert "sessions" in clinvk(env=env).stdout.split()
    env |= {"COMP_WORDS": "clinvk sessions show a", "COMP_CWORD": "3"}
    assert clinvk(env=env).stdout.split() == ["abc123"]


def test_no_command_leaves_threads_or_warnings(clinvk: CommandLine, home: Home):
    home.backend("fake")
    done = subprocess.run([sys.executable, "-X", "dev", "-W", "error", "-m", "clinvk", "-b", "fake", "x"],
                          env=home.env, cwd=home.work, capture_output=True, text=True,
                          stdin=subprocess.DEVNULL, timeout=60, check=False)  # fmt: skip
    # asyncio tells of slow steps there, and a busy machine is slow.
    told = [line for line in done.stderr.splitlines() if not line.startswith("Executing <")]
    assert (done.returncode, told) == (0, [])
    assert threading.active_count() >= 1


ENCODINGS = {
    "ascii": {"PYTHONIOENCODING": "ascii"},
    "latin-1": {"PYTHONIOENCODING": "latin-1"},
    "the C locale": {"PYTHONUTF8": "0", "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0"},
}


@pytest.mark.parametrize("env", ENCODINGS.values(), ids=ENCODINGS)
def test_echo_reads_and_writes_utf8_whatever_the_environment_says(
    clinvk: CommandLine, home: Home, env: dict[str, str]
):
    prompt = home.work / "prompt"
    prompt.write_text("é ü 漢", encoding="utf-8")
    done = subprocess.run(
        [*clinvk.program, "-b", "echo", "--file", str(prompt)],
        env={**home.env, **env}, stdin=subprocess.DEVNULL, capture_output=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, b"")
    assert [m["content"] for m in home.transcript()] == [
        "é ü 漢", "(echo, no model) Turn 1. You said: é ü 漢",
    ]  # fmt: skip


@pytest.mark.parametrize("args", [["-b", "echo", "hi"], ["-b", "echo", "-o", "json", "hi"],
                                  ["sessions", "list"], ["version"]])  # fmt: skip
def test_output_that_cannot_be_written_since_stdout_is_closed_is_a_failure(
    clinvk: CommandLine, home: Home, args: list[str]
):
    assert clinvk("-b", "echo", "hello").returncode == 0  # so that there is a session to list
    line = ["bash", "-c", '"$@" >&-', "bash", *clinvk.program, *args]
    done = subprocess.run(line, env=home.env, stdin=subprocess.DEVNULL, capture_output=True,
                          text=True, check=False)  # fmt: skip
    assert done.returncode == 1
    assert done.stderr == "clinvk: stdout is closed: the output cannot be written\n"
