"""opencode, qwen, pi, copilot, cline and llm: what each can do, in few runs, since they start slowly."""

import json
import os
import signal
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import pytest

from tests.forked import Server
from tests.models import Models
from tests.models.answer import INPUT, OUTPUT, filler
from tests.real.conftest import Home
from tests.real.setups import SETUPS
from tests.real.user import SOON, User, end, result, unique, wait_for

pytestmark = pytest.mark.real


@dataclass(frozen=True)
class Cli:
    """What is particular about one. A tool is a name and its arguments, with MADE for a file."""

    write: tuple[str, Mapping[str, Any]] | None = None  # the tool that writes a file
    may: tuple[str, ...] = ()  # what lets it do that
    may_not: tuple[str, ...] | None = None  # what denies it; None: nothing does
    names_denied: bool = True  # a denied tool is listed
    ephemeral: bool = True
    resumes: bool = True  # a conversation of its own; the others are handed the transcript
    counts: bool = True  # it reports tokens
    kind_of_401: str = "auth"  # its messages may lack the status
    loses_output: bool = False  # what a pipe has not taken when it exits, which clinvk notices
    leaves_a_hub: bool = False  # a process that clinvk reports, since it is for all of its sessions
    knows_late: bool = False  # it names its session when the first answer is complete
    failures: tuple[str, ...] = ("large", "key", "cut", "slow")  # fewer where it starts slowly
    recovers: bool = False  # it lets the model finish an answer that was cut off


MADE = "MADE"
CLIS = {
    "qwen": Cli(
        ("write_file", {"file_path": MADE, "content": "text"}),
        may=("--approval", "auto"),
        may_not=("--approval", "always"),
        recovers=True,
    ),
    "pi": Cli(
        ("write", {"path": MADE, "content": "text"}),
        may=("--approval", "auto"),
        may_not=("--sandbox", "read-only"),
        names_denied=False,
    ),
    "copilot": Cli(
        ("create", {"path": MADE, "file_text": "text"}),
        may=("--approval", "auto"),
        may_not=(),
        ephemeral=False,
        counts=False,
    ),
    "llm": Cli(counts=False),
    "cline": Cli(
        ("editor", {"path": MADE, "new_text": "text"}),
        may=("--approval", "none"),
        may_not=("--approval", "always"),
        ephemeral=False,
        resumes=False,
        leaves_a_hub=True,
        kind_of_401="backend",
        failures=("large", "key", "slow"),
        loses_output=True,
    ),
    "opencode": Cli(
        ("write", {"filePath": MADE, "content": "text"}),
        may=("--approval", "auto"),
        may_not=("--sandbox", "read-only"),
        names_denied=False,
        knows_late=True,
        failures=("key",),  # two that create its database at the same time: one of them fails
    ),
}


@pytest.fixture(params=CLIS)
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def cli(backend: str) -> Cli:
    return CLIS[backend]


@pytest.fixture
def user(home: Home, models: Models, backend: str, loaded_clinvk: Server) -> Iterator[User]:
    own = SETUPS[backend](home.path, models.url)
    user = User(replace(home, env={**home.env, **own}), models, backend, loaded_clinvk)
    yield user
    for process in user.processes():  # the hub that cline leaves
        with suppress(ProcessLookupError):
            os.kill(int(process.split()[0]), signal.SIGKILL)


def left(user: User, cli: Cli) -> list[str]:
    """What still runs in the name of this user and should not."""
    return [] if cli.leaves_a_hub else user.processes()


def writing(user: User, cli: Cli) -> str:
    """A prompt that makes the model write a file of the project."""
    assert cli.write
    name, arguments = cli.write
    made = str(user.home.project / "made")
    return f"<<tool {name} {json.dumps(dict(arguments)).replace(MADE, made)}>>"


