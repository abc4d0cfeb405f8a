"""`clinvk doctor` tells of the real CLIs what is true of them."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.clis import PACKAGES
from tests.forked import Server
from tests.models import Models
from tests.real.conftest import Home
from tests.real.user import BACKENDS, User

pytestmark = pytest.mark.real


def findings(user: User, **env: str) -> dict[str, dict[str, Any]]:
    done = user.run("doctor", "--json", env=env)
    assert done.returncode == 0, done.stderr
    return {backend["name"]: backend for backend in json.loads(done.stdout)["backends"]}


@pytest.fixture
def user(home: Home, models: Models, loaded_clinvk: Server) -> User:
    return User(home, models, "claude", loaded_clinvk)


def test_it_tells_versions_and_logins(user: User) -> None:
    found = findings(user, OPENAI_API_KEY="sk-fake")

    assert {found[name]["state"] for name in (*PACKAGES, "llm")} == {"installed"}
    found = {name: found[name] for name in BACKENDS}
    assert {name: one["login"] for name, one in found.items()} == dict.fromkeys(BACKENDS, "yes")
    for name in BACKENDS:
        assert PACKAGES[name][1] in found[name]["version"]
    assert user.models.requests == []


def test_it_tells_that_keys_are_missing(user: User, clis: dict[str, Path]) -> None:
    alone = user.home.path / "bin"  # without the CLIs of which this is not known
    alone.mkdir()
    for name in BACKENDS:
        (alone / name).symlink_to(clis[name])
    node = user.home.env["PATH"].partition(":")[0]
    keys = {"ANTHROPIC_API_KEY": "", "GEMINI_API_KEY": "", "LOOPBACK_API_KEY": ""}
    found = findings(user, PATH=f"{alone}:{node}:/usr/bin:/bin", **keys)
    found = {name: found[name] for name in BACKENDS}

    assert {name: one["login"] for name, one in found.items()} == dict.fromkeys(BACKENDS, "no")
    assert all(one["advice"] for one in found.values())
