"""The screens of the real CLIs, in a terminal: what is said there becomes part of the session."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.needs import need
from tests.real.conftest import Home
from tests.real.user import User

pytestmark = pytest.mark.real
WAIT = 60  # seconds
READY = {"claude": "❯", "codex": "Ask Codex", "gemini": "Type your message"}
QUIT = {"claude": "/exit", "codex": "/quit", "gemini": "/quit"}


class Pane:
    """A terminal with a shell, in tmux."""

    def __init__(self, home: Home, socket: Path) -> None:
        self._socket = str(socket)
        env = {**home.env, "TERM": "xterm-256color", "PS1": "$ "}
        self._run("new-session", "-d", "-x", "100", "-y", "40", "bash --norc --noprofile", env=env, cwd=home.project)  # fmt: skip

    def _run(self, *words: str, **where: object) -> str:
        argv = ["tmux", "-S", self._socket, "-f", "/dev/null", *words]
        done = subprocess.run(argv, text=True, capture_output=True, check=True, **where)  # type: ignore[call-overload]
        return str(done.stdout)

    @property
    def text(self) -> str:
        return " ".join(self._run("capture-pane", "-p").split())

    def type(self, line: str) -> None:
        self._run("send-keys", "-l", line)
        self.until(line.partition(" ")[0])
        time.sleep(0.3)  # gemini takes what arrives at once for a paste
        self._run("send-keys", "Enter")

    def until(self, text: str) -> None:
        deadline = time.monotonic() + WAIT
        while text not in self.text:
            assert time.monotonic() < deadline, f"{text!r} does not appear in: {self.text}"
            time.sleep(0.1)

    def close(self) -> None:
        self._run("kill-server")


@pytest.fixture
def pane(home: Home, tmp_path: Path) -> Iterator[Pane]:
    need("tmux")
    trust(home)
    pane = Pane(home, tmp_path / "tmux")
    yield pane
    pane.close()


def trust(home: Home) -> None:
    """What the CLIs would ask first."""
    project = {"hasTrustDialogAccepted": True, "hasCompletedProjectOnboarding": True}
    settings = {"hasCompletedOnboarding": True, "theme": "dark", "projects": {str(home.project): project},
                "customApiKeyResponses": {"approved": ["sk-fake"], "rejected": []}}  # fmt: skip
    (home.path / ".claude.json").write_text(json.dumps(settings))
    with (home.path / ".codex" / "config.toml").open("a") as config:
        config.write(f'\n[projects."{home.project}"]\ntrust_level = "trusted"\n')


def test_a_session_continues_in_the_screen_of_the_cli_and_after_it(user: User, pane: Pane):
    clinvk = f"{sys.executable} -m clinvk"
    pane.type(f"clear; {clinvk} --native -b {user.backend}; echo code $?.")
    pane.until(READY[user.backend])
    pane.type("hello there")
    pane.until("answer 1 to: hello there")
    pane.type(QUIT[user.backend])
    pane.until("2 messages added to session")
    pane.until("code 0.")
    (session,) = user.sessions()
    later = user.resumed(session["id"], "and now?")
    assert later["content"] == "answer 2 to: and now? | began with: hello there"
    assert later["native_id"] == session["native_ids"][user.backend]

    pane.type(f"clear; {clinvk} resume --last --native; echo code $?.")
    pane.until("answer 2 to: and now?")
    pane.until(READY[user.backend])
    pane.type("third")
    pane.until("answer 3 to: third")
    pane.type(QUIT[user.backend])
    pane.until("code 0.")
    shown = user.show(session["id"], "--messages", "20")
    assert [m["content"].partition(" |")[0] for m in shown["recent"]] == [
        "hello there", "answer 1 to: hello there", "and now?", "answer 2 to: and now?",
        "third", "answer 3 to: third",
    ]  # fmt: skip
    assert shown["native_ids"] == session["native_ids"]
    assert user.processes() == [p for p in user.processes() if "bash" in p or "tmux" in p]
