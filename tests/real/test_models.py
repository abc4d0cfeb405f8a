"""The model server is what the real CLIs expect: nothing of clinvk takes part here."""

import json
import subprocess
import uuid
from dataclasses import dataclass
from typing import Any

import pytest

from tests.models import Models
from tests.real.conftest import Home

pytestmark = pytest.mark.real


@dataclass(frozen=True)
class Cli:
    """How one of them is started; the prompt comes through stdin."""

    run: str
    resume: str
    tools: str  # what lets it use one
    tool: str  # that runs a command
    argument: str  # of that tool


CLIS = {
    "claude": Cli(
        run="claude -p --output-format stream-json --verbose",
        resume="claude -p --output-format stream-json --verbose --resume",
        tools="--allowedTools Bash",
        tool="Bash",
        argument="command",
    ),
    "codex": Cli(
        run="codex exec --json",
        resume="codex exec --json resume",
        tools="--sandbox danger-full-access",
        tool="exec_command",
        argument="cmd",
    ),
    "gemini": Cli(
        run="gemini --output-format stream-json",
        resume="gemini --output-format stream-json --resume",
        tools="--approval-mode yolo",
        tool="run_shell_command",
        argument="command",
    ),
}


@pytest.fixture(params=list(CLIS.values()), ids=list(CLIS))
def cli(request: pytest.FixtureRequest) -> Cli:
    chosen: Cli = request.param
    return chosen


def start(command: str, prompt: str, home: Home) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command.split(),
        input=prompt,
        env=home.env,
        cwd=home.project,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def events(run: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    assert run.returncode == 0, run.stderr
    return [json.loads(line) for line in run.stdout.split("\n") if line]


def spoken(run: subprocess.CompletedProcess[str]) -> str:
    return "".join(text for event in events(run) for text in said_in(event))


def said_in(event: dict[str, Any]) -> list[str]:
    """The model's words in an event, whichever of the three printed it."""
    match event:
        case {"type": "assistant", "message": {"content": blocks}}:
            return [block.get("text", "") for block in blocks]
        case {"item": {"type": "agent_message", "text": str(text)}}:
            return [text]
        case {"role": "assistant", "content": str(text)}:
            return [text]
        case _:
            return []


def native_id(run: subprocess.CompletedProcess[str]) -> str:
    first = events(run)[0]
    return str(first.get("session_id") or first["thread_id"])


def test_a_run_is_answered(cli: Cli, home: Home, models: Models) -> None:
    answer = spoken(start(cli.run, "hello", home))

    assert answer == "answer 1 to: hello | began with: hello"
    (request,) = models.requests
    assert request.users == ["hello"]
    assert request.system
    assert request.tools


def test_a_resumed_run_shows_the_first_turn_too(cli: Cli, home: Home) -> None:
    first = start(cli.run, "my name is Ada", home)
    codex_reads_stdin = " -" if "codex" in cli.run else ""

    second = start(f"{cli.resume} {native_id(first)}{codex_reads_stdin}", "who am I?", home)

    assert spoken(second) == "answer 2 to: who am I? | began with: my name is Ada"


@pytest.mark.parametrize("status", [401, 429, 500])
def test_a_refusal_is_a_failure(cli: Cli, status: int, home: Home) -> None:
    assert start(cli.run, f"<<status {status} after 1>>", home).returncode != 0


def test_a_stream_that_is_cut_is_a_failure(cli: Cli, home: Home) -> None:
    assert start(cli.run, "<<cut>>", home).returncode != 0


def test_a_tool_is_called_and_its_result_comes_back(cli: Cli, home: Home, models: Models) -> None:
    proof = uuid.uuid4().hex
    call = json.dumps({cli.argument: f"echo {proof} >> made; cat made"})

    answer = spoken(start(f"{cli.run} {cli.tools}", f"<<tool {cli.tool} {call}>>", home))

    assert answer.startswith("answer 1 with the result: ")
    assert proof in answer
    assert (home.project / "made").read_text() == f"{proof}\n"
    assert len(models.requests) == 2


def test_a_long_text_arrives_whole(cli: Cli, home: Home) -> None:
    text = spoken(start(cli.run, "<<size 200000>>", home))

    assert len(text.encode()) == 200_000


def test_a_directive_can_hold_for_the_first_request_alone(cli: Cli, home: Home) -> None:
    prompt = "<<size 10>><<first 1>>"

    texts = [spoken(start(cli.run, prompt, home)) for _ in range(2)]

    assert len(texts[0]) == 10
    assert texts[1] == f"answer 1 to: {prompt} | began with: {prompt}"
