"""Tasks of a matrix, and what the texts of tasks may name."""

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from clinvk.errors import ConfigError
from clinvk.plans import parse
from clinvk.plans.taskfile.defaults import Defaults
from clinvk.text import template
from tests.taskfiles import mistake, names, plan_of, prompts

# A matrix


def test_a_matrix_makes_a_task_for_each_pair_and_names_them_everywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    for folder in ("p1", "p2"):
        (tmp_path / folder).mkdir()
    plan = plan_of("""
        matrix: {dir: [p1, p2]}
        tasks:
          - name: "{{lang}} in {{dir}}"
            prompt: write {{lang}}
            workdir: "{{dir}}"
            env: {WHERE: "{{dir}}/{{lang}}"}
            tags: ["{{lang}}", fixed]
            matrix: {lang: [go, rust]}
          - check {{dir}}
    """)
    assert names(plan) == ["go in p1", "rust in p1", "go in p2", "rust in p2", "5", "6"]
    assert prompts(plan)[-1] == "check p2"
    first = plan.tasks[1]
    assert (first.prompt, first.cwd) == ("write rust", str((tmp_path / "p1").resolve()))
    assert (first.env, first.tags) == ({"WHERE": "p1/rust"}, ("rust", "fixed"))
    assert len({t.key for t in plan.tasks}) == 6


def test_a_matrix_of_a_task_goes_before_that_of_the_file():
    plan = plan_of("""
        matrix: {x: [1, 2]}
        tasks: [{prompt: "{{x}}", matrix: {x: [true, 2.5]}}]
    """)
    assert prompts(plan) == ["true", "2.5"]


def test_a_matrix_that_makes_too_many_is_a_mistake():
    axes = {name: list(range(100)) for name in "abc"}
    said = mistake(yaml.safe_dump({"matrix": axes, "tasks": ["x"]}))
    assert "1,000,000 tasks" in said


WORDS = st.text("abcXYZ019 {}\\éß.", min_size=1, max_size=6)


@given(st.dictionaries(st.sampled_from("abc"), st.lists(WORDS, min_size=1, max_size=3), min_size=1))
def test_any_matrix_makes_the_product_and_its_values_come_out_as_they_are(
    axes: dict[str, list[str]],
):
    prompt = " | ".join(f"{{{{{name}}}}}" for name in axes)
    data = {"matrix": axes, "tasks": [{"prompt": f"> {prompt} <", "tags": [prompt]}]}
    plan = parse.parse_plan(data, "t", "parallel", Defaults())
    wanted = [" | ".join(values) for values in itertools.product(*axes.values())]
    assert [t.tags[0] for t in plan.tasks] == wanted
    assert [rendered(t) for t in plan.tasks] == [f"> {w} <" for w in wanted]


def rendered(task: Any) -> str:
    if not task.template:
        return task.prompt
    return template.render(task.prompt, lambda name: f"<{name}>")


# What is named


TEXTS = st.text("ab{}\\ \n", max_size=12)
VALUES = st.text("ab{}\\ \n", max_size=8)


@given(TEXTS, VALUES, TEXTS)
@example("{{\n", "", "}}")
def test_what_was_put_in_names_nothing(before: str, value: str, after: str):
    # A letter between, so that the text around it is what it is.
    whole = f"{before}x{{{{put}}}}x{after}"
    named = template.placeholder_names(whole)
    if "put" not in named:
        return
    filled = template.fill(whole, {"put": value}.get)
    assert set(template.placeholder_names(filled)) == set(named) - {"put"}
    at_once = template.render(whole, lambda n: value if n == "put" else f"<{n}>")
    assert template.render(filled, lambda n: f"<{n}>") == at_once


@given(VALUES, VALUES, VALUES)
def test_nothing_is_named_where_values_meet(one: str, two: str, three: str):
    values = {"a": one, "b": two, "c": three}
    for text in ("{{a}}{{b}}{{c}}", "{{a}}{{later}}{{b}}", "{ {{a}}}{{b}}}", "{{ {{a}}}}"):
        named = set(template.placeholder_names(text)) - set(values)
        filled = template.fill(text, values.get)
        assert set(template.placeholder_names(filled)) == named


@given(st.text())
def test_escaped_braces_come_out_as_braces(text: str):
    text = text.replace("\ufdd0", "")
    escaped = text.replace("{{", "\\{{")
    if "\\{{{" in escaped or "\\\\" in escaped:
        return
    assert template.placeholder_names(escaped) == []
    assert template.render(escaped, str) == text


