"""Standard input is read on request only, and what is not read is reported."""

import os
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from tests.conftest import ANSWER, CommandLine, Home, wait_for
from tests.terminals import Terminal, ending

NOT_READ = "clinvk: standard input was not read; add - to append it\n"
SAYS_PROMPT = 'cat >"$0.prompt"\n' + ANSWER
WAITS = ': >"$0.runs"; cat >/dev/null; until [ -e "$0.go" ]; do sleep 0.02; done\n' + ANSWER


@pytest.fixture
def prompt(home: Home) -> Callable[[], str]:
    """A backend `fake`; returns the prompt that it got."""
    program = home.backend("fake", SAYS_PROMPT)
    return program.with_name("fake.prompt").read_text


@contextmanager
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    try:
        yield ends
    finally:
        for end in ends:
            os.close(end)


@pytest.mark.parametrize(
    "args",
    [
        ("-b", "fake", "hello"),
        ("-b", "fake", "--file", "prompt.md"),
        ("-b", "fake", "-o", "json", "hello"),
        ("-b", "fake", "--dry-run", "hello"),
        ("compare", "-b", "fake,echo", "hello"),
    ],
)
def test_data_that_was_piped_in_is_not_ignored_silently(
    clinvk: CommandLine, home: Home, prompt: Callable, args: tuple[str, ...]
):
    (home.work / "prompt.md").write_text("hello")
    assert clinvk(*args, stdin="a diff\n").stderr.count(NOT_READ) == 1
    assert NOT_READ not in clinvk(*args).stderr
    if args[0] != "compare":
        assert NOT_READ not in clinvk("-q", *args, stdin="a diff\n").stderr
    assert NOT_READ not in clinvk(*args, stdin="").stderr  # a pipe that is closed


def test_a_resumed_session_reports_what_was_piped_in(clinvk: CommandLine, prompt: Callable):
    session = clinvk.json("-b", "fake", "-o", "json", "hello")["session_id"]
    assert NOT_READ in clinvk("resume", session, "more", stdin="a diff\n").stderr
    assert NOT_READ not in clinvk("resume", session, "more", "-", stdin="a diff\n").stderr
    assert prompt() == "more\n\na diff\n"


def test_it_is_said_before_the_cli_has_answered(clinvk: CommandLine, home: Home):
    program = home.backend("fake", WAITS)
    with pipe() as (read, write):
        os.write(write, b"a diff\n")
        process = clinvk.start("-b", "fake", "hello", stdin=read)
        assert process.stderr.readline() == NOT_READ
        program.with_name("fake.go").touch()
        _, rest = process.communicate(timeout=60)
        assert (process.returncode, rest) == (0, "")
        assert os.read(read, 100) == b"a diff\n"  # it is still there for another reader


def test_a_writer_that_is_slower_than_the_start_is_reported_at_the_end(
    clinvk: CommandLine, home: Home
):
    program = home.backend("fake", WAITS)
    with pipe() as (read, write):
        process = clinvk.start("-b", "fake", "hello", stdin=read)
        wait_for(program.with_name("fake.runs").exists, "the start", 60)
        os.write(write, b"a diff\n")
        program.with_name("fake.go").touch()
        out, err = process.communicate(timeout=60)
    assert (out, err) == ("It is done.\n", NOT_READ)


def test_a_file_and_a_socket_are_noticed_too(clinvk: CommandLine, home: Home):
    file = home.work / "input"
    file.write_text("a diff\n")
    with file.open() as stdin:
        process = clinvk.start("-b", "echo", "hello", stdin=stdin)
        assert process.communicate(timeout=60)[1] == NOT_READ
        assert stdin.read() == "a diff\n"
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.send(b"a diff\n")
        process = clinvk.start("-b", "echo", "hello", stdin=theirs)
        assert process.communicate(timeout=60)[1] == NOT_READ


def test_a_shell_loop_keeps_its_list(clinvk: CommandLine, home: Home, prompt: Callable):
    command = " ".join([*clinvk.program, "-b", "fake"])
    script = 'printf "a\\nb\\nc\\n" | while read -r f; do %s "review $f"%s; done'
    for stdin, reports in (("", 2), (" </dev/null", 0)):
        done = subprocess.run(["sh", "-c", script % (command, stdin)], env=home.env, cwd=home.work,
                              text=True, capture_output=True, timeout=60, check=False)  # fmt: skip
        assert done.stdout == "It is done.\n" * 3
        assert done.stderr.count(NOT_READ) == reports  # after the last line nothing is left


def test_a_dash_appends_stdin_to_a_prompt_in_a_file(
    clinvk: CommandLine, home: Home, prompt: Callable
):
    (home.work / "prompt.md").write_text("review this")
    done = clinvk("-b", "fake", "--file", "prompt.md", "-", stdin="a diff\n")
    assert (done.returncode, done.stderr, prompt()) == (0, "", "review this\n\na diff\n")
    refused = clinvk("-b", "fake", "--file", "prompt.md", "hello")
    assert refused.returncode == 1
    assert "--file FILE -" in refused.stderr


def test_tasks_in_a_file_leave_stdin_and_say_so(clinvk: CommandLine, home: Home):
    for command, key in (("parallel", "tasks"), ("chain", "steps")):
        (home.work / "tasks.yaml").write_text(f"{key}: [{{prompt: hello, backend: echo}}]\n")
        done = clinvk(command, "tasks.yaml", "-q", stdin="more tasks\n")
        assert done.returncode == 0
        assert "standard input was not read; the " in done.stderr
        assert "are in tasks.yaml" in done.stderr
    assert "not read" not in clinvk("parallel", "-q", stdin="tasks: [hello]\nbackend: echo").stderr


def test_a_dash_on_a_terminal_says_how_to_end_the_prompt(
    terminal: Terminal, clinvk: CommandLine, prompt: Callable
):
    child = terminal("-b", "fake", "-")
    child.expect("type the prompt, then press Ctrl-D")
    child.sendline("hello")
    child.sendeof()
    assert ending(child)[1] == 0
    assert prompt() == "hello\n"
    for args in (("-",), ("--file", "-")):
        done = clinvk("-b", "fake", *args, stdin="")
        assert (done.returncode, "standard input was empty" in done.stderr) == (1, True)
    assert clinvk("-b", "fake", "a prompt", "-", stdin="").returncode == 0
    answer = clinvk.json("last", "--json")
    assert (answer["role"], answer["content"]) == ("assistant", "It is done.")
