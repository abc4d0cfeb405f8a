"""The loops of the recipes, on the real claude, which fixes, and the real codex, which reviews."""

import json
import re
from typing import Any

import pytest

from tests.conftest import PROJECT
from tests.forked import Server
from tests.models import Models
from tests.models.answer import Conversation
from tests.real.conftest import Home
from tests.real.test_many import chained, of, saying, states
from tests.real.user import User

pytestmark = pytest.mark.real


@pytest.fixture
def user(home: Home, models: Models, loaded_clinvk: Server) -> User:
    return User(home, models, "claude", loaded_clinvk).trusting


def recipe(user: User, name: str) -> str:
    """The file of a recipe, as it is in the documentation."""
    page = (PROJECT / "docs" / "recipes.md").read_text()
    found = re.search(rf"<!-- file: {name} -->\n```yaml\n(.*?)```", page, re.DOTALL)
    assert found, name
    (user.home.project / name).write_text(found[1])
    return name


def sessions_of(result: dict[str, Any], name: str) -> list[str]:
    """The sessions of the rounds of a step that were run."""
    return [
        o["session_id"]
        for o in result["results"]
        if o["attempts"] and o["name"].startswith(f"{name}#")
    ]


def reviewing(*counts: int) -> Any:
    """claude answers with the number of its round, and codex finds that much in each."""

    def say(backend: str, seen: Conversation) -> str | None:
        if backend == "claude":
            return f"round {len(seen.users)}"
        found = re.search(r"The author says: round (\d+)", seen.last)
        assert found, seen.last
        finding = {"file": "a.py", "line": 3, "severity": "high", "message": "it divides by zero"}
        return json.dumps({"findings": [finding] * counts[int(found[1]) - 1]})

    return say


def test_claude_implements_and_codex_reviews_until_it_is_clean(user: User) -> None:
    (user.home.project / "Makefile").write_text("test:\n\t@true\n")
    with saying(user, reviewing(2, 1, 0)):
        result = chained(user, recipe(user, "clean.yaml"))

    assert states(result) == ["done"] * 6 + ["skipped"] * 2
    assert result["results"][6]["error"]["kind"] == "not_needed"
    written, reviewed = of(user, "claude"), of(user, "codex")
    assert (len(written), len(reviewed)) == (3, 3)
    # claude continues its conversation and is told what was found; codex begins a new one.
    assert len({*sessions_of(result, "implement")}) == 1
    assert len({*sessions_of(result, "review")}) == 3
    assert [len(r.users) for r in written] == [1, 2, 3]
    assert [r.last.count("it divides by zero") for r in written] == [0, 2, 1]
    assert all("The author says: round" in r.last for r in reviewed)
    assert [o["structured"] and len(o["structured"]["findings"]) for o in result["results"]][1:6:2] == [2, 1, 0]  # fmt: skip
    assert user.processes() == []


def test_a_review_that_finds_no_less_ends_the_loop(user: User) -> None:
    (user.home.project / "Makefile").write_text("test:\n\t@true\n")
    with saying(user, reviewing(1, 1, 0)):
        result = chained(user, recipe(user, "clean.yaml"), code=65)

    assert states(result) == ["done"] * 3 + ["failed"] + ["skipped"] * 4
    assert result["results"][3]["error"]["message"].endswith(
        "1 finding left: a.py:3: high: it divides by zero"
    )
    assert (len(of(user, "claude")), len(of(user, "codex"))) == (2, 2)


def test_claude_fixes_what_codex_diagnoses_until_the_tests_pass(user: User) -> None:
    """What codex says has the model of claude write a file: the wrong one in the first round."""
    made = user.home.project / "made"
    (user.home.project / "Makefile").write_text("test:\n\t@cat made; grep -q right made\n")

    def say(backend: str, seen: Conversation) -> str | None:
        if backend == "claude":
            return None
        return user.write(made, "right" if "wrong" in seen.last else "wrong")

    with saying(user, say):
        result = chained(user, recipe(user, "green.yaml"))

    assert made.read_text() == "right"
    assert states(result) == ["done"] * 4 + ["skipped"] * 4
    assert [o["check"] and o["check"]["state"] for o in result["results"][:4]] == [
        None, "failed", None, "passed",
    ]  # fmt: skip
    assert len({*sessions_of(result, "fix")}) == 1
    assert len({*sessions_of(result, "diagnose")}) == 2
    first, second = of(user, "codex")
    assert ("made" in first.last, "make test (exit code 2)" in second.last) == (False, True)
