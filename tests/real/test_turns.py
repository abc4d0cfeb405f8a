"""Turns of a conversation: a run, going on with it, and what is kept of them."""

import json
import os
import shutil
import subprocess
import time

import pytest

from tests.models.answer import INPUT, OUTPUT
from tests.real.user import CLINVK, User, result, unique

pytestmark = pytest.mark.real

STORES = {"claude": ".claude/projects", "codex": ".codex", "gemini": ".gemini/tmp"}
STREAMING = pytest.mark.parametrize("backend", ["claude", "gemini"], indirect=True)


def test_a_run_answers_and_leaves_a_session(user: User) -> None:
    answer = user.result("hello", "--title", "Greeting")

    assert answer["content"] == "answer 1 to: hello | began with: hello"
    (asked,) = user.asked
    assert asked.users == ["hello"]
    (session,) = user.sessions()
    assert session["id"] == answer["session_id"]
    assert session["native_id"] == answer["native_id"]
    assert user.files_with(answer["native_id"])
    assert session["backend"] == user.backend
    assert session["cwd"] == str(user.home.project)
    assert session["title"] == "Greeting"
    assert session["messages"] == {"user": 1, "assistant": 1}
    assert session["usage"] == answer["usage"]
    assert session["usage"]["input"] == INPUT

    # It is not continued from another directory.
    user.models.requests.clear()
    done = user.ask("-c", "and now?", cwd=user.home.path)
    assert done.returncode == 4
    assert "clinvk resume" in done.stderr
    assert user.models.requests == []


def test_the_model_is_recorded_and_a_session_keeps_it_unless_told_otherwise(user: User) -> None:
    answer = user.result("hello", "--model", "made-up-model")

    assert answer["model"] == "made-up-model"
    assert user.sessions()[0]["model"] == "made-up-model"

    user.result("-c", "and now?")
    user.result("-c", "and then?", "--model", "another-model")

    models = [asked.model for asked in user.asked]
    assert models == ["made-up-model", "made-up-model", "another-model"]


def test_text_is_the_answer_and_nothing_else(user: User) -> None:
    assert user.ask("hello").stdout == "answer 1 to: hello | began with: hello\n"


@STREAMING
def test_text_arrives_in_pieces(user: User) -> None:
    arrived = []
    with user.running("-b", user.backend, "hello <<pause 1.5>>") as clinvk:
        assert clinvk.stdout
        while piece := os.read(clinvk.stdout.fileno(), 65_536):
            arrived.append((time.monotonic(), piece.decode()))

    assert clinvk.returncode == 0
    (first, beginning), (last, _) = arrived[0], arrived[-1]
    assert beginning.startswith("answer 1 to")
    assert last - first > 1
    assert "".join(text for _, text in arrived).count("answer") == 1


@STREAMING
def test_events_tell_of_the_pieces(user: User) -> None:
    lines = user.ask("-o", "stream-json", "hello").stdout.split("\n")

    events = [json.loads(line) for line in lines if line]
    pieces = [event["text"] for event in events if event["type"] == "delta"]
    assert len(pieces) > 1
    assert "".join(pieces) == "answer 1 to: hello | began with: hello"
    assert events[-1]["type"] == "finished"
    assert events[-1]["content"] == "".join(pieces)


def test_a_conversation_continues_in_its_directory_by_any_name_and_its_usage_adds_up(
    user: User,
) -> None:
    first = user.result("my name is Ada")
    elsewhere = user.home.path / "elsewhere"
    elsewhere.mkdir()
    (user.home.project / "here").write_text("the right folder")
    reads = {  # with what each may do unasked
        "claude": f"<<tool Read {json.dumps({'file_path': str(user.home.project / 'here')})}>>",
        "codex": user.shell("cat here"),
        "gemini": f"<<tool read_file {json.dumps({'file_path': 'here'})}>>",
    }

    continued = user.result("-c", "second")
    by_id = user.resumed(first["session_id"], "third", cwd=elsewhere)
    by_native_id = user.resumed(first["native_id"], "fourth", cwd=elsewhere)

    answers = [continued["content"], by_id["content"], by_native_id["content"]]
    assert answers == [
        "answer 2 to: second | began with: my name is Ada",
        "answer 3 to: third | began with: my name is Ada",
        "answer 4 to: fourth | began with: my name is Ada",
    ]
    assert user.asked[-1].users == ["my name is Ada", "second", "third", "fourth"]
    (session,) = user.sessions()
    assert session["turns"] == 4
    assert session["native_id"] == first["native_id"]
    assert session["cwd"] == str(user.home.project)

    turns = [first, continued, by_id, by_native_id]
    spent = [turn["usage"] for turn in turns]
    assert [usage["input"] for usage in spent] == [INPUT] * 4
    assert [usage["output"] for usage in spent] == [OUTPUT] * 4
    shown = user.show(first["session_id"])
    assert shown["usage"]["input"] == 4 * INPUT
    assert shown["usage"]["output"] == 4 * OUTPUT
    if user.backend == "claude":
        cost = first["cost"]["usd"]
        assert [turn["cost"]["usd"] for turn in turns] == [pytest.approx(cost)] * 4
        assert shown["cost"] == pytest.approx(4 * cost)

    read = user.resumed(first["session_id"], reads[user.backend], cwd=elsewhere)
    assert "the right folder" in read["content"]


def test_two_turns_of_one_session_wait_for_each_other(user: User) -> None:
    id_ = user.result("first")["session_id"]
    command = [*CLINVK, "resume", id_, "-o", "json"]

    running = [
        subprocess.Popen(
            [*command, f"{word} <<wait 1>>"],
            cwd=user.home.project,
            env=user.environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
        )
        for word in ("tick", "tock")
    ]
    ends = [(one, *one.communicate(timeout=60)) for one in running]

    done = [subprocess.CompletedProcess(one.args, one.returncode, *said) for one, *said in ends]
    answers = sorted(result(one)["content"] for one in done)
    assert [answer[:8] for answer in answers] == ["answer 2", "answer 3"]
    assert "waiting" in "".join(one.stderr for one in done)
    shown = user.show(id_, "--messages", "10")
    assert shown["turns"] == 3
    said = [message["content"] for message in shown["recent"] if message["role"] == "assistant"]
    assert said[1:] == answers
    assert len(user.asked[-1].users) == 3


def test_a_session_that_the_cli_has_lost_says_so(user: User) -> None:
    id_ = user.result("hello")["session_id"]
    store = user.home.path / STORES[user.backend]
    for found in store.iterdir():
        if found.is_dir():
            shutil.rmtree(found)
        elif found.name != "config.toml":
            found.unlink()

    answer = user.resumed(id_, "and now?", code=4)

    assert answer["error"]["kind"] == "session"
    assert user.backend in answer["error"]["hint"]
    assert user.show(id_)["turns"] >= 1  # what we know of it is not lost


def test_sessions_side_by_side_do_not_mix_also_outside_of_git(user: User) -> None:
    folder = user.home.path / "plain"
    folder.mkdir()
    words = [unique(), unique()]
    ids = [user.result(word, cwd=folder)["session_id"] for word in words]

    answers = [user.resumed(id_, "and now?")["content"] for id_ in ids]

    assert answers == [f"answer 2 to: and now? | began with: {word}" for word in words]
