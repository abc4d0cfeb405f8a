"""Checks of a turn's work: what they find, rounds that fix it, and protected files."""

import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import anyio
import pytest

from clinvk.checks import protected
from clinvk.checks.changes import ChangeDetector
from clinvk.checks.check import CheckRun
from clinvk.checks.output import MAX_LOG, CheckOutput, as_text
from clinvk.checks.same_failure import is_same_failure
from clinvk.config import loading
from clinvk.dispatch.dispatcher import Dispatcher
from clinvk.model.checks.check import OUTPUT_KEPT, CheckResult
from clinvk.model.request import Request
from clinvk.process.leftovers import find_leftovers
from tests.conftest import READ, START, CommandLine, Home, is_alive, pid_in, say
from tests.terminals import Terminal, ending

CHECK_FAILED = 65


def worker(*turns: str, usage: int = 10) -> str:
    """A made-up CLI that runs the next of these commands in each turn, and keeps its prompts."""
    cases = "".join(f"{n}) {turn} ;;\n" for n, turn in enumerate(turns, 1))
    counter = '"${0%/*}"/turns'
    return (
        f"n=$(($(cat {counter} 2>/dev/null || echo 0) + 1)); echo $n > {counter}\n"
        'cat > "${0%/*}"/prompt-$n\n'
        + START
        + f"case $n in\n{cases}*) true ;;\nesac\n"
        + say(type="end", text="Done.", usage={"input": usage, "output": 5})
    )


def prompts(home: Home) -> list[str]:
    folder = home.path.parent / "fakes"
    return [path.read_text() for path in sorted(folder.glob("prompt-*"))]


def check_of(clinvk: CommandLine, *args: str, code: int = CHECK_FAILED) -> dict[str, Any]:
    done = clinvk(*args, "-o", "json", "fix it")
    assert done.returncode == code, done
    answer = json.loads(done.stdout)
    assert answer["exit_code"] == code
    found = answer["check"]
    assert isinstance(found, dict)
    return found


# One prompt.


def test_a_check_that_passes_is_reported(clinvk: CommandLine, home: Home):
    home.backend("fake", worker("touch new"))
    check = check_of(clinvk, "-b", "fake", "--check", "echo well; test -e new", code=0)
    assert (check["state"], check["exit_code"], check["output"]) == ("passed", 0, "well")
    assert check["command"] == "echo well; test -e new"
    done = clinvk("-b", "fake", "--check", "true", "x")
    assert (done.returncode, done.stdout) == (0, "Done.\n")
    assert "check passed, but no file was changed: true" in done.stderr


def test_a_check_that_fails_fails_the_prompt(clinvk: CommandLine, home: Home):
    home.backend("fake", worker("touch new"))
    done = clinvk("-b", "fake", "--check", "true", "--check", "echo no such thing; exit 3", "--check",
                  "touch never", "x")  # fmt: skip
    assert done.returncode == CHECK_FAILED
    assert done.stdout == "Done.\n"
    assert "check failed: echo no such thing; exit 3 (exit code 3)" in done.stderr
    assert "  no such thing" in done.stderr
    assert not (home.work / "never").exists()


def test_without_a_check_there_is_none(clinvk: CommandLine, home: Home):
    home.backend("fake")
    assert json.loads(clinvk("-b", "fake", "-o", "json", "x").stdout)["check"] is None


def test_a_turn_that_fails_is_not_checked(clinvk: CommandLine, home: Home):
    home.backend("fake", READ + START + say(type="end", error="overloaded", status=500))
    done = clinvk("-b", "fake", "--check", "touch checked", "-o", "json", "x")
    assert json.loads(done.stdout)["check"] is None
    assert done.returncode == 1
    assert not (home.work / "checked").exists()


def test_the_exit_code_65_of_a_backend_is_1(clinvk: CommandLine, home: Home):
    home.backend("fake", READ + START + "exit 65\n")
    assert clinvk("-b", "fake", "x").returncode == 1


