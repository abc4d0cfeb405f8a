"""`Client`, `AsyncClient` and `Agent`: chat completions and conversations over any backend."""

import json
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

import clinvk
from clinvk import Agent, AsyncClient, Client, MemoryConfig, Message, SessionManager, TurnError
from clinvk.api.chat_objects import read_messages
from clinvk.errors import UsageError
from clinvk.testing import fake_backend
from tests.conftest import Home
from tests.stores import keep

EVENTS = [
    {"when": "type == 'delta'", "emit": "delta", "set": {"text": "text"}},
    {"when": "type == 'end'", "emit": "finished", "set": {"text": "text", "usage": "usage"}},
]


def said(text: str, role: str = "user") -> dict[str, Any]:
    return {"role": role, "content": text}


@pytest.fixture(autouse=True)
def at_home(home: Home, monkeypatch: pytest.MonkeyPatch) -> Home:
    monkeypatch.setenv("CLINVK_HOME", str(home.path))
    monkeypatch.setenv("CLINVK_BACKEND", "echo")
    return home


def test_a_completion_has_the_shape_of_a_chat_api_and_keeps_nothing(home: Home):
    reply = Client().chat.completions.create(model="echo", messages=[said("Hello!")])
    assert "Hello!" in reply.choices[0].message.content
    assert reply.choices[0].finish_reason == "stop"
    assert reply.usage is not None
    assert reply.usage.total_tokens == reply.usage.prompt_tokens + reply.usage.completion_tokens > 0
    data = json.loads(json.dumps(reply.to_json()))
    assert data["choices"][0]["message"] == {"role": "assistant", "content": reply.result.text}
    assert data["object"] == "chat.completion"
    assert "result" not in data
    assert keep(SessionManager()).list_sessions() == []


def test_a_model_names_a_backend_or_a_model_of_one(home: Home):
    fake = fake_backend(home.path, "claude", answers="Hi.")
    ask = Client(backend="claude").chat.completions.create
    assert ask(model="claude/opus", messages=[said("a")]).choices[0].message.content == "Hi."
    ask(model="haiku", messages=[said("b")])
    ask(model="claude", messages=[said("c")])
    ask(messages=[said("d")])
    assert ask(model="echo", messages=[said("e")]).result.backend == "echo"
    models = [" ".join(call["args"]) for call in fake.calls]
    assert ["opus" in models[0], "haiku" in models[1]] == [True, True]
    assert "--model" not in models[2] + models[3]


def test_earlier_messages_and_instructions_reach_the_model(home: Home):
    fake = fake_backend(home.path, "claude", answers="Hi.")
    Client().chat.completions.create(
        model="claude",
        messages=[
            said("Answer in French.", "developer"),
            said("My name is Ada."),
            said("Bonjour Ada.", "assistant"),
            {"role": "user", "content": [{"type": "text", "text": "What is"}, {"type": "text", "text": "my name?"}]},
        ],
    )  # fmt: skip
    assert "My name is Ada." in fake.prompts[0]
    assert "Bonjour Ada." in fake.prompts[0]
    assert fake.prompts[0].endswith("What is\nmy name?")
    assert "Answer in French." not in fake.prompts[0]  # it is the system prompt
    assert "--system-prompt" in fake.calls[0]["args"]


def test_a_named_session_is_continued_and_gets_only_what_is_new(home: Home):
    create = Client().chat.completions.create
    first = create(model="echo", messages=[said("one")], session="talk")
    messages = [said("one"), said(first.choices[0].message.content, "assistant"), said("two")]
    create(model="echo", messages=messages, session="talk")
    kept = keep(SessionManager()).get_messages("talk")
    assert [m.content for m in kept if m.role == "user"] == ["one", "two"]


def test_pieces_arrive_while_the_program_still_runs(home: Home, tmp_path: Path):
    wait = tmp_path / "wait"
    wait.touch()
    home.backend(
        "slow",
        "#!" + sys.executable + "\n"
        "import os, time\n"
        'print(\'{"type": "delta", "text": "Hel"}\', flush=True)\n'
        f"while os.path.exists({str(wait)!r}): time.sleep(0.01)\n"
        'print(\'{"type": "delta", "text": "lo"}\')\n'
        'print(\'{"type": "end", "text": "Hello", "usage": {"input": 3, "output": 2}}\')\n',
        events=EVENTS,
    )
    chunks = Client().chat.completions.create(model="slow", messages=[said("x")], stream=True)
    assert next(chunks).choices[0].delta.role == "assistant"
    assert next(chunks).choices[0].delta.content == "Hel"
    wait.unlink()
    rest = list(chunks)
    assert "".join(c.choices[0].delta.content or "" for c in rest) == "lo"
    assert [c.choices[0].finish_reason for c in rest] == [None, "stop"]
    assert rest[-1].usage is not None
    assert rest[-1].usage.total_tokens == 5
    assert rest[-1].result is not None
    assert rest[-1].result.ok


