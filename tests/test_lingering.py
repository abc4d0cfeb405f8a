"""Programs that do not exit, or are silent: when they are ended, and what counts then."""

import json
from pathlib import Path
from typing import Any

import pytest

from clinvk.config import loading
from clinvk.dispatch.dispatcher import Dispatcher
from clinvk.model.events import Notice
from clinvk.model.request import Request
from tests.conftest import (
    END,
    READ,
    START,
    CommandLine,
    Home,
    at_some_pace,
    is_alive,
    pid_in,
    say,
)
from tests.stores import keep

SOON = "unified_flags: {exit_timeout_secs: 0.3}"
FAILURE = say(type="end", error="slow down", status=429, usage={"input": 3, "output": 1})
TOOLS = [
    {"when": "type == 'tool'", "emit": "tool", "set": {"id": "id", "name": "name", "ended": "ended"}},
    {"when": "type == 'result'", "emit": "tool_result", "set": {"id": "id"}},
    {"when": "type == 'retry'", "emit": "notice", "set": {"message": "'retry'", "retrying": "`true`"}},
    {"when": "type == 'tasks'", "emit": "background", "set": {"running": "n"}},
]  # fmt: skip


def with_tools() -> list[Any]:
    from tests.conftest import PROTOCOL

    return [*TOOLS, *PROTOCOL["events"]]


@pytest.fixture
def pid(tmp_path: Path) -> Path:
    return tmp_path / "pid"


def lingering(pid: Path, *said: str, begin: str = READ + START) -> str:
    """A program that says this, and then does not exit, nor does what it has started."""
    return f"sleep 300 >/dev/null &\necho $! > {pid}\n{begin}{''.join(said)}sleep 300\n"


@pytest.mark.parametrize("limit", ["", "--timeout", "--stall-timeout"])
def test_a_result_counts_although_the_program_does_not_exit(
    limit: str, home: Home, clinvk: CommandLine, pid: Path
) -> None:
    home.backend("fake", lingering(pid, END))
    home.config(SOON if not limit else "")

    def check(seconds: float) -> None:
        flags = [limit, str(seconds)] if limit else []
        done = clinvk("-b", "fake", "-o", "json", *flags, "hello")
        assert done.returncode == 0
        answer = json.loads(done.stdout)
        assert (answer["content"], answer["error"]) == ("It is done.", None)
        assert answer["usage"]["total"] == 15
        assert "fake had reported its result but did not exit" in done.stderr
        assert not is_alive(pid_in(pid))
        assert home.record(answer["session_id"])["status"] == "active"
        assert home.transcript(answer["session_id"])[-1]["content"] == "It is done."

    at_some_pace(check, *([1.5, 6, 40] if limit else [0]))


def test_a_key_says_how_long_it_may_take_to_exit(home: Home, clinvk: CommandLine) -> None:
    home.backend("fake", READ + START + END + "sleep 3\necho late >&2\nexit 3\n", exit_timeout=0.3)
    assert clinvk("-b", "fake", "hello").returncode == 0
    home.config("unified_flags: {exit_timeout_secs: 60}")
    assert clinvk("-b", "fake", "hello").returncode == 1
    home.config("unified_flags: {exit_timeout_secs: 0}")
    assert "exit_timeout_secs: 0.0 is not greater than 0" in clinvk("-b", "fake", "hello").stderr


def test_a_failure_counts_too(home: Home, clinvk: CommandLine, pid: Path) -> None:
    home.backend("fake", lingering(pid, FAILURE))
    home.config(SOON)

    answer = clinvk.json("-b", "fake", "-o", "json", "--timeout", "60", "hello")

    assert (answer["error"]["kind"], answer["exit_code"]) == ("limit", 75)
    assert answer["error"]["message"] == "slow down"
    assert not is_alive(pid_in(pid))