@pytest.mark.parametrize(
    ("command", "state", "code", "message"),
    [
        ("no-such-program", "could_not_run", 127, "not found"),
        ("./data", "could_not_run", 126, "not executable"),
        ("kill -9 $$", "failed", None, "SIGKILL"),
        ("sh -c 'kill -15 $$'; exit $?", "failed", 143, "SIGTERM"),
        ("exit 1", "failed", 1, "exit code 1"),
        ("if", "failed", 2, "exit code 2"),
        ("test -t 0 || read line || exit 4", "failed", 4, "exit code 4"),
    ],
)
def test_how_a_check_ended_is_said(
    clinvk: CommandLine, home: Home, command: str, state: str, code: int | None, message: str
):
    home.backend("fake", worker("touch new"))
    (home.work / "data").write_text("no program")
    check = check_of(clinvk, "-b", "fake", "--check", command, "--rounds", "0")
    assert (check["state"], check["exit_code"]) == (state, code)
    assert message in check["message"]


def test_a_check_that_could_not_run_starts_no_round(clinvk: CommandLine, home: Home):
    home.backend("fake", worker("touch new"))
    check = check_of(clinvk, "-b", "fake", "--check", "no-such-program", "--rounds", "3")
    assert (check["state"], check["rounds"]) == ("could_not_run", 0)
    assert len(prompts(home)) == 1


def test_nothing_expected_to_change_is_a_failure_only_on_request(clinvk: CommandLine, home: Home):
    home.backend("fake", worker())
    assert check_of(clinvk, "-b", "fake", "--check", "true", code=0)["state"] == "unchanged"
    check = check_of(clinvk, "-b", "fake", "--check", "true", "--expect-change")
    assert (check["state"], check["message"]) == ("unchanged", "no file was changed")
    assert check_of(clinvk, "-b", "fake", "--expect-change")["state"] == "unchanged"
    home.backend("fake", worker())


# Rounds.


def test_a_round_fixes_what_the_check_reports(clinvk: CommandLine, home: Home):
    home.backend("fake", worker("touch a", "touch fixed"))
    done = clinvk(
        "-b", "fake", "--check", "echo missing: fixed; test -e fixed", "--rounds", "3", "x"
    )
    assert done.returncode == 0
    assert "check failed" in done.stderr
    assert "round 1 of at most 3" in done.stderr
    assert "check passed" in done.stderr
    first, second = prompts(home)
    assert first == "x"
    assert "missing: fixed" in second
    assert "test -e fixed" in second
    assert home.record()["turns"] == 2
    assert home.record()["usage"]["input"] == 20


@pytest.mark.parametrize(
    ("turns", "command", "rounds", "taken", "why"),
    [
        (["touch a", "touch b", "touch c"], "ls; exit 1", 2, 2, "2 rounds did not fix it"),
        (
            ["touch a", "touch b"],
            "date; echo line $$; exit 1",
            5,
            1,
            "the same failure occurred again",
        ),
        (["touch a"], "ls; date +%N; exit 1", 5, 1, "the last round changed no file"),
    ],
)
def test_rounds_stop_early_and_say_why(
    clinvk: CommandLine,
    home: Home,
    turns: list[str],
    command: str,
    rounds: int,
    taken: int,
    why: str,
):
    home.backend("fake", worker(*turns))
    check = check_of(clinvk, "-b", "fake", "--check", command, "--rounds", str(rounds))
    assert (check["rounds"], check["stopped"]) == (taken, why)
    assert len(prompts(home)) == taken + 1
    done = clinvk("-b", "fake", "--check", "exit 1", "--rounds", "1", "x")
    assert "(exit code 1); no further round: " in done.stderr


def test_the_result_of_several_rounds_has_the_usage_of_all(clinvk: CommandLine, home: Home):
    home.backend("fake", worker("touch a", "touch fixed"))
    done = clinvk.json("-b", "fake", "--check", "test -e fixed", "--rounds", "1", "-o", "json", "x")
    assert (done["usage"]["input"], done["check"]["rounds"]) == (20, 1)
    assert done["check"]["state"] == "passed"


