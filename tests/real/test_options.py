"""What is asked for reaches the model, or is refused by its name."""

import json

import pytest

from tests import clis as real_clis
from tests.real.user import User, unique

pytestmark = pytest.mark.real

SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


def test_a_system_prompt_reaches_the_model_on_every_turn_and_may_change(user: User) -> None:
    first, second = unique(), unique()

    user.result("--system-prompt", first, "hello")
    user.result("-c", "and now?")
    # codex takes one when a thread begins, and would ignore any other.
    code = 1 if user.backend == "codex" else 0
    answer = user.result("-c", "--system-prompt", second, "and then?", code=code)

    assert [first in asked.system for asked in user.asked[:2]] == [True, True]
    if code:
        assert "--system-prompt" in answer["error"]["message"]
        assert len(user.asked) == 2
    else:
        assert second in user.asked[-1].system
        assert first not in user.asked[-1].system


@pytest.mark.parametrize("backend", ["codex"], indirect=True)
def test_a_first_system_prompt_that_codex_would_ignore_is_refused(user: User) -> None:
    user.result("hello")

    answer = user.result("-c", "--system-prompt", unique(), "and now?", code=1)

    assert "--system-prompt" in answer["error"]["message"]
    assert len(user.asked) == 1


def test_an_argument_for_the_cli_itself_gets_there_also_inside_of_claude(user: User) -> None:
    flag = {"claude": "--model", "codex": "-m", "gemini": "-m"}[user.backend]
    inherited = {"CLAUDECODE": "1", "CLAUDE_CODE_ENTRYPOINT": "cli"}

    answer = user.result("hello", "--", flag, "made-up-model", env=inherited)

    assert answer["content"].startswith("answer 1")
    assert user.asked[0].model == "made-up-model"


@pytest.mark.parametrize("backend", ["claude"], indirect=True)
def test_turns_can_be_limited(user: User) -> None:
    call = json.dumps({"command": "true"})

    answer = user.result(
        "--max-turns", "2", "--allowed-tools", "Bash", f"<<loop Bash {call}>>", code=1
    )

    assert len(user.asked) == 2
    assert "--max-turns" in answer["error"]["hint"]


@pytest.mark.parametrize("backend", ["claude"], indirect=True)
def test_the_tokens_of_an_answer_can_be_limited(user: User) -> None:
    user.result("--max-tokens", "500", "hello")
    user.run("config", "set", "unified_flags.max_tokens", "600")
    user.result("hello")

    assert [asked.body["max_tokens"] for asked in user.asked] == [500, 600]


@pytest.mark.parametrize("backend", ["claude"], indirect=True)
def test_claude_continues_an_answer_that_reached_the_limit_in_another_model_call(
    user: User,
) -> None:
    answer = user.result("--max-tokens", "500", "<<full>> <<first 1>> hello")

    assert answer["content"].count("answer ") == 2  # what came before the limit is a part of it
    assert [asked.body["max_tokens"] for asked in user.asked] == [500, 500]


@pytest.mark.skipif(
    real_clis.IS_OLDER, reason="it continues with another prompt, which is answered"
)
@pytest.mark.parametrize("backend", ["claude"], indirect=True)
def test_an_answer_that_reaches_the_limit_each_time_is_incomplete(user: User) -> None:
    answer = user.result("--max-tokens", "500", "<<full>> hello", code=1)

    assert answer["error"]["kind"] == "incomplete"
    assert "--max-tokens" in answer["error"]["hint"]
    assert answer["content"].startswith("answer 1 to:")


@pytest.mark.parametrize("backend", ["codex", "gemini"], indirect=True)
def test_tokens_that_cannot_be_limited_are_refused(user: User) -> None:
    answer = user.result("--max-tokens", "500", "hello", code=1)

    assert answer["error"]["kind"] == "usage"
    assert "--max-tokens" in answer["error"]["message"]
    assert user.models.requests == []


@pytest.mark.parametrize("backend", ["codex", "gemini"], indirect=True)
def test_tokens_that_the_configuration_cannot_limit_are_dropped_with_a_notice(user: User) -> None:
    user.run("config", "set", "unified_flags.max_tokens", "500")

    done = user.ask("hello")

    assert done.returncode == 0
    assert "max_tokens" in done.stderr


@pytest.mark.parametrize("backend", ["codex", "gemini"], indirect=True)
def test_turns_that_cannot_be_limited_are_refused(user: User) -> None:
    answer = user.result("--max-turns", "2", "hello", code=1)

    assert answer["error"]["kind"] == "usage"
    assert "--max-turns" in answer["error"]["message"]
    assert user.models.requests == []


@pytest.mark.parametrize("backend", ["codex", "gemini"], indirect=True)
def test_what_cannot_be_done_is_dropped_where_that_is_agreed(user: User) -> None:
    done = user.ask("--lenient", "--max-turns", "2", "hello")

    assert done.returncode == 0
    assert "--max-turns" in done.stderr


@pytest.mark.parametrize("backend", ["claude", "codex"], indirect=True)
def test_an_answer_fits_its_schema(user: User) -> None:
    (user.home.project / "schema.json").write_text(json.dumps(SCHEMA))

    it = {"name": "sample", "age": 1}
    prompts = {"claude": f"<<tool StructuredOutput {json.dumps(it)}>>", "codex": "who is it?"}

    answer = user.result("--schema", "schema.json", prompts[user.backend])

    assert answer["structured"] == it


@pytest.mark.parametrize("backend", ["claude"], indirect=True)
def test_an_answer_that_does_not_fit_is_no_success(user: User) -> None:
    (user.home.project / "schema.json").write_text(json.dumps(SCHEMA))

    answer = user.result("--schema", "schema.json", "who is it?", code=1)

    assert answer["error"]["kind"] == "schema"


@pytest.mark.parametrize("backend", ["gemini"], indirect=True)
def test_a_cli_without_an_option_for_a_schema_is_told_it_and_asked_again(user: User) -> None:
    (user.home.project / "schema.json").write_text(json.dumps(SCHEMA))

    answer = user.result("--schema", "schema.json", "who is it?", code=1)

    assert (answer["error"]["kind"], answer["structured_attempts"]) == ("schema", 2)
    first, again = (request.last for request in user.models.requests)
    assert json.dumps(SCHEMA) in first
    assert "cannot be used: the answer does not match the schema" in again


@pytest.mark.parametrize("option", ["--model", "--allowed-tools"])
def test_the_value_of_an_option_is_never_a_flag_of_the_cli(option: str, user: User) -> None:
    flag = {
        "claude": "--dangerously-skip-permissions",
        "codex": "--dangerously-bypass-approvals-and-sandbox",
        "gemini": "--yolo",
    }[user.backend]
    made = user.home.project / "made"

    user.trusting.ask(f"{option}={flag}", user.write(made, "text"))

    assert not made.exists()
