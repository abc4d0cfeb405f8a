"""Options that are stored for later prompts: what is accepted, where it applies, what overrides it."""

import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from clinvk.cmd.sessions.option_words import split_cleared
from clinvk.config.stored_options import (
    StoredOptions,
    change_stored_options,
    options_path,
    read_options_file,
)
from clinvk.dispatch.dispatcher import Dispatcher
from clinvk.errors import ConfigError, UsageError
from clinvk.model.request import Request
from clinvk.session import SessionManager
from tests.conftest import ANSWER, CommandLine, Home

# Everything that this backend is told is in the command line that a dry run shows.
TOLD: dict[str, Any] = {
    "options": {
        "model": ["--model", "$value"],
        "temperature": ["--temperature", "$value"],
        "system_prompt": ["--system", "$value"],
    }
}


def skill(home: Home, name: str, text: str) -> None:
    path = home.path / "skills" / name / "SKILL.md"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def settings(clinvk: CommandLine, *words: str) -> dict[str, tuple[Any, str]]:
    found = clinvk.json("--dry-run", "-o", "json", *words, "hello")["settings"]
    return {name: (one["value"], one["from"]) for name, one in found.items()}


DOCUMENTED = """\
session
session --list
session --model gpt-4-turbo
session --temperature 0.7
session --temperature 0.5 --max-tokens 1024 --top-p 0.9 --frequency-penalty 0.3
session --stream
session --no-stream
session --skill-set code_review --skill-set documentation
session --template code_review_template
session --option presence_penalty=0.6 --option stop=['END']
session --frequency-penalty -0.5
session --clear --model
session --clear --model gpt-4-turbo
session --clear --temperature
session --clear --no-stream
session --clear --frequency-penalty -0.5
session --clear --option presence_penalty --skill-set documentation
session --reset
session --list --json
sessions options --presence-penalty 1 --list
sessions options
skills list
skills show code_review"""


def test_every_documented_command_line_works(home: Home, clinvk: CommandLine) -> None:
    skill(home, "code_review", "---\nname: code_review\n---\nReview carefully.\n")
    skill(home, "documentation", "Write docs.\n")
    (home.path / "templates").mkdir()
    path = home.path / "templates" / "code_review_template.yaml"
    path.write_text("name: code_review_template\nsystem_message: You review code.\n")
    stored = {}

    for line in DOCUMENTED.splitlines():
        done = clinvk(*line.split())
        assert done.returncode == 0, (line, done.stderr)
        stored[line] = clinvk.json("session", "--list", "--json")

    before = stored["session --frequency-penalty -0.5"]
    assert before["options"] == {
        "model": "gpt-4-turbo", "temperature": 0.5, "max_tokens": 1024, "top_p": 0.9,
        "frequency_penalty": -0.5, "stream": False, "presence_penalty": 0.6, "stop": "END",
    }  # fmt: skip
    assert before["skill_sets"] == ["code_review", "documentation"]
    assert before["template"] == "code_review_template"
    after = stored["session --clear --option presence_penalty --skill-set documentation"]
    assert after["options"] == {"max_tokens": 1024, "top_p": 0.9, "stop": "END"}
    assert after["skill_sets"] == ["code_review"]
    assert stored["session --reset"]["options"] == {}


def test_what_cannot_be_stored_says_why_and_changes_nothing(
    home: Home, clinvk: CommandLine
) -> None:
    skill(home, "broken", "---\na: [\n---\ntext\n")
    skill(home, "empty", "---\nname: empty\n---\n")
    clinvk("session", "--temperature", "1")
    before = options_path(home.path).read_bytes()

    for line, code, problem in (
        ("--temperature 3", 1, "--temperature: 3 is too large; the maximum is 2"),
        ("--temperature nan", 1, "--temperature: nan is not a number"),
        ("--max-tokens 0", 1, "--max-tokens: 0 is too small"),
        ("--top-p hot", 1, "--top-p: 'hot' is not a number"),
        ("--option temperature=9", 1, "--option temperature: 9.0 is too large"),
        ("--option stop=[a,b]", 1, "--option stop: '[a,b]' has 2 texts"),
        ("--option temprature=1", 1, "unknown option 'temprature'; did you mean 'temperature'?"),
        ("--option approval=none", 1, "approval cannot be stored"),
        ("--option timeout=3", 1, "timeout cannot be stored"),
        ("--option model=", 1, "--model: the value is empty"),
        ("--option model", 1, "--option: 'model' is not KEY=VALUE"),
        ("--skill-set nope", 3, "unknown skill set 'nope'"),
        ("--skill-set ../broken", 3, "unknown skill set '../broken'"),
        ("--skill-set broken", 3, "front matter"),
        ("--skill-set empty", 3, "it has no instructions"),
        ("--template nope", 3, "unknown template 'nope'"),
        ("--reset --model x", 1, "--reset and --clear take no new values"),
        ("--clear", 1, "--clear needs the flags"),
        ("--clear --option", 1, "--clear --option: missing KEY"),
        ("--bogus", 1, "unknown option '--bogus'"),
        ("--session nope --model x", 4, "nope"),
    ):
        done = clinvk("session", *line.split())
        assert (done.returncode, done.stdout) == (code, ""), line
        assert problem in done.stderr, line

    assert options_path(home.path).read_bytes() == before