@pytest.mark.parametrize(
    ("args", "problem"),
    [
        (["--rounds", "2"], "--rounds needs a check"),
        (["--check-timeout", "5s"], "--check-timeout needs a check"),
        (["--check", "true", "--check-timeout", "soon"], "invalid duration"),
        (["--check", " "], "it is empty"),
        (["--protect", "../x"], "leads out of"),
        (["--protect", "/etc/passwd"], "not relative"),
        (["--check", "true", "--rounds", "1", "--ephemeral"], "--rounds needs a session"),
    ],
)
def test_what_cannot_be_checked_starts_nothing(
    clinvk: CommandLine, home: Home, args: list[str], problem: str
):
    home.backend("fake", worker(), ephemeral={"argv": []})
    done = clinvk("-b", "fake", *args, "x")
    assert (done.returncode, problem in done.stderr) == (1, True), done
    assert prompts(home) == []


def test_rounds_need_a_backend_that_can_continue(clinvk: CommandLine, home: Home):
    home.backend("fake", worker(), argv={"run": ["run"]})
    done = clinvk("-b", "fake", "--check", "true", "--rounds", "1", "x")
    assert "--rounds needs a backend that can continue a conversation" in done.stderr
    assert prompts(home) == []
    home.config("unified_flags: {rounds: 2}")  # for other backends
    check = check_of(clinvk, "-b", "fake", "--check", "touch a; false")
    assert check["stopped"] == "the conversation cannot be continued"


# Protected files.


@pytest.mark.parametrize("is_repository", [True, False])
@pytest.mark.parametrize(
    ("turn", "files"),
    [
        ("echo x >> tests/a", ["tests/a (changed)"]),
        ("rm tests/a", ["tests/a (removed)"]),
        ("mkdir -p tests/deep; touch tests/deep/b", ["tests/deep/b (added)"]),
        ("chmod +x tests/a", ["tests/a (changed)"]),
        ("touch tests/a; touch other", []),
    ],
)
def test_protected_files_may_not_change(
    clinvk: CommandLine, home: Home, turn: str, files: list[str], is_repository: bool
):
    (home.work / "tests").mkdir()
    (home.work / "tests" / "a").write_text("1")
    if is_repository:
        git(home, "init", "-q")
    home.backend("fake", worker(turn))
    args = ["-b", "fake", "--check", "true", "--protect", "tests/**", "--rounds", "2"]
    check = check_of(clinvk, *args, code=CHECK_FAILED if files else 0)
    assert (check["state"], check["protected"]) == ("failed" if files else "passed", files)
    assert len(prompts(home)) == 1


def git(home: Home, *words: str) -> None:
    subprocess.run(
        ["git", "-C", str(home.work), *words], check=True, env=home.env, capture_output=True
    )


MATCHES = {
    "tests/**": ["tests/a", "tests/x/b"],
    "tests": ["tests/a", "tests/x/b"],
    "tests/": ["tests/a", "tests/x/b"],
    "tests/*": ["tests/a", "tests/x/b"],  # as in .gitignore: a directory with all that is in it
    "*.lock": ["deep/y.lock", "x.lock"],
    "./x.lock": ["x.lock"],
    "**/a": ["a", "tests/a"],
    "a": ["a", "tests/a"],
    "deep/**/*.lock": ["deep/y.lock"],
    "[!x].lock": ["deep/y.lock"],
    "?.lock": ["deep/y.lock", "x.lock"],
    "nothing": [],
    ".git/hooks": [".git/hooks/pre-commit"],
    "**": ["a", "deep/y.lock", "link", "tests/a", "tests/x/b", "x.lock"],
}


