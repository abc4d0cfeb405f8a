"""Answers in the log of a step of GitHub Actions, which obeys commands that it finds there."""

import json
import subprocess
import sys

import pytest

from tests.conftest import READ, START, CommandLine, Home, say

EVIL = "first ##[add-matcher]x\n::add-mask::e\n  ::error::x"
PIECES = "".join(
    say(type="delta", text=piece)
    for piece in ("first ", "##", "[add-matcher]x\n:", ":add-mask::e\n")
)
SCRIPT = READ + START + PIECES + say(type="end", text="first ##[add-matcher]x\n::add-mask::e\n")
ACTIONS = {"GITHUB_ACTIONS": "true"}
CLINVK = f"{sys.executable} -m clinvk"


def in_step(home: Home, script: str, **env: str) -> str:
    """What a step with this script has in its log."""
    done = subprocess.run(
        ["/bin/bash", "-c", f"{script}\ntrue"], cwd=home.work, env={**home.env, **ACTIONS, **env},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert "Traceback" not in done.stderr, done.stderr
    return done.stdout


def obeyed(log: str) -> list[str]:
    """The lines that a runner would obey."""
    found, token = [], None
    for line in log.splitlines():
        text = line.strip()
        if token is not None:
            token = None if text == f"::{token}::" else token
        elif text.startswith("::stop-commands::"):
            token = text.removeprefix("::stop-commands::")
        elif text.startswith("::") or "##[" in line:
            found.append(line)
    assert token is None
    return found


@pytest.mark.parametrize(
    "words", ["-b fake hi", "-b fake -o json hi", "-b fake -o stream-json hi", "-b fake --raw hi"]
)
def test_nothing_in_an_answer_is_obeyed_in_the_log(home: Home, words: str):
    home.backend("fake", SCRIPT)
    log = in_step(home, f"{CLINVK} {words}; echo ::notice::mine")
    assert obeyed(log) == ["::notice::mine"]
    assert "add-mask::e" in log


def test_a_resumed_answer_and_a_session_are_not_obeyed(home: Home):
    home.backend("fake", SCRIPT)
    in_step(home, f"{CLINVK} -b fake hi >/dev/null")
    (id_,) = home.ids()
    log = in_step(
        home,
        f"{CLINVK} -c hi; {CLINVK} resume {id_} hi; {CLINVK} sessions show {id_} --messages 1; {CLINVK} last",
    )
    assert obeyed(log) == []
    assert log.count("::add-mask::e") == 4, log


def test_a_file_and_a_pipe_get_the_answer_unchanged(home: Home, clinvk: CommandLine):
    home.backend("fake", SCRIPT)
    answer = "first ##[add-matcher]x\n::add-mask::e\n"
    log = in_step(
        home,
        f'{CLINVK} -b fake hi >file; {CLINVK} -b fake hi | cat >pipe; x="$({CLINVK} -b fake hi)"; printf "%s\\n" "$x" >var',
    )
    assert log == ""
    for name in ("file", "pipe", "var"):
        assert (home.work / name).read_text() == answer
    assert clinvk("-b", "fake", "hi", env=ACTIONS).stdout == answer
    assert (
        json.loads(clinvk("-b", "fake", "-o", "json", "hi", env=ACTIONS).stdout)["content"]
        == answer
    )


def test_without_actions_nothing_is_added(home: Home):
    home.backend("fake", SCRIPT)
    log = in_step(home, f"{CLINVK} -b fake hi", GITHUB_ACTIONS="")
    assert log == "first ##[add-matcher]x\n::add-mask::e\n"
