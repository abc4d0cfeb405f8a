"""What is handed in has limits that are met before it costs anything."""

import json
import time

import pytest

from clinvk import jsons, yamls
from clinvk.config import parse_value
from tests.conftest import CommandLine, Home

BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{name}: &{name} [{','.join(['*' + before] * 9)}]\n"
    for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)
TEXTS = f"a: &a {'x' * 10_000}\nb: [{', '.join(['*a'] * 2_000)}]\n"
HUGE = [
    ("a: " + "9" * 5_000, "a number with more than 4,300 digits"),
    ("a: -" + "9" * 5_000 + ".5", "a number with more than 4,300 digits"),
    ("a: 0x" + "f" * 5_000, "a number with more than 4,300 digits"),
    ("[" * 100_000, "nested too deeply"), ("[" * 150 + "]" * 150, "nested too deeply"),
    ("{a: " * 150, "nested too deeply"), ("- " * 20_000 + "x", "nested too deeply"),
    ("? " * 20_000, "nested too deeply"),
    (BOMB, "its aliases would make more than 100,000 values"),
    (TEXTS, "its aliases would make more than 100,000 values"),
    ("x: &a {b: [*a]}", "*a is inside of what it stands for"),
    ("a: 2026-02-31", "not a value"), ("a: !!timestamp x", "a tag that does not fit"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "said"), HUGE, ids=[text[:12] for text, _ in HUGE])
def test_yaml_that_is_too_much_is_refused_in_words_of_ours(text: str, said: str):
    with pytest.raises(yamls.YamlError) as caught:
        yamls.load(text)
    assert said in str(caught.value)


def test_aliases_are_counted_without_being_expanded():
    began = time.process_time()
    with pytest.raises(yamls.YamlError):
        yamls.load(BOMB.replace("x,", "x, ") + f"z: {'*i ' * 0}[*i]\n")
    assert time.process_time() - began < 1


def test_aliases_of_a_usual_size_stay_what_they_are():
    text = "defaults: &d {model: m, tags: [a, b]}\ntasks:\n" + "- {<<: *d, prompt: x}\n" * 2_000
    assert yamls.load(text)["tasks"][-1] == {"model": "m", "tags": ["a", "b"], "prompt": "x"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[" * 100_000, "nested too deeply"), ("[" * 150 + "]" * 150, "nested too deeply"),
        ('{"a":' * 150 + "1" + "}" * 150, "nested too deeply"),
        ("9" * 5_000, "a number with more than 4,300 digits"), ("{", "not JSON"),
    ],
)  # fmt: skip
def test_json_that_is_too_much_is_refused(text: str, said: str):
    with pytest.raises(jsons.JsonError) as caught:
        jsons.load(text)
    assert said in str(caught.value)
    assert jsons.load("[" * 90 + "]" * 90)


@pytest.mark.parametrize("name", ["t.yaml", "t.json", "t.jsonl", "t", "s.json"])
@pytest.mark.parametrize("value", ["9" * 5_000, "[" * 500 + "]" * 500])
def test_every_file_of_tasks_is_bounded(clinvk: CommandLine, home: Home, name: str, value: str):
    task = '{"prompt": "x", "meta": VALUE}'.replace("VALUE", value)
    if name == "s.json":
        (home.work / name).write_text(value)
        task, name = '{"prompt": "x", "schema": "s.json"}', "t.json"
    (home.work / name).write_text(task if name == "t.jsonl" else f'{{"tasks": [{task}]}}')
    done = clinvk("parallel", name, "-b", "echo", "--dry-run")
    assert done.returncode == 3, done
    assert "digits" in done.stderr or "nested too deeply" in done.stderr


def test_every_yaml_of_a_user_is_bounded(clinvk: CommandLine, home: Home):
    home.config(BOMB)
    assert "aliases" in clinvk("config", "show").stderr
    home.config("")
    home.manifest("mine", BOMB)
    assert "aliases" in clinvk("backends", "show", "mine").stderr
    (home.path / "templates").mkdir()
    (home.path / "templates" / "mine.yaml").write_text(BOMB)
    assert "aliases" in clinvk("templates", "show", "mine").stderr


def test_a_value_that_is_no_yaml_is_a_text():
    assert parse_value("backends.echo.model", "9" * 5_000) == "9" * 5_000


def test_a_line_that_is_nested_without_end_is_not_read(clinvk: CommandLine, home: Home):
    deep = json.dumps({"type": "text"})[:-1] + ', "text": ' + "[" * 5_000 + "]" * 5_000 + "}"
    (home.path.parent / "deep").write_text(deep + "\n")
    home.backend("deep", f"cat >/dev/null; cat {home.path.parent}/deep\n")
    done = clinvk("-b", "deep", "hi")
    assert "ended without saying whether it succeeded" in done.stderr
