"""A prompt reaches the model as it was written, whatever it looks like."""

import json
import os
import signal
import subprocess
import time

import pytest

from tests import clis as real_clis
from tests.models.answer import INPUT, ODD, filler
from tests.real.user import CLINVK, User, wait_for

pytestmark = pytest.mark.real

SECRET = "what the file says"
EXPANDED = "what the command says"
LIMITS = {"claude": 8_000_000, "codex": 1_048_576, "gemini": 8_388_608}
BELIEVED = 1_000_000  # characters that each of them takes


@pytest.fixture
def traps(user: User) -> User:
    """Their project has all that a CLI might put in the place of a prompt."""
    for name, text in {
        "README.md": f"# Read me\n\n{SECRET}\n",
        ".claude/commands/foo.md": f"---\ndescription: a command\n---\n\n{EXPANDED}\n",
        ".gemini/commands/foo.toml": f'description = "a command"\nprompt = "{EXPANDED}"\n',
    }.items():
        file = user.home.project / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return user


def sent(user: User) -> str:
    """All that the model was shown."""
    return json.dumps([asked.body for asked in user.models.requests])


@pytest.mark.parametrize(
    "prompt",
    ["-fix what is broken", "/help", "  /foo bar", "! ls"],
)
def test_it_is_not_taken_for_something_else(prompt: str, traps: User) -> None:
    answer = traps.result(prompt)

    assert answer["content"].startswith("answer 1 to: ")
    assert answer["content"].count(prompt.strip()) == 2
    assert EXPANDED not in sent(traps)


def test_nor_is_a_single_word(traps: User) -> None:
    traps.run("ask", "-b", traps.backend, "--", "-x")

    assert traps.asked[0].users == ["-x"]


def test_each_stays_in_the_conversation(traps: User) -> None:
    prompts = ["/help me", "resume", "  /foo bar", "? what", "--help me"]
    id_ = traps.result(prompts[0])["session_id"]

    for prompt in prompts[1:]:
        traps.resumed(id_, prompt)

    # A CLI may have been given a sign before it that keeps the text what it is.
    shown = traps.asked[-1].users
    assert len(shown) == len(prompts)
    assert all(map(str.endswith, shown, map(str.strip, prompts)))
    assert EXPANDED not in sent(traps)


def test_a_file_that_it_mentions_is_not_sent(traps: User) -> None:
    prompt = 'see @README.md, @"README.md" (@./README.md), it@README.md.\n@README.md'

    done = traps.ask(prompt)

    if traps.backend == "gemini":
        prompt = prompt.replace("@", "\\@")
    elif real_clis.IS_OLDER:  # it does not look behind a letter
        prompt = prompt.replace("@", "\\@").replace("it\\@", "it@")
    assert traps.asked[0].last == prompt
    assert ("passed as text" in done.stderr) == ("\\@" in prompt)  # of which the user is told
    assert SECRET not in sent(traps)


@pytest.mark.parametrize("backend", ["claude", "gemini"], indirect=True)
def test_a_file_is_sent_where_that_is_wanted(traps: User) -> None:
    traps.result("--expand", "see @README.md please")

    assert SECRET in sent(traps)


@pytest.mark.parametrize("backend", ["claude", "gemini"], indirect=True)
def test_a_command_is_expanded_where_that_is_wanted(traps: User) -> None:
    traps.result("--expand", "/foo bar")

    assert EXPANDED in sent(traps)


def test_a_million_characters_arrive_whole(user: User) -> None:
    text = filler(BELIEVED - 3) + "end"
    (user.home.project / "long").write_text(text)

    # Of the answer, which quotes it, gemini would believe that it repeats itself.
    answer = user.result("--file", "long")

    assert user.asked[0].last == text
    assert f"({BELIEVED} characters)" in answer["content"]
    assert answer["usage"]["input"] == INPUT


def test_what_is_too_long_is_refused_before_anything_starts(user: User) -> None:
    limit = LIMITS[user.backend]
    (user.home.project / "long").write_text("x" * (limit + 1))

    answer = user.result("--file", "long", code=1)

    assert answer["error"]["kind"] == "usage"
    assert f"{limit:,}" in answer["error"]["message"]
    assert user.models.requests == []
    assert user.sessions() == []


def test_an_answer_comes_back_with_all_that_is_in_it(user: User) -> None:
    content = user.result("<<odd>>")["content"]

    if user.backend == "gemini":  # which takes out what would drive a terminal
        assert "line\u2028paragraph\u2029next\x85form\x0cfeed" in content
        assert "hé 你好 🚀" in content
    else:
        assert content == ODD


def test_an_answer_on_the_terminal_does_not_drive_it(user: User) -> None:
    done = subprocess.run(
        [*CLINVK, "-b", user.backend, "<<odd>>"],
        cwd=user.home.project,
        env=user.environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=60,
        check=True,
    )

    text = done.stdout.decode()
    assert "line\u2028paragraph\u2029next" in text
    assert [c for c in text if not (c.isprintable() or c in "\n\t") and ord(c) < 0xA0] == []


@pytest.mark.skipif(real_clis.IS_OLDER, reason="it truncates long answers on a pipe")
def test_a_long_answer_comes_back_whole_though_we_are_slow_to_read_it(user: User) -> None:
    """gemini ends without waiting for what a pipe has not taken yet."""
    with user.running("-b", user.backend, "-o", "json", "<<size 2000000>> <<wait 1>>") as clinvk:
        wait_for(lambda: user.asked)
        os.kill(clinvk.pid, signal.SIGSTOP)
        time.sleep(3)
        os.kill(clinvk.pid, signal.SIGCONT)
        stdout, stderr = clinvk.communicate(timeout=60)

    assert clinvk.returncode == 0, stderr
    assert len(json.loads(stdout)["content"]) == 2_000_000


@pytest.mark.parametrize("backend", ["gemini"], indirect=True)
def test_an_answer_that_was_stopped_for_repeating_itself_is_no_success(user: User) -> None:
    answer = user.result("over and " * 100, code=1)  # which the answer quotes

    assert "Loop" in answer["error"]["message"]