def test_a_conversation_continues_in_its_directory_and_may_use_a_tool(user: User, cli: Cli) -> None:
    word = unique()
    done = user.ask("-o", "json", word)
    first = result(done)
    assert ("still running in the background" in done.stderr) is cli.leaves_a_hub
    assert first["content"] == f"answer 1 to: {word} | began with: {word}"
    if cli.counts:
        assert (first["usage"]["input"], first["usage"]["output"]) == (INPUT, OUTPUT)
    assert user.models.requests[-1].users == [word]
    assert user.models.requests[-1].model == "made-up"

    elsewhere = user.home.path / "elsewhere"
    elsewhere.mkdir()
    prompt = writing(user, cli) if cli.write else "and now?"
    second = user.resumed(first["session_id"], prompt, *cli.may, cwd=elsewhere)

    assert second["content"].startswith("answer 2" if cli.resumes else "answer 1")
    assert word in json.dumps(user.models.requests[-1].body)
    if cli.write:
        assert (user.home.project / "made").read_text() == "text"
        assert "with the result" in second["content"]
    if cli.counts:
        calls = 2 if cli.write else 1
        assert second["usage"]["input"] == calls * INPUT
    (session,) = user.sessions()
    assert session["turns"] == 2
    assert session["native_id"] == first["native_id"] == second["native_id"]
    assert bool(first["native_id"]) is cli.resumes
    assert left(user, cli) == []


def test_an_ephemeral_run_leaves_nothing_and_a_denied_tool_is_told(user: User, cli: Cli) -> None:
    word = unique()
    prompt = f"{word} {writing(user, cli)}" if cli.write and cli.may_not is not None else word
    ephemeral = ("--ephemeral",) if cli.ephemeral else ()

    answer = user.result(*ephemeral, *(cli.may_not or ()), prompt)

    assert "answer 1" in answer["content"]
    if cli.write and cli.may_not is not None:
        assert not (user.home.project / "made").exists()
        names = [denied["name"] for denied in answer["denied"]]
        assert names == ([cli.write[0]] if cli.names_denied else [])
    if cli.ephemeral:
        assert user.files_with(word) == []
        assert user.sessions() == []
    else:
        refused = user.result("--ephemeral", "hello", code=1)
        assert "without saving" in refused["error"]["message"]


def test_what_goes_wrong_is_told_and_a_large_answer_is_whole(user: User, cli: Cli) -> None:
    """All at the same time."""
    prompts = {
        "large": "<<size 1000000>>",
        "key": "<<status 401>>",
        "cut": "hello <<cut>>",
        "slow": "hello <<pause 60>>",
    }
    tasks = [
        {
            "name": name,
            "backend": user.backend,
            "prompt": prompt,
            "timeout": 20 if name == "slow" else 120,
        }
        for name, prompt in prompts.items()
        if name in cli.failures
    ]
    file = user.home.project / "tasks.json"
    file.write_text(json.dumps({"tasks": tasks}))

    done = user.run("parallel", str(file), "--max-parallel", "4", "-o", "json")

    assert done.returncode == 1, done.stderr
    found = {task["name"]: task for task in json.loads(done.stdout)["results"]}
    kinds = {name: task["error"] and task["error"]["kind"] for name, task in found.items()}
    if "large" in found and kinds["large"] is None:
        assert found["large"]["output"].strip() == filler(1_000_000).strip()
    expected = {
        "large": "incomplete" if cli.loses_output and kinds["large"] else None,
        "key": cli.kind_of_401,
        "cut": None if cli.recovers else "server",
        "slow": "timeout",
    }
    assert kinds == {name: expected[name] for name in cli.failures}
    assert left(user, cli) == []


def test_a_signal_ends_it_and_the_conversation_continues(user: User, cli: Cli) -> None:
    word = unique()
    with user.running("-b", user.backend, f"{word} <<pause 60>>") as clinvk:
        wait_for(lambda: user.models.requests)

        code, seconds, stderr = end(clinvk, signal.SIGINT)

    assert code == 7
    assert seconds < SOON
    assert ("clinvk resume" in stderr) is (cli.resumes and not cli.knows_late)
    assert left(user, cli) == []
    user.models.requests.clear()
    with user.running("-b", user.backend, "-c", "and now?") as clinvk:
        # A CLI that has kept nothing is handed the transcript, and with it the pause.
        wait_for(lambda: user.models.requests)
        end(clinvk, signal.SIGINT)
    assert word in json.dumps(user.models.requests[0].body)
    assert len(user.sessions()) == 1


def test_a_plan_changes_nothing(user: User, cli: Cli) -> None:
    if not cli.write:
        assert user.result("--planning", "hello")["content"].startswith("answer 1")
        return
    if cli.may[0] == "--approval":
        user.run("config", "set", f"backends.{user.backend}.approval_mode", cli.may[1])

    answer = user.result("--planning", writing(user, cli))

    assert not (user.home.project / "made").exists(), answer