def test_braces_stay_where_nothing_can_be_named():
    text = "a {{ template }} and {{x|y}} and \\{{z}}"
    plan = plan_of(yaml.safe_dump([text]))
    assert (prompts(plan), plan.tasks[0].template) == ([text], False)


def test_escaped_braces_are_braces_in_a_prompt_that_might_have_named_a_task():
    plan = plan_of(yaml.safe_dump(["write \\{{tasks.a.output}} down"]))
    assert rendered(plan.tasks[0]) == "write {{tasks.a.output}} down"


@pytest.mark.parametrize("key", ["tags", "title", "meta", "prompt"])
def test_what_a_matrix_puts_in_holds_no_backslash_of_ours(key: str):
    entry = {"prompt": "p", key: ["{{v}} \\{{w}}"] if key == "tags" else "{{v}} \\{{w}}"}
    plan = plan_of(json.dumps({"matrix": {"v": ["{{{raw}}}"]}, "tasks": [entry]}))
    found = getattr(plan.tasks[0], key)
    assert (found[0] if key == "tags" else found) == "{{{raw}}} {{w}}"


OTHERS = st.one_of(
    VALUES, st.sampled_from(["tasks.x.output", "{{tasks.x.output}}", "x}} {{tasks.x"])
)


@given(OTHERS)
def test_a_value_is_a_part_of_a_task_s_name_or_a_text_and_never_a_name(value: str):
    tasks = [
        {"name": "x", "prompt": "secret"},
        {"name": "r {{f}}", "prompt": "review {{f}}", "matrix": {"f": [value]}},
        {"prompt": "fix {{f}}: {{tasks.r {{f}}.output}}{{f}}", "matrix": {"f": [value]}},
    ]
    if set(value) & set("{}\n"):
        with pytest.raises(ConfigError, match="cannot be part of a task's name"):
            parse.parse_plan(tasks, "t", "parallel", Defaults())
        return
    plan = parse.parse_plan(tasks, "t", "parallel", Defaults())
    assert plan.tasks[2].needs == (1,)
    said = template.render(plan.tasks[2].prompt, lambda _: "fine")
    assert said == f"fix {value}: fine{value}"


def test_a_name_of_the_matrix_may_stand_in_the_name_of_a_task():
    plan = plan_of("""
        matrix: {f: [a, b]}
        tasks:
          - {name: "r {{f}}", prompt: "review {{f}}"}
          - {name: "m {{f}}", prompt: "fix: {{ tasks.r {{ f }}.output }}"}
          - {name: "c {{f}}", prompt: check, needs: ["r {{f}}"]}
    """)
    assert [t.needs for t in plan.tasks] == [(), (), (0,), (1,), (0,), (1,)]
    assert plan.tasks[2].known == {"tasks.r a.output": 0}
    assert rendered(plan.tasks[3]) == "fix: <tasks.r b.output>"


def test_a_name_of_the_matrix_may_stand_in_that_of_a_step():
    plan = plan_of("""
        - {name: "r {{f}}", prompt: "review {{f}}", matrix: {f: [a, b]}}
        - {name: "m {{f}}", prompt: "{{steps.r {{f}}.output}}", matrix: {f: [a, b]}}
    """, kind="chain")  # fmt: skip
    assert [t.known for t in plan.tasks[2:]] == [{"steps.r a.output": 0}, {"steps.r b.output": 1}]


def test_an_escaped_name_of_a_task_is_text_also_with_a_name_in_it():
    plan = plan_of(r"[{prompt: '\{{tasks.r {{f}}.output}}', matrix: {f: [a]}}]")
    assert rendered(plan.tasks[0]) == "{{tasks.r a.output}}"


@pytest.mark.parametrize(
    "key", ["system_prompt", "title", "name", "workdir", "prompt_file", "model"]
)
def test_an_unknown_name_is_a_mistake_in_every_text(key: str):
    text = f"- matrix: {{file: [1]}}\n  {key}: 'a {{{{fiel}}}}'\n"
    said = mistake(text if key == "prompt_file" else f"{text}  prompt: x\n")
    assert f"line 2: tasks[0].{key}: unknown name {{{{fiel}}}}; did you mean {{{{file}}}}?" in said


def test_an_unknown_name_within_a_text_s_structure_is_told_with_its_place():
    text = "matrix: {a: [1]}\ntasks:\n- prompt: x\n  meta:\n    why: [y, '{{b}}']\n"
    assert "line 5: tasks[0].meta.why[1]: unknown name {{b}}" in mistake(text)
    text = "matrix: {a: [1]}\ndefaults:\n  env: {A: '{{b}}'}\ntasks: [x]\n"
    assert "line 3: defaults.env.A: unknown name {{b}}" in mistake(text)