def test_the_higher_source_wins_and_is_named(home: Home, clinvk: CommandLine) -> None:
    home.backend("told", **TOLD)
    home.config("default_backend: told\nbackends: {told: {model: of-config}}\n")
    assert settings(clinvk)["model"] == ("of-config", str(home.path / "config.yaml"))
    assert settings(clinvk, "-m", "typed")["model"] == ("typed", "command line")
    clinvk("--session", "own", "-m", "of-session", "hi")
    own = ("--session", "own")
    assert settings(clinvk, *own)["model"] == ("of-session", "session")

    clinvk("session", "--model", "of-user", "--temperature", "0.5")
    assert settings(clinvk, *own)["model"] == ("of-user", "stored options")
    clinvk("sessions", "options", "own", "--model", "of-one")

    assert settings(clinvk, *own) == {
        "model": ("of-one", "stored options of session own"),
        "temperature": (0.5, "stored options"),
    }
    assert settings(clinvk)["model"] == ("of-user", "stored options")
    assert settings(clinvk, *own, "-m", "typed")["model"] == ("typed", "command line")
    assert clinvk.json("session", "--json")["options"]["model"] == "of-user"
    shown = clinvk("config", "show", "--origin").stdout
    assert "stored temperature" in shown
    assert str(options_path(home.path)) in shown
    with Dispatcher(env=home.env) as dispatcher:  # Python and tasks do not use them
        plan = dispatcher.plan(Request(prompt="x"))
        assert plan.settings["model"].value == "of-config"
        opted_in = dispatcher.plan(Request(prompt="x", stored_options=True))
        assert opted_in.settings["temperature"].value == 0.5
    tasks = clinvk("parallel", "--json", stdin="tasks: [{prompt: x}]\n")
    assert tasks.returncode == 0
    assert "of-user" not in tasks.stdout


def test_a_backend_that_lacks_an_option_is_named(home: Home, clinvk: CommandLine) -> None:
    home.config("default_backend: echo\n")

    done = clinvk("session", "--temperature", "0.5", "--no-stream")

    assert "echo has no temperature, so it is dropped there; it applies to llm" in done.stderr
    assert "stream" not in done.stderr
    asked = clinvk("hello")
    assert asked.returncode == 0
    assert "'temperature'; dropped (from the stored options)" in asked.stderr
    typed = clinvk("chat", "--temperature", "0.9", "hello")
    assert typed.returncode == 1
    assert "echo does not support --temperature (from the command line)" in typed.stderr


def test_skills_and_a_template_begin_each_new_session(home: Home, clinvk: CommandLine) -> None:
    home.backend("told", **TOLD)
    home.backend("bare", options={})
    skill(home, "careful", "---\nname: careful\ndescription: d\n---\n\nReview carefully.\n")
    clinvk("session", "--skill-set", "careful", "--template", "coding")

    value, origin = settings(clinvk, "-b", "told")["system_prompt"]
    assert value.startswith("You are a careful software engineer.")
    assert value.endswith("\n\nReview carefully.")
    assert origin == "template coding, skill set careful"
    typed = settings(clinvk, "-b", "told", "--system-prompt", "Mine.")
    assert typed["system_prompt"][0] == "Mine.\n\nReview carefully."
    bare = clinvk.json("--dry-run", "-o", "json", "-b", "bare", "hello")
    assert bare["prompt"].endswith("Review carefully.\n\nhello")

    clinvk("-b", "told", "--session", "new", "hello")
    record = home.record("new")
    assert (record["template"], record["metadata"]) == ("coding", {"purpose": "coding"})
    assert home.transcript("new")[0]["content"] == "hello"
    clinvk("session", "--reset")
    again = settings(clinvk, "--session", "new")
    assert again["system_prompt"] == (value, "session")
    (home.path / "skills" / "careful" / "SKILL.md").unlink()
    clinvk("session", "--template", "coding")
    assert clinvk("-b", "told", "hello").returncode == 0


