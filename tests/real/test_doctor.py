"""`clinvk doctor` tells of the real CLIs what is true of them."""

import json
from typing import Any

import pytest

from tests.clis import PACKAGES
from tests.forked import Server
from tests.models import Models
from tests.real.conftest import Home
from tests.real.user import BACKENDS, User

pytestmark = pytest.mark.real


def findings(user: User, **keys: str) -> dict[str, dict[str, Any]]:
    done = user.run("doctor", "--json", env=keys)
    assert done.returncode == 0, done.stderr
    found = {backend["name"]: backend for backend in json.loads(done.stdout)["backends"]}
    assert {found[name]["state"] for name in (*PACKAGES, "llm")} == {"installed"}
    return {name: found[name] for name in BACKENDS}


@pytest.fixture
def user(home: Home, models: Models, loaded_clinvk: Server) -> User:
    return User(home, models, "claude", loaded_clinvk)


def test_it_tells_versions_and_logins(user: User) -> None:
    found = findings(user, OPENAI_API_KEY="sk-fake")

    assert {name: one["state"] for name, one in found.items()} == dict.fromkeys(
        BACKENDS, "installed"
    )
    assert {name: one["login"] for name, one in found.items()} == dict.fromkeys(BACKENDS, "yes")
    for name in BACKENDS:
        assert PACKAGES[name][1] in found[name]["version"]
    assert user.models.requests == []


def test_it_tells_that_keys_are_missing(user: User) -> None:
    found = findings(user, ANTHROPIC_API_KEY="", GEMINI_API_KEY="", LOOPBACK_API_KEY="")

    assert {name: one["login"] for name, one in found.items()} == dict.fromkeys(BACKENDS, "no")
    assert all(one["advice"] for one in found.values())