def test_patterns_match_as_in_gitignore(tmp_path: Path):
    for name in ("a", "x.lock", "deep/y.lock", "tests/a", "tests/x/b", ".git/hooks/pre-commit"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    (tmp_path / "link").symlink_to("a")
    found = {p: sorted(protected.take_snapshot(tmp_path, [p])) for p in MATCHES}
    assert found == MATCHES


def test_links_and_odd_names_are_protected(tmp_path: Path):
    (tmp_path / "real").write_text("1")
    (tmp_path / "link").symlink_to("real")
    os.mkfifo(tmp_path / "fifo")
    os.close(os.open(os.fsencode(tmp_path) + b"/\xff", os.O_CREAT))
    before = protected.take_snapshot(tmp_path, ["**"])
    assert protected.changed_files(before, protected.take_snapshot(tmp_path, ["**"])) == []
    (tmp_path / "real").write_text("2")
    os.unlink(os.fsencode(tmp_path) + b"/\xff")
    after = protected.take_snapshot(tmp_path, ["**"])
    assert protected.changed_files(before, after) == [
        "link (changed)", "real (changed)", "\ufffd (removed)",
    ]  # fmt: skip


@pytest.mark.parametrize("pattern", ["link/**", "link", "link/", "./link", "link/*.txt"])
def test_a_link_to_a_directory_stands_for_what_is_in_it(tmp_path: Path, pattern: str):
    (tmp_path / "real" / "deep").mkdir(parents=True)
    (tmp_path / "real" / "a.txt").write_text("1")
    (tmp_path / "real" / "up").symlink_to("..")
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "loop").symlink_to(".")
    before = protected.take_snapshot(tmp_path, [pattern])
    assert protected.unmatched(before, [pattern]) == []
    (tmp_path / "real" / "a.txt").write_text("2")
    after = protected.take_snapshot(tmp_path, [pattern])
    assert protected.changed_files(before, after) == ["link/a.txt (changed)"]
    (tmp_path / "link").unlink()
    (tmp_path / "link").mkdir()
    (tmp_path / "link" / "a.txt").write_text("1")
    replaced = protected.take_snapshot(tmp_path, [pattern])
    assert "link (removed)" in protected.changed_files(before, replaced)
    assert protected.take_snapshot(tmp_path, ["loop/**", "loop"]).keys() == {"loop"}


def test_a_protected_link_that_leaves_the_repository_is_refused(
    clinvk: CommandLine, home: Home, tmp_path: Path
):
    (tmp_path / "outside").mkdir()
    (home.work / "link").symlink_to(tmp_path / "outside")
    git(home, "init", "-q")
    home.backend("fake", worker("true"))
    refused = clinvk("-b", "fake", "--check", "true", "--protect", "link/**", "hello")
    assert refused.returncode == 1
    assert "--protect: 'link' is a link to" in refused.stderr
    assert prompts(home) == []


# The same failure.


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("3 failed in 0.42s", "3 failed in 12.1s", True),
        ("/tmp/a/x.py:3: error", "/tmp/b/x.py:17: error", True),
        ("2026-01-02 10:00:01 boom", "2027-11-12 11:22:33 boom", True),
        ("10:00 boom 0xdeadbeef", "11:59 boom 0x1234", True),
        ("===== 1 failed =====", "==== 10 failed ====", True),
        ("commit 1a2b3c4d", "commit 99ff00aa", True),
        ("", "", True),
        ("NameError: x", "NameError: y", False),
        ("test_a failed", "test_a failed\ntest_b failed", False),
    ],
)
def test_two_outputs_are_the_same_failure(one: str, other: str, same: bool):
    first, second = (CheckResult(state="failed", exit_code=1, output=o) for o in (one, other))
    assert is_same_failure(first, second) == same
    assert not is_same_failure(first, CheckResult(state="failed", exit_code=2, output=one))


# Running a check.


async def run_check(
    command: str, folder: Path, *, seconds: float = 120, log: Path | None = None
) -> tuple[CheckResult, CheckRun]:
    run = CheckRun((command,), folder, dict(os.environ), "", seconds)
    return await run.run(CheckOutput(log, str)), run


