"""A person at the interactive prompt, with claude and codex behind it."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.needs import need
from tests.real.user import User, unique
from tests.tmux import Tmux

pytestmark = pytest.mark.real


@pytest.mark.parametrize("backend", ["claude"], indirect=True)
def test_a_conversation_at_the_prompt_goes_from_claude_to_codex(user: User, tmp_path: Path) -> None:
    need("tmux")
    user = replace(user.trusting)
    tmux = Tmux(user.environment(), user.home.project, tmp_path / "tmux")
    mine, theirs = unique(), unique()
    try:
        tmux.start("-b", "claude", "--approval", "none")
        tmux.shows("new session")
        tmux.type(f"remember {mine}")
        tmux.shows("tokens")
        tmux.type(user.shell("echo of the tool"))
        tmux.shows("✓ Bash  echo of the tool")
        tmux.waits(lambda: "Ctrl-C stops" not in tmux.screen(), "the end")
        tmux.type(f"/to codex and {theirs}")
        tmux.shows("codex · ")
        tmux.waits(lambda: any(theirs in r.users[-1] for r in user.asked), "the message")
        tmux.waits(lambda: "Ctrl-C stops" not in tmux.screen(), "the end")
        tmux.keys("C-d")
        tmux.shows("exit 0")
        assert mine in next(r for r in user.asked if theirs in r.users[-1]).users[-1]

        (id_,) = [s["id"] for s in user.sessions()]
        tmux.close()
        tmux.start("resume", id_)
        tmux.shows(f"session {id_}: 6 messages")
        tmux.type("once more")
        tmux.waits(lambda: user.asked[-1].users[-1] == "once more", "the message")
        tmux.waits(lambda: "Ctrl-C stops" not in tmux.screen(), "the end")
        assert set(user.show(id_)["native_ids"]) == {"claude", "codex"}
        assert user.show(id_)["turns"] == 4
    finally:
        tmux.close()
