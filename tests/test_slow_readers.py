"""A reader of our output that has stopped, and programs that stop talking before they end."""

import json
import signal
import subprocess
import sys
import time

import anyio
import pytest

from clinvk import Dispatcher, Request
from tests.conftest import Home, wait_for
from tests.stores import keep

START = """echo '{"type":"start","id":"native-1"}'\n"""
LONG = """printf '{"type":"delta","text":"%s"}\\n' "$(head -c 3000000 /dev/zero | tr '\\0' a)"\n"""
END = """echo '{"type":"end","text":"It is done."}'\n"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_run_whose_reader_has_stopped_can_be_ended(home: Home, number: signal.Signals):
    home.backend("fake", "cat >/dev/null\n" + START + LONG + END)
    process = subprocess.Popen(
        [sys.executable, "-m", "clinvk", "-b", "fake", "x"],
        env=home.env, cwd=home.work, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    process.stdout.read(10)  # the answer has begun, and nobody reads on
    time.sleep(0.5)
    process.send_signal(number)
    assert process.wait(60) == 7
    process.communicate()


@pytest.mark.anyio
async def test_a_program_that_has_closed_its_stdout_can_still_time_out(
    home: Home, monkeypatch: pytest.MonkeyPatch
):
    home.backend("fake", "cat >/dev/null\n" + START + "exec 1>&-\nsleep 60\n")
    monkeypatch.chdir(home.work)
    dispatcher = keep(Dispatcher(env=home.env))
    with anyio.fail_after(60):
        result = await dispatcher.run(Request(prompt="x", backend="fake", timeout=1))
    assert result.error is not None
    assert (result.error.kind, result.exit_code) == ("timeout", 6)


def test_control_sequences_of_an_answer_are_escaped_in_json(home: Home):
    text = json.dumps("\x9b31mred\x1b[0m")
    home.backend(
        "fake", "cat >/dev/null\n" + START + f"""echo '{{"type":"end","text":{text}}}'\n"""
    )
    done = subprocess.run(
        [sys.executable, "-m", "clinvk", "-b", "fake", "-o", "json", "x"],
        env=home.env, cwd=home.work, stdin=subprocess.DEVNULL, capture_output=True, check=True,
    )  # fmt: skip
    assert json.loads(done.stdout)["content"] == "\x9b31mred\x1b[0m"
    assert b"\xc2\x9b" not in done.stdout


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_many_tasks_whose_reader_has_stopped_go_on_and_can_be_ended(
    home: Home, number: signal.Signals
):
    ended = home.work / "ended"
    home.backend("fake", "cat >/dev/null\n" + START + LONG + END + f"touch {ended}\n")
    home.backend("slow", "cat >/dev/null\n" + START + "sleep 60\n")
    tasks = [{"prompt": "x", "backend": name} for name in ("fake", "slow")]
    (home.work / "t.json").write_text(json.dumps(tasks))
    process = subprocess.Popen(
        [sys.executable, "-m", "clinvk", "parallel", "-o", "stream-json", "t.json"],
        env=home.env, cwd=home.work, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    process.stdout.read(10)  # and nobody reads on
    wait_for(ended.exists, "the end of the one that talks")
    process.send_signal(number)
    assert process.wait(60) == 7
    process.communicate()