@pytest.mark.anyio
async def test_a_huge_output_is_bounded_in_memory_and_on_disk(tmp_path: Path):
    log = tmp_path / "logs" / "check"
    command = "head -c 40000000 /dev/zero | tr '\\0' 'x'; echo; echo the end; exit 1"
    check, _ = await run_check(command, tmp_path, log=log)
    assert check.output.endswith("x\nthe end")
    assert len(check.output) <= OUTPUT_KEPT
    assert MAX_LOG < log.stat().st_size < MAX_LOG + 4 * OUTPUT_KEPT + 1_000_000
    assert log.read_text().startswith("$ head")
    assert "40,000,009 bytes in all" in log.read_text()
    assert log.read_text().endswith("the end\n")


@pytest.mark.anyio
async def test_a_check_that_hangs_is_ended_with_all_that_it_started(tmp_path: Path):
    command = "sleep 300 & echo $! > one; setsid sleep 300 & echo $! > two; echo begun; wait"
    for seconds in (0.5, 5, 40):  # a busy machine takes long to begin
        check, run = await run_check(command, tmp_path, seconds=seconds)
        if check.output:
            break
    assert (check.state, check.exit_code, check.output) == ("failed", None, "begun")
    assert f"did not end within {seconds:g} s" in str(check.message)
    for name in ("one", "two"):
        assert not is_alive(pid_in(tmp_path / name))
    assert find_leftovers(-1, run.marker) == []


@pytest.mark.parametrize(
    "check", ["read x </dev/tty", "test -t 0 && read x", "stty -F /dev/tty size"]
)
def test_a_check_that_needs_a_terminal_fails_at_once_though_there_is_one(
    home: Home, terminal: Terminal, check: str
):
    shown, code = ending(terminal("-b", "echo", "--check", check, "hello"))
    assert code == CHECK_FAILED
    assert f"check failed: {check}" in shown


@pytest.mark.anyio
async def test_a_daemon_of_a_check_does_not_outlive_it(tmp_path: Path):
    check, _ = await run_check("setsid sleep 300 & echo $! > daemon; echo done", tmp_path)
    assert (check.state, check.output) == ("passed", "done")
    assert not is_alive(pid_in(tmp_path / "daemon"))


@pytest.mark.anyio
async def test_a_cancelled_check_leaves_nothing_running(tmp_path: Path):
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run_check, "sleep 300 & echo $! > pid; mv pid child; wait", tmp_path)
        with anyio.fail_after(60):
            while not (tmp_path / "child").exists():  # noqa: ASYNC110
                await anyio.sleep(0.02)
        tasks.cancel_scope.cancel()
    assert not is_alive(pid_in(tmp_path / "child"))


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"\x1b[31mred\x1b[0m \xff\n", "red \ufffd\n"),
        (b"10%\r50%\r100%\r\nok\r\n", "100%\nok\n"),
        (b"\x1b]0;title\x07shown\x00", "shown"),
    ],
)
def test_control_sequences_and_invalid_bytes_are_removed(data: bytes, text: str):
    assert as_text(data) == text


@pytest.mark.anyio
async def test_both_streams_are_kept_in_order_and_line_numbers_stay(tmp_path: Path):
    check, _ = await run_check("echo 1; echo 2 >&2; echo 3\n(", tmp_path)
    assert check.output.startswith("1\n2\n3\n")
    assert check.output.count("2") == 2, "the error is in line 2"


@pytest.mark.anyio
async def test_a_log_that_cannot_be_written_does_not_fail_the_check(tmp_path: Path):
    (tmp_path / "file").write_text("")
    run = CheckRun(("echo fine",), tmp_path, dict(os.environ), "")
    output = CheckOutput(tmp_path / "file" / "log", str)
    assert (await run.run(output)).output == "fine"
    assert "was not stored" in str(output.problem)
    full = CheckOutput(Path("/dev/full"), str)
    assert (await run.run(full)).state == "passed"
    assert "No space left" in str(full.problem)


# Changes.


