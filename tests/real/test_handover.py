"""A conversation that goes from one CLI to another, branches, and outlives its native session."""

import shutil
from dataclasses import replace

import pytest

from tests.real.test_turns import STORES
from tests.real.user import User, unique

pytestmark = pytest.mark.real

NEXT = {"claude": "codex", "codex": "gemini", "gemini": "claude"}
FORKING = pytest.mark.parametrize("backend", ["claude", "codex"], indirect=True)


def test_another_backend_takes_the_conversation_over_and_gives_it_back(user: User) -> None:
    mine, theirs, after = unique(), unique(), unique()
    first = user.result(f"remember {mine}")

    other = replace(user, backend=NEXT[user.backend])
    taken = user.run("-c", "--to", other.backend, "-o", "json", f"now {theirs}")
    back = user.run("-c", "--to", user.backend, "-o", "json", f"and {after}")

    assert (taken.returncode, back.returncode) == (0, 0), taken.stderr + back.stderr
    asked = user.asked
    assert mine in asked[1].users[-1]
    assert asked[1].users[-1].endswith(f"now {theirs}")
    assert f"from {user.backend} to {other.backend}" in taken.stderr
    # Back home, only what was missed is handed over: the CLI remembers the rest by itself.
    assert len(asked[2].users) == 2
    assert theirs in asked[2].users[-1]
    assert mine not in asked[2].users[-1].split(theirs)[0]
    session = user.show(first["session_id"])
    assert set(session["native_ids"]) == {user.backend, other.backend}
    assert session["turns"] == 3


def test_a_mention_in_a_conversation_that_is_handed_over_stays_text(user: User) -> None:
    secret = unique()
    (user.home.project / "secret.txt").write_text(secret)
    user.result("see @secret.txt please")

    other = NEXT[user.backend]
    done = user.run("-c", "--to", other, "and now?")

    assert done.returncode == 0, done.stderr
    assert all(secret not in str(asked.body) for asked in user.asked)


def test_a_native_session_that_is_gone_is_begun_anew_from_the_transcript(user: User) -> None:
    word = unique()
    first = user.result(f"remember {word}")
    for store in (user.home.path / STORES[user.backend]).glob("*"):
        if store.name not in ("config.toml", "settings.json"):
            shutil.rmtree(store) if store.is_dir() else store.unlink()

    gone = user.resumed(first["session_id"], "and now?", code=4)
    again = user.resumed(first["session_id"], "--replay", "and now?")

    assert gone["error"]["kind"] == "session"
    assert "--replay" in gone["error"]["hint"]
    assert word in user.asked[-1].users[-1]
    assert again["native_id"] != first["native_id"]
    assert user.resumed(first["session_id"], "and then?")["native_id"] == again["native_id"]


@FORKING
def test_a_branch_is_a_fork_of_the_clis_own(user: User) -> None:
    word = unique()
    first = user.result(f"remember {word}")
    branch = user.run("sessions", "branch", first["session_id"]).stdout.strip()

    forked = user.resumed(branch, "in the branch")
    base = user.resumed(first["session_id"], "in the base")

    assert forked["native_id"] != first["native_id"] == base["native_id"]
    assert "handing" not in str(forked)
    in_branch, in_base = user.asked[-2:]
    assert [len(asked.users) for asked in (in_branch, in_base)] == [2, 2]
    assert word in in_branch.users[0]
    # codex counts the parent's tokens into a fork; the turn is its own all the same.
    assert forked["usage"]["input"] == base["usage"]["input"]


def test_a_branch_in_the_middle_begins_with_the_transcript(user: User) -> None:
    early, late = unique(), unique()
    first = user.result(f"remember {early}")
    user.resumed(first["session_id"], f"and {late}")
    branch = user.run("sessions", "branch", first["session_id"], "--at", "1").stdout.strip()

    user.resumed(branch, "in the branch")

    text = str(user.asked[-1].users)
    assert early in text
    assert late not in text
