"""Templates and skills as files: listed, shown, created, and used for one prompt."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import CommandLine, Home

NATIVE = {"options": {"skill_set": ["--plugin", "$value"], "sandbox": {"read-only": ["--ro"]}}}
GOOD = "---\nname: careful\ndescription: >-\n  Reviews code\n  with care.\nlicense: MIT\n---\n\nLook twice.\n"


def skill(place: Path, name: str, text: str = GOOD) -> Path:
    path = place / name / "SKILL.md"
    path.parent.mkdir(parents=True)
    path.write_text(text)
    return path


def template(home: Home, name: str, text: str) -> None:
    path = home.path / "templates" / f"{name}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def dry_run(clinvk: CommandLine, *words: str) -> dict[str, Any]:
    return clinvk.json("--dry-run", "-o", "json", *words, "hello")


def test_a_skill_is_created_listed_shown_and_used(clinvk: CommandLine, home: Home) -> None:
    created = clinvk("skills", "new", "review", "--description", 'Reviews: "code"')
    again = clinvk("skills", "new", "review")
    shown = clinvk.json("skills", "show", "review", "--json")

    assert created.stdout.strip() == shown["source"] == str(home.path / "skills/review/SKILL.md")
    assert again.returncode == 3
    assert "already exists" in again.stderr
    assert shown["description"] == 'Reviews: "code"'
    assert clinvk.json("skills", "list", "--json")["skills"][0]["name"] == "review"
    done = clinvk("-b", "echo", "--skill-set", "review", "hello")
    assert "skill review: added before the prompt (44 bytes)" in done.stderr
    assert home.transcript()[0]["content"] == "hello"


def test_a_template_is_created_from_another(clinvk: CommandLine, home: Home) -> None:
    clinvk("templates", "new", "mine", "--from", "coding")
    clinvk("templates", "new", "own", "--description", "For me.")
    of_coding, mine, own = (
        clinvk.json("templates", "show", name, "--json") for name in ("coding", "mine", "own")
    )

    same = ("description", "system_message", "default_metadata", "suggested_parameters")
    assert [mine[key] for key in same] == [of_coding[key] for key in same]
    assert own["description"] == "For me."
    assert clinvk("templates", "new", "mine").returncode == 3
    assert clinvk("templates", "new", "x", "--from", "no-such").returncode == 3
    invalid = clinvk("templates", "new", "../x")
    assert invalid.returncode == 3
    assert "invalid name '../x'" in invalid.stderr
    assert clinvk("skills", "new", "../x").returncode == 3


def test_a_prompt_gets_the_skills_for_that_call_only(clinvk: CommandLine, home: Home) -> None:
    home.backend("plain")
    skill(home.path / "skills", "review")
    skill(home.path / "skills", "stored", "Always be brief.\n")
    clinvk("session", "--skill-set", "stored")

    asked = dry_run(clinvk, "-b", "plain", "--skill-set", "review")
    clinvk("-b", "plain", "--skill-set", "review", "--session", "s", "hello")

    assert "Look twice." in asked["prompt"]
    assert "license" not in asked["prompt"]
    assert asked["prompt"].endswith("\n\nhello")
    assert asked["settings"] == {"skill_set": {"value": ["review"], "from": "command line"}}
    assert home.record("s")["options"] == {}
    assert dry_run(clinvk, "--session", "s")["prompt"] == "hello"


def test_a_cli_that_knows_skills_gets_the_skill(clinvk: CommandLine, home: Home) -> None:
    home.backend("native", **NATIVE)
    path = skill(home.path / "skills", "review")
    skill(home.path / "skills", "bare", "Be brief.\n")

    asked = dry_run(clinvk, "-b", "native", "--skill-set", "review", "--skill-set", "bare")
    safe = dry_run(clinvk, "-b", "native", "--skill-set", "review", "--sandbox", "read-only")
    done = clinvk("-b", "native", "--skill-set", "review", "--skill-set", "bare", "hello")

    assert asked["command"][1:] == ["run", "--plugin", str(path.parent)]
    assert asked["prompt"].startswith("Use the skill careful (review:careful) for the task below")
    assert "Be brief." in asked["prompt"]
    assert "Look twice." not in asked["prompt"]
    assert safe["command"][1:] == ["run", "--ro"]
    assert "Look twice." in safe["prompt"]
    assert "skill review: given to native as a skill" in done.stderr
    assert "bare/SKILL.md: line 1: there is no front matter" in done.stderr


def test_skills_of_the_project_are_found(clinvk: CommandLine, home: Home) -> None:
    user = Path(home.env["HOME"])
    skill(home.work / ".agents" / "skills", "shared", GOOD)
    skill(user / ".claude" / "skills", "mine", GOOD)
    skill(user / ".agents" / "skills", "shared", "The other one.\n")
    (home.work / ".git").mkdir()
    below = home.work / "src"
    below.mkdir()

    listed = clinvk("skills", "list", "--json", cwd=below)
    asked = clinvk("-b", "echo", "--dry-run", "-o", "json", "--skill-set", "shared", "x", cwd=below)

    assert [one["name"] for one in json.loads(listed.stdout)["skills"]] == ["mine", "shared"]
    assert "Look twice." in json.loads(asked.stdout)["prompt"]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("---\nname: x\n: [\n---\nhi\n", "SKILL.md: line 3: "),
        ("---\nname: x\nhi\n", "SKILL.md: line 1: the front matter has no end"),
        ("---\n- a\n---\nhi\n", "SKILL.md: line 2: the front matter has no keys"),
        ("---\nname: a\nname: b\n---\nhi\n", "SKILL.md: line 3: "),
        ("---\nname: x\n---\n\n", "SKILL.md: line 5: it has no instructions"),
        ("one\ntwo\0\n", "SKILL.md: line 2: it has a NUL character"),
    ],
)
def test_an_invalid_skill_is_an_error_with_its_line(
    clinvk: CommandLine, home: Home, text: str, problem: str
) -> None:
    skill(home.path / "skills", "bad", text)

    for done in (
        clinvk("-b", "echo", "--skill-set", "bad", "hello"),
        clinvk("session", "--skill-set", "bad"),
        clinvk("skills", "show", "bad"),
        clinvk("skills", "list"),
    ):
        assert done.returncode == 3
        assert problem in done.stderr


def test_a_skill_without_front_matter_is_reported_with_its_line(
    clinvk: CommandLine, home: Home
) -> None:
    skill(home.path / "skills", "bare", "Be brief.\n")

    for done in (
        clinvk("-b", "echo", "--skill-set", "bare", "hello"),
        clinvk("session", "--skill-set", "bare"),
        clinvk("skills", "show", "bare"),
        clinvk("skills", "list"),
    ):
        assert done.returncode == 0
        assert "bare/SKILL.md: line 1: there is no front matter" in done.stderr


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("description: x\nsystem: y\n", "bad.yaml: line 2: system: unknown key 'system'"),
        ("name: other\n", "bad.yaml: line 1: name: 'other' is not its name"),
        ("system_message: [\n", "bad.yaml: line 2: "),
        ("default_metadata: 3\n", "bad.yaml: line 1: default_metadata"),
        ("- x\n", "bad.yaml: "),
    ],
)
def test_an_invalid_template_is_an_error_with_its_line(
    clinvk: CommandLine, home: Home, text: str, problem: str
) -> None:
    template(home, "bad", text)

    for done in (
        clinvk("templates", "show", "bad"),
        clinvk("--template", "bad", "-b", "echo", "x"),
    ):
        assert done.returncode == 3
        assert problem in done.stderr


def test_unknown_skills_are_named(clinvk: CommandLine, home: Home) -> None:
    skill(home.path / "skills", "review")

    done = clinvk("-b", "echo", "--skill-set", "../review", "hello")

    assert done.returncode == 3
    assert "unknown skill set '../review'" in done.stderr
    assert "known: review" in done.stderr


def test_instructions_of_a_session_that_was_created_first_reach_every_turn(
    clinvk: CommandLine, home: Home
) -> None:
    home.backend(
        "told", options={"system_prompt": ["--system", "$value"], "model": ["-m", "$value"]}
    )
    skill(home.path / "skills", "review")
    clinvk("session", "--skill-set", "review")
    clinvk("sessions", "start", "s")
    clinvk("sessions", "start", "t", "--template", "coding")

    for name, words in (("s", "Look twice."), ("t", "careful software engineer")):
        clinvk("-b", "told", "--session", name, "-m", "large", "hello")
        command = dry_run(clinvk, "--session", name)["command"]
        assert words in command[command.index("--system") + 1]
        assert command[command.index("-m") + 1] == "large"


def test_tasks_have_skills(clinvk: CommandLine, home: Home) -> None:
    skill(home.path / "skills", "review")
    (home.work / "tasks.yaml").write_text(
        "tasks:\n- {prompt: one, backend: echo, skill_set: review}\n"
        "- {prompt: two, backend: echo, skill_set: [no-such]}\n"
    )

    results = clinvk.json("parallel", "tasks.yaml", "--json")["results"]

    assert "Look twice." in results[0]["output"]
    assert "unknown skill set 'no-such'" in results[1]["error"]["message"]
