"""What clinvk adds to a prompt reaches the model."""

import json
from pathlib import Path

import pytest

from clinvk.backend.permissions import INSTRUCTION
from tests.real.user import User, unique

pytestmark = pytest.mark.real


@pytest.fixture
def made(user: User) -> Path:
    """What the model is asked to make: a file of the project."""
    return user.home.project / "made"


def test_a_plan_changes_nothing_and_the_next_turn_may(user: User, made: Path) -> None:
    user.run("config", "set", f"backends.{user.backend}.approval_mode", "auto")
    if user.backend == "claude":  # what its user allows is not allowed to a plan
        user.run("config", "set", "backends.claude.allowed_tools", "[Bash, Write]")
        settings = user.home.project / ".claude" / "settings.json"
        settings.parent.mkdir()
        settings.write_text(json.dumps({"permissions": {"allow": ["Bash", "Write"]}}))

    answer = user.result("--planning", user.write(made, "text"))
    by_shell = user.result("--planning", user.shell(f"touch {made}"))

    assert INSTRUCTION.strip() in user.asked[0].last
    assert not made.exists(), (answer, by_shell)
    user.result("-c", user.write(made, "text"))
    assert made.read_text() == "text"
    assert INSTRUCTION.strip() not in user.asked[-1].last


def test_the_model_sees_what_is_added(user: User) -> None:
    note, text, passage, secret = unique(), unique(), unique(), unique()
    user.run("memory", "add", note)
    (user.home.project / "src").mkdir()
    (user.home.project / "src" / "a.py").write_text(f"# {text}\n")
    (user.home.project / "src" / ".env").write_text(f"KEY={secret}\n")
    (user.home.project / "docs").mkdir()
    (user.home.project / "docs" / "garden.md").write_text(f"# The tulips\n\nThey are {passage}.\n")

    user.result("--memory", "--fast-context", "src", "--knowledge=docs", "water the tulips")
    user.result("-c", "and now?")
    user.result("--knowledge", "what was to be done with tulips?")

    first, second, third = user.asked
    for word in (note, f"# {text}", f"They are {passage}."):
        assert word in first.last
    assert secret not in json.dumps(first.body)
    assert first.last.endswith("water the tulips")
    assert second.last == "and now?"
    assert "from message 1 of the session" in third.last
    assert "water the tulips" in third.last


def test_a_skill_is_used_for_one_prompt(user: User) -> None:
    words, other = unique(), unique()
    for name, text in (("review", words), ("other", other)):
        path = user.home.path / ".clinvk" / "skills" / name / "SKILL.md"
        path.parent.mkdir(parents=True)
        path.write_text(f"---\nname: {name}\ndescription: What {name} is for.\n---\n{text}\n")
    tool = '<<tool Skill {"skill": "review:review"}>>'  # only claude has it

    user.result("--skill-set", "review", tool if user.backend == "claude" else "hello")
    seen = json.dumps([asked.body for asked in user.asked])
    user.result("-c", "and now?")

    assert words in seen
    assert other not in seen
    if user.backend == "claude":
        assert "review:review: What review is for." in seen
        assert words not in user.asked[0].last
    assert user.asked[-1].last == "and now?"
    assert not (user.home.project / ".claude").exists()