def test_leaving_the_pieces_early_stops_the_program(home: Home, tmp_path: Path):
    pid = tmp_path / "pid"
    home.backend(
        "slow",
        "#!" + sys.executable + "\n"
        "import os, time\n"
        f"open({str(pid)!r}, 'w').write(str(os.getpid()))\n"
        'print(\'{"type": "delta", "text": "Hel"}\', flush=True)\n'
        "time.sleep(600)\n",
        events=EVENTS,
    )
    for chunk in Client().chat.completions.create(model="slow", messages=[said("x")], stream=True):
        if chunk.choices[0].delta.content:
            break
    deadline = time.monotonic() + 60
    while psutil.pid_exists(int(pid.read_text())):
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.anyio
async def test_async_clients_answer_and_stream():
    create = AsyncClient().chat.completions.create
    reply = await create(model="echo", messages=[said("Hello!")])
    pieces = [
        chunk.choices[0].delta.content or ""
        async for chunk in await create(model="echo", messages=[said("Hello!")], stream=True)
    ]
    assert "".join(pieces) == reply.choices[0].message.content
    assert "Hello!" in reply.choices[0].message.content


def test_a_failed_turn_raises_with_its_result(home: Home):
    create = Client().chat.completions.create
    with pytest.raises(TurnError, match="429") as caught:
        create(model="echo", messages=[said("x")], fail=429)
    assert (caught.value.kind, caught.value.exit_code) == ("limit", 75)
    assert caught.value.result.backend == "echo"
    with pytest.raises(TurnError, match="429"):
        list(create(model="echo", messages=[said("x")], fail=429, stream=True))
    with pytest.raises(UsageError, match="no_such"):
        create(model="echo", messages=[said("x")], no_such=1)


@pytest.mark.parametrize(
    ("messages", "problem"),
    [
        ([], "messages is empty"),
        ([said("x", "assistant")], "the last message|is of role assistant"),
        ([said("x", "robot")], "robot"),
        ([{"role": "user"}], r"messages\[0\].content"),
        ([{"role": "user", "content": [{"type": "image_url"}]}], "image_url"),
        ([{"role": "user", "content": ["x"]}], "str"),
        (["x"], "str"),
    ],
)
def test_messages_that_cannot_be_sent_are_refused(messages: Any, problem: str):
    with pytest.raises(UsageError, match=problem):
        read_messages(messages)


@pytest.mark.anyio
async def test_an_event_loop_is_not_blocked():
    for stream in (False, True):
        with pytest.raises(UsageError, match="event loop"):
            Client().chat.completions.create(messages=[said("x")], stream=stream)  # type: ignore[call-overload]


def test_an_agent_continues_its_conversation(home: Home):
    agent = Agent(name="Assistant", instructions="Be brief.")
    assert "one" in agent.start("one")
    agent.start("two")
    [session] = keep(SessionManager()).list_sessions()
    assert session.turns == 2
    assert agent.result is not None
    assert agent.result.session_id == session.id


def test_an_agent_with_memory_is_continued_by_a_later_program(home: Home):
    Agent(name="A", memory=MemoryConfig(auto_save="my-project")).start("one")
    Agent(name="B", memory=MemoryConfig(auto_save="my-project")).start("two")
    Agent(name="Code Réviewer!", memory=True).start("three")
    manager = keep(SessionManager())
    asked = [m.content for m in manager.get_messages("my-project") if m.role == "user"]
    assert asked == ["one", "two"]
    assert manager.get_session("code-reviewer").turns == 1


def test_an_agent_with_context_is_told_about_earlier_sessions(home: Home):
    clinvk.run("we spoke of decorators", backend="echo")
    agent = Agent(context=True)
    assert "we spoke of decorators" in agent.start("What did we discuss yesterday?")
    with pytest.raises(UsageError, match="less than 0"):
        Agent(context=-1)


@pytest.mark.anyio
async def test_an_agent_continues_after_a_failure(home: Home):
    fake_backend(home.path, "claude", answers=[clinvk.Failure("server", "overloaded"), "Fixed."])
    agent = Agent(backend="claude")
    with pytest.raises(TurnError, match="overloaded"):
        await agent.astart("one")
    assert await agent.astart("two") == "Fixed."


def test_messages_of_clinvk_are_messages(home: Home):
    reply = Client().chat.completions.create(model="echo", messages=[Message("user", "Hello!")])
    assert "Hello!" in reply.choices[0].message.content