@pytest.mark.anyio
@pytest.mark.parametrize("is_repository", [True, False])
async def test_every_change_of_a_file_is_noticed(home: Home, is_repository: bool):
    work = home.work
    for name in ("a", "b", "c"):
        (work / name).write_text(name)
    if is_repository:
        git(home, "init", "-q")
        git(home, "add", "a", "b")
        git(home, "-c", "user.name=x", "-c", "user.email=x@example.org", "commit", "-qm", "1")
    (work / "b").write_text("changed before")
    detector = ChangeDetector(work, home.env)
    states = [await detector.state()]
    assert await detector.state() == states[0]
    for change in (
        lambda: (work / "a").write_text("2"),
        lambda: (work / "b").write_text("changed again!"),
        (work / "c").unlink,
        lambda: (work / "new").write_text(""),
        lambda: (work / "a").chmod(0o755),
    ):
        change()
        states.append(await detector.state())
    assert None not in states
    assert len(set(states)) == len(states)
    if is_repository:
        (work / ".gitignore").write_text("ignored\n")
        before = await detector.state()
        (work / "ignored").write_text("")
        assert await detector.state() == before


# Signals.


def in_check(clinvk: CommandLine, home: Home, check: str) -> subprocess.Popen[str]:
    """A prompt whose check runs, which has written its process id to `pid`."""
    process = clinvk.start("-b", "fake", "--check", f"echo $$ > pid; {check}", "x")
    pid_in(home.work / "pid")
    return process


def test_ctrl_c_ends_a_check_with_all_that_it_started(clinvk: CommandLine, home: Home):
    home.backend("fake", worker("touch a"))
    process = in_check(clinvk, home, "trap '' INT; sleep 300")
    process.send_signal(signal.SIGINT)
    said, told = process.communicate(timeout=60)
    assert (process.returncode, said) == (7, "Done.\n")
    assert "cancelled" in told
    assert not is_alive(pid_in(home.work / "pid"))
    assert home.record()["turns"] == 1


def test_a_second_ctrl_c_kills_a_check_that_ignores_the_first(clinvk: CommandLine, home: Home):
    home.backend("fake", worker("touch a"))
    process = in_check(clinvk, home, "trap '' INT TERM; while :; do sleep 0.1; done")
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 7
    assert not is_alive(pid_in(home.work / "pid"))


def test_what_a_killed_clinvk_left_of_a_check_is_ended_by_the_next_turn(
    clinvk: CommandLine, home: Home
):
    home.backend("fake", worker("touch a", "touch b"))
    process = in_check(clinvk, home, "sleep 300")
    process.kill()
    process.communicate(timeout=60)
    assert is_alive(pid_in(home.work / "pid"))
    done = clinvk("-c", "--check", "test -e b", "-o", "json", "next")
    assert "was interrupted" in done.stderr
    assert json.loads(done.stdout)["check"]["state"] == "passed"
    assert not is_alive(pid_in(home.work / "pid"))


@pytest.mark.anyio
async def test_python_may_cancel_a_turn_in_its_check(home: Home):
    home.backend("fake", worker("touch a"))
    with Dispatcher(loading.load(home.env), env=home.env) as dispatcher:
        request = Request(
            prompt="x", backend="fake", cwd=home.work,
            options={"check": ["echo $$ > pid; sleep 300"], "rounds": 2},
        )  # fmt: skip
        async with dispatcher.stream(request) as turn:
            types = []
            async for event in turn:
                types.append(event.type)
                if event.type == "checking":
                    async with anyio.create_task_group() as tasks:

                        async def cancel() -> None:
                            while not (home.work / "pid").exists():  # noqa: ASYNC110
                                await anyio.sleep(0.01)
                            turn.cancel("enough")

                        tasks.start_soon(cancel)
                        types.append((await turn.__anext__()).type)
        assert types[-2:] == ["checking", "failed"]
        error = turn.result.error
        assert error is not None
        assert (error.kind, error.message, turn.result.exit_code) == ("cancelled", "enough", 7)
        assert (turn.result.text, turn.result.check) == ("Done.", None)
        assert turn.result.usage is not None
    assert not is_alive(pid_in(home.work / "pid"))
