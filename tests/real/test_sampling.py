"""What `llm` is told about sampling reaches the model."""

from dataclasses import replace

import pytest

from tests.forked import Server
from tests.models import Models
from tests.real.conftest import Home
from tests.real.setups import SETUPS
from tests.real.user import User

pytestmark = pytest.mark.real

FLAGS = {
    "temperature": 0.25, "top_p": 0.5, "frequency_penalty": 0.3, "presence_penalty": -0.5,
    "max_tokens": 77,
}  # fmt: skip


@pytest.fixture
def user(home: Home, models: Models, loaded_clinvk: Server) -> User:
    own = SETUPS["llm"](home.path, models.url)
    return User(replace(home, env={**home.env, **own}), models, "llm", loaded_clinvk)


def test_the_options_of_a_prompt_reach_the_model(user: User) -> None:
    words = [w for name, v in FLAGS.items() for w in (f"--{name.replace('_', '-')}", str(v))]

    user.result(*words, "--no-stream", "--option", "stop=['END']", "hello")

    body = user.models.requests[-1].body
    assert {name: body.get(name) for name in FLAGS} == FLAGS
    assert (body["stop"], body["stream"]) == ("END", False)


def test_stored_options_reach_the_model_until_they_are_reset(user: User) -> None:
    user.run("session", "--temperature", "0.4", "--max-tokens", "9")
    user.result("--max-tokens", "8", "hello")
    body = user.models.requests[-1].body
    assert (body["temperature"], body["max_tokens"]) == (0.4, 8)

    user.run("session", "--reset")
    user.result("hello")

    assert not {"temperature", "max_tokens"} & user.models.requests[-1].body.keys()