@pytest.mark.parametrize(
    ("status", "message", "kind"), [(401, "no such key", "auth"), (400, "bad request", "backend")]
)
def test_its_failure_has_its_own_exit_code_and_not_that_of_the_signal(
    status: int, message: str, kind: str, home: Home, clinvk: CommandLine, pid: Path
) -> None:
    failure = say(type="end", error=message, status=status)
    home.backend(
        "fake", lingering(pid, failure), errors=[{"kind": "auth", "status": [401], "match": "key"}]
    )
    home.config(SOON)

    answer = clinvk.json("-b", "fake", "-o", "json", "--timeout", "60", "hello")

    assert (answer["error"]["kind"], answer["error"]["message"]) == (kind, message)
    assert answer["exit_code"] == 1
    assert answer["backend_exit_code"] < 0 or answer["backend_exit_code"] > 128


def test_what_it_says_when_it_is_ended_only_adds_figures(
    home: Home, clinvk: CommandLine, pid: Path
) -> None:
    aborted = say(type="end", error="aborted", usage={"input": 1, "output": 1})
    trap = f"trap '{aborted.strip().replace(chr(39), chr(39) + chr(92) + chr(39) + chr(39))}; exit 130' TERM\n"
    home.backend("fake", READ + trap + START + END + "sleep 300 & wait\n")
    home.config(SOON)

    answer = clinvk.json("-b", "fake", "-o", "json", "hello")

    assert (answer["error"], answer["exit_code"], answer["content"]) == (None, 0, "It is done.")
    assert answer["usage"]["total"] == 17


def test_a_closed_stdout_is_no_exit(home: Home, clinvk: CommandLine, pid: Path) -> None:
    home.backend("fake", lingering(pid, END, "exec >&-\n"))
    home.config(SOON)

    done = clinvk("-b", "fake", "hello")

    assert (done.returncode, done.stdout) == (0, "It is done.\n")
    assert not is_alive(pid_in(pid))


@pytest.mark.parametrize("closed", ["", "exec >&-\n"])
def test_one_json_value_is_a_result_without_an_exit(
    closed: str, home: Home, clinvk: CommandLine, pid: Path
) -> None:
    script = lingering(pid, END + closed, begin=READ)
    home.backend("fake", script, output="json", exit_timeout=0.3)

    done = clinvk("-b", "fake", "hello")

    assert (done.returncode, done.stdout) == (0, "It is done.\n")
    assert not is_alive(pid_in(pid))


def test_half_a_json_value_is_waited_for(home: Home, clinvk: CommandLine) -> None:
    script = READ + 'echo \'{\'\nsleep 0.4\necho \'"type": "end", "text": "all"}\'\n'
    home.backend("fake", script, output="json", exit_timeout=0.1)
    assert clinvk("-b", "fake", "hello").stdout == "all\n"


def test_a_program_that_goes_on_is_not_ended(home: Home, clinvk: CommandLine) -> None:
    """Events of its own, a further turn, and tasks in the background are reasons to wait."""
    more = say(type="end", text="And more.", usage={"input": 1, "output": 1})

    def check(pace: float) -> None:
        less, longer = f"sleep {0.6 * pace}\n", f"sleep {1.2 * pace}\n"
        for reason in (
            f"{less}{say(type='text', text='x')}{less}",
            f"{START}{longer}",
            f"{say(type='tasks', n=1)}{longer}",
            f"{say(type='tasks', n=1)}{longer}{say(type='tasks', n=0)}sleep 0.3\n",
        ):
            script = READ + START + END + reason + more
            home.backend("fake", script, events=with_tools(), exit_timeout=pace)
            answer = clinvk.json("-b", "fake", "-o", "json", "hello")
            said = (answer["content"], answer["usage"]["total"])
            assert said == ("It is done.\n\nAnd more.", 17), reason

    at_some_pace(check, 0.7, 4, 20)


