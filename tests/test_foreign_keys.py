"""Keys of other tools, and keys in the wrong place, in a task file: a hint says where the setting is."""

import json

import pytest

from clinvk.plans import foreign_keys
from clinvk.plans.foreign_keys import find_hint
from tests.conftest import CommandLine, Home


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("setup", "it is a key of worktree: write worktree: {setup: …}"),
        ("env_file", "name each variable in env: {TOKEN: ${TOKEN}}"),
        ("timeout_minutes", "write timeout: 10m"),
        ("timeout-minutes", "write timeout: 10m"),
        ("dependsOn", "write needs: [NAME]"),
        ("allowedTools", "write allowed_tools: [TOOL]"),
        ("runs-on", "write labels: [LABEL]"),
        ("description", "write title: …"),
        ("run", "a task is a prompt for an AI CLI"),
        ("concurrency", "it is about all tasks: write max_parallel: … beside them"),
        ("budget", "it is about all tasks: write budget: {cost: 5} beside them"),
        ("repeat", "the steps of a chain are"),
        ("promt", "did you mean 'prompt'?"),
        ("steps", "clinvk help parallel"),
    ],
)
def test_an_unknown_key_of_a_task_is_explained(
    clinvk: CommandLine, home: Home, key: str, hint: str
):
    (home.work / "t.yaml").write_text(json.dumps({"tasks": [{"prompt": "x", key: "y"}]}))
    done = clinvk("parallel", "t.yaml", "-b", "echo")
    assert done.returncode == 3
    assert f"unknown key '{key}'" in done.stderr
    assert hint in done.stderr, done.stderr


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("model", "it is a key of steps; for all of them, write defaults: {model: …}"),
        ("setup", "write worktree: {setup: …}"),
        ("loop", "write repeat: {steps: [NAME], until: check, max: 3}"),
        ("defautls", "did you mean 'defaults'?"),
    ],
)
def test_an_unknown_key_of_a_file_is_explained(
    clinvk: CommandLine, home: Home, key: str, hint: str
):
    (home.work / "t.yaml").write_text(json.dumps({"steps": [{"prompt": "x"}], key: "y"}))
    done = clinvk("chain", "t.yaml", "-b", "echo")
    assert done.returncode == 3
    assert f"unknown key '{key}'" in done.stderr
    assert hint in done.stderr, done.stderr


def test_each_hint_names_a_key_that_there_is():
    known = foreign_keys.OF_TASK | foreign_keys.OF_FILE
    assert set(foreign_keys.NAMES) | set(foreign_keys.FORMS) <= known
    assert not (foreign_keys.KEYS.keys() | foreign_keys.SENTENCES.keys()) & (
        known - {"description"}
    )
    for name in foreign_keys.KEYS:
        for in_file in (True, False):
            is_known = in_file and name == "description"
            assert is_known or find_hint(name, in_file=in_file, entries="steps"), name
