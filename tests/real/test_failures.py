"""What goes wrong with the model, the login or the folder is told as what it is."""

import json
from typing import Any

import pytest

from tests.real.user import User, unique

pytestmark = pytest.mark.real


def failed(user: User, *words: str, **where: Any) -> tuple[int, dict[str, Any], str]:
    """The exit code, the error of `-o json`, and what was said on stderr."""
    done = user.ask("-o", "json", *words, **where)
    answer = json.loads(done.stdout)
    assert answer["exit_code"] == done.returncode != 0
    return done.returncode, answer["error"], done.stderr


def test_a_refused_key_is_a_matter_of_the_login(user: User) -> None:
    _, error, stderr = failed(user, "<<status 401>>")

    assert error["kind"] == "auth"
    assert "log in" in error["hint"]
    assert error["hint"] in stderr


def test_a_usage_limit_has_its_own_exit_code(user: User) -> None:
    code, error, _ = failed(user, "<<status 429>>")

    assert (code, error["kind"]) == (75, "limit")


def test_a_stream_that_breaks_is_no_success(user: User) -> None:
    code, _, _ = failed(user, "hello <<broken>>")

    assert code == 1


@pytest.mark.parametrize("trouble", ["status 500", "cut"])
def test_a_failed_first_turn_says_why_and_can_be_continued(trouble: str, user: User) -> None:
    first, second = unique(), unique()
    code, error, _ = failed(user, f"{first} <<{trouble}>>")

    assert (code, error["kind"]) == (1, "server")
    (session,) = user.sessions()
    assert session["status"] == "error"
    assert session["error"]["kind"] == "server"

    # Where the CLI has kept nothing, the question that is handed over makes the model fail anew.
    user.ask("-c", second)

    shown = json.dumps(user.asked[-1].body)
    assert first in shown
    assert second in shown
    assert len(user.sessions()) == 1


def test_failed_later_turns_lose_nothing(user: User) -> None:
    word = unique()
    user.result(word)
    failed(user, "-c", "second <<status 500>>")
    failed(user, "-c", "third <<cut>>")

    answer = user.result("-c", "fourth")

    assert answer["content"].endswith(f"began with: {word}")
    assert len(user.sessions()) == 1


def test_without_a_key_the_hint_says_how_to_log_in(user: User) -> None:
    keys = dict.fromkeys(("ANTHROPIC_API_KEY", "LOOPBACK_API_KEY", "GEMINI_API_KEY"), "")

    _, error, _ = failed(user, "hello", env=keys)

    assert error["kind"] == "auth"
    assert "log in" in error["hint"]
    assert user.models.requests == []


def test_what_a_cli_says_of_its_failure_is_plain_text(user: User) -> None:
    _, error, stderr = failed(user, "hello", "--", "--made-up-flag")

    assert "made-up-flag" in error["message"]
    assert "\x1b" not in error["message"] + stderr


@pytest.mark.parametrize("backend", ["gemini"], indirect=True)
def test_a_folder_that_gemini_does_not_trust_is_told_of(user: User) -> None:
    code, error, _ = failed(user, "hello", env={"GEMINI_CLI_TRUST_WORKSPACE": ""})

    assert (code, error["kind"]) == (3, "config")
    assert "trust" in error["hint"]


@pytest.mark.parametrize("backend", ["gemini"], indirect=True)
def test_a_sandbox_that_gemini_cannot_make_is_told_of(user: User) -> None:
    code, error, _ = failed(user, "hello", "--sandbox", "workspace")

    assert (code, error["kind"]) == (3, "config")
    assert "docker" in error["hint"]
    assert "\x1b" not in error["message"]  # gemini says it in red


@pytest.mark.parametrize("backend", ["claude"], indirect=True)
def test_claude_as_root_does_not_do_everything_unasked(user: User) -> None:
    code, error, _ = failed(user, "hello", "--approval", "none")

    assert code == 1
    assert "IS_SANDBOX" in error["hint"]