def test_signs_of_life_without_a_meaning_are_not(
    home: Home, clinvk: CommandLine, pid: Path
) -> None:
    ping = 'while :; do echo \'{"type": "ping"}\'; sleep 0.1; done\n'
    home.backend("fake", READ + START + END + ping)
    home.config(SOON)
    done = clinvk("-b", "fake", "hello")
    assert (done.returncode, done.stdout) == (0, "It is done.\n")


def test_work_in_the_background_ends_at_the_timeout_and_its_result_counts(
    home: Home, clinvk: CommandLine, pid: Path
) -> None:
    home.backend("fake", lingering(pid, say(type="tasks", n=1), END), events=with_tools())
    home.config(SOON)

    def check(seconds: float) -> None:
        done = clinvk("-b", "fake", "--timeout", str(seconds), "hello")
        assert (done.returncode, done.stdout) == (0, "It is done.\n")
        assert "still worked in the background" in done.stderr
        assert not is_alive(pid_in(pid))

    at_some_pace(check, 1, 6, 40)


def test_without_a_result_a_timeout_is_one(home: Home, clinvk: CommandLine, pid: Path) -> None:
    home.backend("fake", lingering(pid, say(type="text", text="half")))
    home.config(SOON)
    assert clinvk("-b", "fake", "--timeout", "0.8", "hello").returncode == 6


def test_tasks_whose_programs_do_not_exit_are_done(
    home: Home, clinvk: CommandLine, pid: Path
) -> None:
    home.backend("fake", lingering(pid, END))
    home.config(SOON)
    (home.work / "tasks.json").write_text(json.dumps({"tasks": [
        {"name": "a", "prompt": "x", "backend": "fake", "timeout": "60s"},
        {"name": "b", "prompt": "{{tasks.a.output}}", "backend": "fake", "stall_timeout": "50s"},
    ]}))  # fmt: skip

    run = clinvk.json("parallel", "tasks.json", "-o", "json")

    assert [(t["state"], t["output"]) for t in run["results"]] == [("done", "It is done.")] * 2


@pytest.mark.anyio
async def test_the_python_interface_gets_the_result_and_a_notice(home: Home, pid: Path) -> None:
    home.backend("fake", lingering(pid, END))
    home.config(SOON)
    dispatcher = keep(Dispatcher(loading.load(home.env), env=home.env))
    async with dispatcher.stream(Request(prompt="x", backend="fake", cwd=home.work)) as run:
        events = [event async for event in run]
    assert run.result.ok
    assert any(isinstance(e, Notice) and "did not exit" in e.message for e in events)
    assert events[-1].type == "finished"


# Silence while a tool is running


TOOL = say(type="tool", id="t1", name="deploy")
DONE = say(type="result", id="t1")


@pytest.mark.parametrize(("script", "code"), [
    (TOOL + "sleep LONGER\n" + DONE + END, 0),
    (TOOL + say(type="tool", id="t2", name="x") + DONE + "sleep LONGER\n" + END, 0),
    (TOOL + DONE + "sleep 300\n", 6),
    (say(type="tool", id="t1", name="edit", ended=True) + "sleep 300\n", 6),
    (TOOL + say(type="retry") + "sleep 300\n", 6),
    (TOOL + say(type="retry") + DONE + TOOL + "sleep LONGER\n" + END, 0),
])  # fmt: skip
def test_silence_does_not_count_while_a_tool_is_running(
    script: str, code: int, home: Home, clinvk: CommandLine
) -> None:
    def check(pace: float) -> None:
        last = READ + START + script.replace("LONGER", str(2 * pace))
        home.backend("fake", last, events=with_tools())
        done = clinvk("-b", "fake", "--stall-timeout", str(pace), "hello")
        assert done.returncode == code, done.stderr

    at_some_pace(check, 0.4, 3, 20)


def test_tools_whose_end_is_unknown_do_not_make_silence_count_less(
    home: Home, clinvk: CommandLine
) -> None:
    home.backend("fake", READ + START + TOOL + "sleep 300\n")
    assert clinvk("-b", "fake", "--stall-timeout", "0.4", "hello").returncode == 6