@pytest.mark.parametrize("more", ["", ", needs: [b]", ", matrix: {f: [1]}"])
@pytest.mark.parametrize("key", ["system_prompt", "title"])
def test_only_a_prompt_names_other_tasks(key: str, more: str):
    text = f"[{{name: b, prompt: x}}, {{prompt: y, {key}: 'on {{{{tasks.b.output}}}}'{more}}}]"
    said = mistake(text)
    assert f"tasks[1].{key}: {{{{tasks.b.output}}}}: only a prompt can refer to" in said


def test_a_prompt_may_be_the_name_of_its_task():
    plan = plan_of(json.dumps([{"name": t, "prompt": t} for t in ("one", "{{tasks.one.output}}")]))
    assert (names(plan), plan.tasks[1].needs) == (["one", "{{tasks.one.output}}"], (0,))


def test_only_a_prompt_names_what_came_before():
    text = "[a, {prompt: b, system_prompt: 'after {{previous}}'}]"
    assert "{{previous}}: only a prompt can refer to" in mistake(text, kind="chain")


def test_other_braces_are_text_where_no_name_is_known():
    title = "as {{.Name}}, {{ x }} and \\{{ y }}"
    plan = plan_of(yaml.safe_dump([{"prompt": "x", "title": title}]))
    assert plan.tasks[0].title == title
    plan = plan_of(yaml.safe_dump([{"prompt": "x", "title": "\\{{tasks.a.output}}"}]))
    assert plan.tasks[0].title == "{{tasks.a.output}}"


def test_a_name_in_a_task_s_name_is_known_or_a_mistake():
    assert "unknown name {{g}}" in mistake("[{prompt: '{{tasks.r {{g}}.output}}'}]")
    text = "[{prompt: '{{tasks.r {{fil}}.output}}', matrix: {file: [1]}}]"
    assert "unknown name {{fil}}; did you mean {{file}}?" in mistake(text)


# Needs


def test_a_prompt_that_names_a_task_needs_it():
    plan = plan_of("""
        - {name: sum, prompt: "add {{ tasks.one.output }} and {{steps.two.session}}"}
        - {name: one, prompt: a}
        - {name: two, prompt: b, needs: one}
    """)
    assert [t.needs for t in plan.tasks] == [(1, 2), (), (1,)]
    assert plan.tasks[0].known == {"tasks.one.output": 1, "steps.two.session": 2}


def test_a_need_may_be_all_that_a_matrix_made():
    plan = plan_of("""
        - {name: part, prompt: "{{n}}", matrix: {n: [1, 2, 3]}}
        - {name: whole, prompt: x, needs: [part]}
    """)
    assert plan.tasks[3].needs == (0, 1, 2)
    assert [t.key for t in plan.tasks] == ["part", "part-2", "part-3", "whole"]


def test_a_session_of_a_second_attempt_is_never_that_of_another_task():
    plan = plan_of(
        "[{name: gpt-4, prompt: x}, {name: gpt-4.2, prompt: x}, {name: gpt-4-2, prompt: x}]"
    )
    keys = [t.key for t in plan.tasks]
    ids = [key + suffix for key in keys for suffix in ("", *(f".{n}" for n in range(2, 9)))]
    assert len(set(ids)) == len(ids)


@given(st.lists(st.text(max_size=80), min_size=1, max_size=8))
def test_any_names_give_keys_of_their_own_that_can_name_sessions(given_names: list[str]):
    from clinvk.model.session import check_id

    data = [{"prompt": "x", "name": name} for name in given_names]
    keys = [t.key for t in parse.parse_plan(data, "t", "parallel", Defaults()).tasks]
    assert len({key.lower() for key in keys}) == len(keys)
    for key in keys:
        check_id(f"r123456.{key}.12")


def test_a_circle_is_named():
    said = mistake("[{name: a, prompt: x, needs: b}, {name: b, prompt: 'see {{tasks.c.output}}'}, {name: c, prompt: x, needs: [a]}]")  # fmt: skip
    assert "'a' needs 'b' needs 'c' needs 'a'" in said


def test_a_long_row_of_needs_is_no_problem():
    tasks = [{"name": f"t{i}", "prompt": "x", "needs": [f"t{i - 1}"] if i else []} for i in range(5_000)]  # fmt: skip
    plan = parse.parse_plan(tasks[::-1], "t", "parallel", Defaults())
    assert len(plan.tasks) == 5_000
