"""What a CLI did without clinvk goes on with clinvk."""

import json
import subprocess

import pytest

from tests.real.user import User, result, unique

pytestmark = pytest.mark.real
ALONE = {  # as a person types it, without clinvk
    "claude": ["claude", "--print"],
    "codex": ["codex", "exec", "--skip-git-repo-check", "-"],
    "gemini": ["gemini"],
}


def ask_alone(user: User, prompt: str) -> None:
    subprocess.run(ALONE[user.backend], cwd=user.home.project, env=user.environment(), input=prompt,
                   text=True, capture_output=True, check=True, timeout=60)  # fmt: skip


def test_a_native_session_is_adopted_and_resumed(user: User) -> None:
    word = unique()
    ask_alone(user, f"remember {word}")

    done = user.run("sessions", "import", "--yes", "--json")
    (session,) = json.loads(done.stdout)["sessions"]

    assert session["backend"] == user.backend
    assert session["cwd"] == str(user.home.project.resolve())
    shown = user.show(session["id"], "--messages", "9")
    assert [m["role"] for m in shown["recent"]] == ["user", "assistant"]
    assert word in shown["recent"][0]["content"]

    answer = result(user.run("resume", session["id"], "-o", "json", "go on"))
    assert answer["content"].startswith("answer 2 to: go on")
    assert word in answer["content"]
    if answer["usage"]:  # the turn's own, though codex counts the whole thread
        assert answer["usage"]["output"] < 20
    again = json.loads(user.run("sessions", "import", "--yes", "--json").stdout)
    assert (again["sessions"], again["known"]) == ([], 1)