def test_a_stored_skill_that_is_gone_stops_the_prompt(home: Home, clinvk: CommandLine) -> None:
    skill(home, "careful", "Review carefully.")
    clinvk("session", "--skill-set", "careful")
    (home.path / "skills" / "careful" / "SKILL.md").unlink()

    done = clinvk("-b", "echo", "hello")

    assert done.returncode == 3
    assert "unknown skill set 'careful'" in done.stderr


def test_a_deleted_session_leaves_no_options_to_the_next_of_its_name(
    home: Home, clinvk: CommandLine
) -> None:
    clinvk("-b", "echo", "--session", "a", "x")
    clinvk("sessions", "options", "a", "--max-tokens", "5")
    assert settings(clinvk, "--session", "a")["max_tokens"][0] == 5

    clinvk("sessions", "delete", "a", "--yes")

    assert not options_path(home.path).exists()


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{", "not JSON"),
        ("[]", "not a file of stored options"),
        ('{"version": 2}', "written by a newer clinvk"),
        ('{"version": 1, "user": []}', ""),
        ('{"version": 1, "user": {"options": {"temperature": 7}}}', "temperature: 7 is too large"),
        ('{"version": 1, "user": {"options": {"approval": "none"}}}', "approval: it is no option"),
        ('{"version": 1, "user": {"skill_sets": "x"}}', "skill_sets: not a list of names"),
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, text: str, problem: str) -> None:
    options_path(tmp_path).write_text(text)
    if not problem:
        assert not read_options_file(tmp_path).user
        return
    with pytest.raises(ConfigError, match=problem) as raised:
        read_options_file(tmp_path)
    assert str(options_path(tmp_path)) in str(raised.value)


def test_the_file_is_private_and_takes_changes_of_several(tmp_path: Path) -> None:
    home = tmp_path / "home"

    def add(i: int) -> None:
        change_stored_options(
            home, None, lambda old: StoredOptions(old.options | {f"key{i}": str(i)})
        )

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(add, range(20)))

    assert len(read_options_file(home).user.options) == 20
    assert os.stat(options_path(home)).st_mode & 0o777 == 0o600
    assert json.loads(options_path(home).read_text())["version"] == 1


def test_after_clear_the_flags_take_no_value() -> None:
    for words, of_user, rest, names in (
        ("--clear --model --option stop", True, "--clear", "model stop"),
        ("--clear --model big", True, "--clear", "model"),
        ("--clear --model=big -m", True, "--clear", "model"),
        ("--clear --model a-session", False, "--clear a-session", "model"),
        ("a-session --clear --model big", False, "a-session --clear", "model"),
        ("--session s --clear --temperature 1", False, "--session s --clear", "temperature"),
        ("--clear --no-stream x", False, "--clear x", "stream"),
        ("--clear --option stop=END --json", True, "--clear --json", "stop"),
    ):
        found, cleared = split_cleared(words.split(), of_user=of_user)
        assert (" ".join(found), " ".join(cleared.names)) == (rest, names), words


def test_python_stores_the_same_options(home: Home, clinvk: CommandLine) -> None:
    with SessionManager(home=home.path) as manager:
        manager.store_options({"temperature": 0.5, "model": "big"})
        manager.store_options({"model": None, "stream": False})
        for options in ({"temperature": 3}, {"temprature": 1}, {"approval": "none"}):
            with pytest.raises(UsageError, match=next(iter(options))):
                manager.store_options(options)

        assert manager.stored_options() == {"temperature": 0.5, "stream": False}
        session_id = manager.create_session("one")
        manager.store_options({"max_tokens": 5}, session_id)
        assert manager.stored_options(session_id) == {"max_tokens": 5}
    assert clinvk.json("session", "--json")["options"] == {"temperature": 0.5, "stream": False}


def test_a_task_file_may_ask_for_them(home: Home, clinvk: CommandLine) -> None:
    home.backend("told", "printf '%s ' \"$@\" >>args; echo >>args\n" + ANSWER, **TOLD)
    clinvk("session", "--model", "large", "--temperature", "0.5")
    tasks = "[{name: a, prompt: x}, {name: b, prompt: x, stored_options: false}, {name: c, prompt: x, model: small}]"
    (home.work / "t.yaml").write_text(
        f"max_parallel: 1\ndefaults: {{backend: told, stored_options: true}}\ntasks: {tasks}\n"
    )
    (home.work / "plain.yaml").write_text("tasks: [{backend: told, prompt: x}]\n")

    assert clinvk("parallel", "t.yaml").returncode == 0
    assert clinvk("parallel", "plain.yaml").returncode == 0

    assert (home.work / "args").read_text().splitlines() == [
        "run --model large --temperature 0.5 ",
        "run ",
        "run --model small --temperature 0.5 ",
        "run ",
    ]
