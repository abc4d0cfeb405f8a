"""However a run ends, nothing of it goes on, and the conversation can be gone on with."""

import json
import os
import signal

import pytest

from tests import clis as real_clis
from tests.models.answer import INPUT
from tests.real.user import NO_LIMITS, SOON, User, end, unique, wait_for

pytestmark = pytest.mark.real


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_all_and_the_session_goes_on(number: signal.Signals, user: User) -> None:
    word = unique()
    with user.in_mid_run(f"{word} <<pause 60>>") as clinvk:
        assert len(user.processes()) > 1

        code, seconds, stderr = end(clinvk, number)

        assert code == 7
        assert seconds < SOON
        assert "clinvk resume" in stderr
        assert user.processes() == []

    answer = user.result("-c", "and now?")
    assert answer["content"].endswith(f"began with: {word} <<pause 60>>")
    assert len(user.sessions()) == 1


def test_a_signal_before_the_model_was_asked_ends_all(user: User) -> None:
    with user.running("-b", user.backend, "hello <<pause 60>>") as clinvk:
        wait_for(lambda: len(user.processes()) > 1)

        code, seconds, _ = end(clinvk, signal.SIGTERM)

    assert code == 7
    assert seconds < SOON
    assert user.processes() == []
    assert user.result("and now?")["content"].startswith("answer 1")


def test_a_timeout_ends_what_a_tool_has_started(user: User) -> None:
    began = user.home.path / "began"
    command = f"touch {began}; sleep 300 & setsid sleep 300"

    for seconds in ("5", "20", "60"):  # on a busy machine a CLI takes long to start
        answer = user.trusting.result(*NO_LIMITS, "--timeout", seconds, user.shell(command), code=6)
        if began.exists():
            break

    assert began.exists()
    assert answer["error"]["kind"] == "timeout"
    assert user.processes() == []
    assert user.trusting.result("-c", "and now?")["session_id"] == answer["session_id"]


def test_a_signal_ends_what_a_tool_has_started(user: User) -> None:
    began = user.home.path / "began"
    prompt = user.shell(f"touch {began}; sleep 300 & setsid sleep 300")
    with user.trusting.running("-b", user.backend, *NO_LIMITS, prompt) as clinvk:
        wait_for(began.exists)

        code, seconds, _ = end(clinvk, signal.SIGTERM)

    assert code == 7
    assert seconds < SOON
    assert user.processes() == []


def test_what_a_killed_clinvk_left_is_ended_by_the_next(user: User) -> None:
    word = unique()
    with user.in_mid_run(f"{word} <<pause 60>>") as clinvk:
        os.kill(clinvk.pid, signal.SIGKILL)
        clinvk.wait()
        assert user.processes() != []
        (session,) = user.sessions()

        done = user.run("resume", session["id"], "-o", "json", "and now?")

    assert done.returncode == 0, done.stderr
    assert "was killed" in done.stderr
    assert json.loads(done.stdout)["content"].endswith(f"began with: {word} <<pause 60>>")
    assert user.processes() == []


def test_what_a_tool_of_a_killed_clinvk_left_is_ended_by_the_next(user: User) -> None:
    # claude refuses a command that begins with a long sleep.
    prompt = user.shell("touch begun; sleep 300 & setsid sleep 300")
    with user.trusting.running("-b", user.backend, *NO_LIMITS, prompt) as clinvk:
        wait_for(lambda: [p for p in user.processes() if "sleep" in p])
        os.kill(clinvk.pid, signal.SIGKILL)
        clinvk.wait()
        assert [p for p in user.processes() if "sleep" in p]

        done = user.trusting.run("-c", "-o", "json", "and now?")

    assert done.returncode == 0, done.stderr
    assert user.processes() == []


@pytest.mark.parametrize("backend", ["claude", "gemini"], indirect=True)
def test_a_reader_that_goes_away_ends_the_run(user: User) -> None:
    with user.in_mid_run("<<size 400000>>") as clinvk:
        assert clinvk.stdout
        assert clinvk.stdout.read(10)
        clinvk.stdout.close()

        assert clinvk.wait(timeout=60) == 7

    assert user.processes() == []


@pytest.mark.skipif(real_clis.IS_OLDER, reason="its model is not told when the task has ended")
@pytest.mark.parametrize("backend", ["claude"], indirect=True)
def test_a_task_in_the_background_is_part_of_the_turn(user: User) -> None:
    """It is waited for, although it says nothing for longer than a CLI may take to exit."""
    (user.home.path / ".clinvk").mkdir(exist_ok=True)
    config = user.home.path / ".clinvk" / "config.yaml"
    config.write_text("unified_flags: {exit_timeout_secs: 1}\n")
    call = {"command": "sleep 3", "run_in_background": True, "description": "x"}

    answer = user.trusting.result(*NO_LIMITS, f"<<tool Bash {json.dumps(call)}>>")

    assert answer["usage"]["input"] == 3 * INPUT  # the tool, the answer, and the news of its end
    assert answer["content"].startswith("answer 1 with the result: Command running in background")
