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


def test_a_run_is_answered_and_a_resumed_one_shows_its_first_turn(
    cli: Cli, home: Home, models: Models
) -> None:
    prompt = "my name is Ada<<size 10>><<first 1>>"  # the answer to the first request alone
    first = start(cli.run, prompt, home)

    assert len(spoken(first)) == 10
    (request,) = models.requests
    assert request.users == [prompt]
    assert request.system
    assert request.tools

    codex_reads_stdin = " -" if "codex" in cli.run else ""
    second = start(f"{cli.resume} {native_id(first)}{codex_reads_stdin}", "who am I?", home)

    assert spoken(second) == f"answer 2 to: who am I? | began with: {prompt}"


def test_a_tool_is_called_and_its_result_comes_back(cli: Cli, home: Home, models: Models) -> None:
    proof = uuid.uuid4().hex
    call = json.dumps({cli.argument: f"echo {proof} >> made; cat made"})

    answer = spoken(start(f"{cli.run} {cli.tools}", f"<<tool {cli.tool} {call}>>", home))

    assert answer.startswith("answer 1 with the result: ")
    assert proof in answer
    assert (home.project / "made").read_text() == f"{proof}\n"
    assert len(models.requests) == 2


def test_a_failure_of_the_model_is_one_of_the_cli(cli: Cli, home: Home) -> None:
    """Each status, and a stream that is cut, are in `test_failures.py`."""
    assert start(cli.run, "<<status 429 after 1>>", home).returncode != 0
