"""What is to leave nothing leaves nothing: neither ours nor the CLI's."""

import signal

import pytest

from tests.real.user import NO_LIMITS, User, end, unique, wait_for

pytestmark = pytest.mark.real


def traces(user: User, word: str) -> list[str]:
    ours = [str(file) for file in (user.home.path / ".clinvk").rglob("*") if file.is_file()]
    scratch = [str(file) for file in (user.home.path / "tmp").glob("clinvk-*")]
    return [*ours, *scratch, *user.files_with(word)]


def saved(user: User, word: str) -> set[str]:
    """The files with the word; codex moves it from the log of a database into the database."""
    return {file.removesuffix("-wal") for file in user.files_with(word)}


def test_an_answer_and_a_system_prompt_leave_no_trace(user: User) -> None:
    word, rules = unique(), unique()

    answer = user.result("--ephemeral", "--system-prompt", rules, word)

    assert word in answer["content"]
    assert rules in user.asked[-1].system
    assert answer["session_id"] is None
    assert traces(user, word) == traces(user, rules) == []


def test_a_failure_leaves_no_trace(user: User) -> None:
    word = unique()

    user.result("--ephemeral", f"{word} <<status 500>>", code=1)

    assert traces(user, word) == []


def test_a_tool_call_leaves_no_trace(user: User) -> None:
    word = unique()

    answer = user.trusting.result("--ephemeral", *NO_LIMITS, user.shell(f"echo {word}"))

    assert word in answer["content"]
    assert traces(user, word) == []


# That both signals end each CLI is tested in test_endings.py.
@pytest.mark.parametrize(
    ("backend", "number"),
    [("claude", signal.SIGINT), ("codex", signal.SIGTERM), ("gemini", signal.SIGINT)],
    indirect=["backend"],
)
def test_a_run_that_is_ended_leaves_no_trace(number: signal.Signals, user: User) -> None:
    word = unique()
    with user.running("-b", user.backend, "--ephemeral", f"{word} <<pause 60>>") as clinvk:
        wait_for(lambda: user.asked)

        code, _, _ = end(clinvk, number)

    assert code == 7
    assert user.processes() == []
    assert traces(user, word) == []


def test_what_was_there_before_stays(user: User) -> None:
    kept, word = unique(), unique()
    user.result(kept)
    before = saved(user, kept)

    user.result("--ephemeral", word)

    assert user.files_with(word) == []
    assert saved(user, kept) == before
    assert user.result("-c", "and now?")["content"].endswith(f"began with: {kept}")
