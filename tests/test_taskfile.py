"""Files of tasks: what they become, and how their mistakes are told."""

import itertools
import json
import textwrap
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from clinvk.config import loading
from clinvk.dispatch.dispatcher import Dispatcher
from clinvk.errors import ConfigError
from clinvk.model.plan import Budget, Halt, Limits, Plan
from clinvk.plans import formats, parse, preflight
from clinvk.plans.schema import TaskDefaults
from clinvk.plans.taskfile.defaults import Defaults
from clinvk.text import template
from tests.conftest import CommandLine, Home
from tests.stores import keep


def plan_of(
    text: str, path: str | None = "t.yaml", form: str | None = None, **defaults: Any
) -> Plan:
    kind = defaults.pop("kind", "parallel")
    defaults["task"] = TaskDefaults(**defaults.get("task", {}))
    text = textwrap.dedent(text)
    data, form = formats.parse_text(path, text, form)
    lined = text if form in ("yaml", "json") else ""
    return parse.parse_plan(data, path or "stdin", kind, Defaults(**defaults), lined)


def mistake(text: str, path: str | None = "t.yaml", **more: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        plan_of(text, path, **more)
    assert caught.value.exit_code == 3
    return str(caught.value)


def prompts(plan: Plan) -> list[str]:
    return [task.prompt for task in plan.tasks]


def names(plan: Plan) -> list[str]:
    return [task.name for task in plan.tasks]


# Formats

SAME = {
    "t.yaml": "tasks: [{prompt: one, name: a, tags: [x, y]}, {prompt: two, max_turns: 3}]",
    "t.yml": "- {prompt: one, name: a, tags: [x, y]}\n- {prompt: two, max_turns: 3}\n",
    "t.json": '{"tasks": [{"prompt": "one", "name": "a", "tags": ["x", "y"]}, {"prompt": "two", "max_turns": 3}]}',
    "t.jsonl": '{"prompt": "one", "name": "a", "tags": ["x", "y"]}\n\n{"prompt": "two", "max_turns": 3}\n',
    "t.ndjson": '{"prompt": "one", "name": "a", "tags": ["x", "y"]}\r\n{"prompt": "two", "max_turns": 3}\r\n',
    "t.csv": 'prompt,name,tags,max_turns\none,a,"x, y",\ntwo,,,3\n',
}  # fmt: skip


@pytest.mark.parametrize("path", SAME)
def test_every_format_says_the_same_tasks(path: str):
    one, two = plan_of(SAME[path], path).tasks
    assert (one.prompt, one.name, one.tags, one.options) == ("one", "a", ("x", "y"), {})
    assert (two.prompt, two.name, two.options) == ("two", "2", {"max_turns": 3})


@pytest.mark.parametrize("path", SAME)
def test_what_comes_from_stdin_is_known_by_its_looks(path: str):
    form = "csv" if path == "t.csv" else None
    assert prompts(plan_of(SAME[path], None, form)) == ["one", "two"]


def test_one_task_alone_on_a_line_is_a_task():
    assert prompts(plan_of('{"prompt": "one"}\n', None)) == ["one"]
    assert prompts(plan_of('{"tasks": ["one"]}\n', None)) == ["one"]


def test_a_prompt_alone_is_a_task():
    assert prompts(plan_of("[one, {prompt: two}]")) == ["one", "two"]
    assert prompts(plan_of('"one"\n"two"\n', "t.jsonl")) == ["one", "two"]


def test_each_line_is_a_prompt():
    assert prompts(plan_of("one\r\n\n  two {{x}}\n", "t.txt")) == ["one", "  two {{x}}"]


def test_each_line_goes_into_the_prompt_of_all():
    plan = plan_of("a.py\nb {{c}}.py\n", None, "lines", task={"prompt": "review {{line}}"})
    assert prompts(plan) == ["review a.py", "review b {{c}}.py"]


def test_columns_that_are_no_keys_are_named_by_prompts():
    plan = plan_of("file,lang\na.py,en\nb.py,de\n", "t.csv", task={"prompt": "{{file}}: {{lang}}"})
    assert prompts(plan) == ["a.py: en", "b.py: de"]


def test_a_cell_may_hold_lines_and_commas():
    plan = plan_of('prompt,name\n"one,\ntwo","a ""b"""\n', "t.csv")
    assert (prompts(plan), names(plan)) == (["one,\ntwo"], ['a "b"'])


def test_a_cell_says_numbers_switches_and_lists():
    (task,) = plan_of(
        "prompt,max_turns,retries,timeout,idempotent,lenient,dry_run,verbose,allowed_tools\n"
        'x, 3 ,2,5m,TRUE,false,true,true,"Read, Grep"\n',
        "t.csv",
    ).tasks
    assert task.options == {"max_turns": 3, "allowed_tools": ["Read", "Grep"]}
    assert (task.retries, task.timeout) == (2, 300)
    assert (task.idempotent, task.lenient, task.dry_run) == (True, False, True)


# As others have published it

PUBLISHED = {
    "tasks": [
        {
            "backend": "claude",
            "prompt": "review the auth module",
            "model": "opus",
            "workdir": ".",
            "approval_mode": "auto",
            "sandbox_mode": "workspace",
            "output_format": "json",
            "max_tokens": 1000,
            "max_turns": 5,
            "system_prompt": "be brief",
            "verbose": True,
            "dry_run": True,
            "extra": ["--foo", "bar"],
            "id": "auth",
            "name": "Auth review",
            "tags": ["sec"],
            "meta": {"ticket": 7},
        },
        {"backend": "codex", "prompt": "add tests", "id": 2},
    ],
    "max_parallel": 3,
    "fail_fast": False,
    "output_dir": "out",
}


def test_the_published_format_works_unchanged():
    plan = plan_of(json.dumps(PUBLISHED), "t.json", fail_fast=True, max_parallel=8)
    first, second = plan.tasks
    assert (first.name, first.backend, first.key) == ("Auth review", "claude", "Auth-review")
    assert first.options == {
        "model": "opus", "approval": "auto", "sandbox": "workspace", "max_turns": 5,
        "max_tokens": 1000, "system_prompt": "be brief",
    }  # fmt: skip
    assert {"max_turns", "max_tokens"} <= set(first.droppable)
    assert (first.args, first.cwd) == (("--foo", "bar"), str(Path.cwd().resolve()))
    assert (first.tags, first.meta, first.dry_run) == (("sec",), {"ticket": 7}, True)
    assert (second.name, second.backend) == ("2", "codex")
    assert plan.rules.max_parallel == 3
    assert plan.rules.halt == Halt()  # the file's word, not the configuration's
    assert plan.rules.output_dir == str(Path.cwd() / "out")


def test_a_plan_comes_back_from_json_as_it_was():
    plan = plan_of(json.dumps({**PUBLISHED, "budget": {"cost": 2}, "halt": "soon,fail=10%"}))
    assert Plan.from_json(json.loads(json.dumps(plan.to_json()))) == plan


def test_a_date_in_meta_is_text_as_in_json():
    (task,) = plan_of("[{prompt: x, meta: {due: 2026-01-02, 3: [2026-01-03]}}]").tasks
    assert task.meta == {"due": "2026-01-02", "3": ["2026-01-03"]}


# Rules


def test_the_rules_of_a_file():
    rules = plan_of("""
        max_parallel: 5
        max_parallel_per_backend: {claude: 2}
        halt: now,fail=20%
        retries: 2
        retry_delay: 0.5
        tasks: [x]
    """).rules
    assert (rules.max_parallel, rules.max_parallel_per_backend) == (5, {"claude": 2})
    assert rules.halt == Halt(when="now", percent=20)
    assert (rules.retries, rules.retry_delay) == (2, 0.5)
    rules = plan_of("""
        on_limit: "switch:codex, gemini"
        limit_wait: 10s
        max_wait: 2h
        budget: {cost: 1.5, tokens: 1000}
        stall_timeout: 3m
        ephemeral: true
        tasks: [x]
    """).rules
    assert rules.limits == Limits(
        action="switch", to=("codex", "gemini"), first_wait=10, max_wait=7200
    )
    assert (rules.budget, rules.stall_timeout, rules.ephemeral) == (Budget(1.5, 1000), 180, True)


@pytest.mark.parametrize(("said", "configured", "found"), [
    (None, False, Halt()), (None, True, Halt(when="now", count=1)),
    (True, False, Halt(when="now", count=1)), (False, True, Halt()),
])  # fmt: skip
def test_fail_fast_of_the_file_goes_before_the_configuration(
    said: bool | None, configured: bool, found: Halt
):
    assert (
        plan_of(yaml.safe_dump({"tasks": ["x"], "fail_fast": said}), fail_fast=configured)
    ).rules.halt == found


# Defaults


def test_a_task_goes_before_the_command_line_and_that_before_the_defaults_of_the_file():
    plan = plan_of(
        """
        defaults: {backend: gemini, model: big, tags: [d], approval: auto}
        tasks: [{prompt: one, backend: codex}, two]
        """,
        task={"backend": "claude", "model": "small"},
    )
    one, two = plan.tasks
    assert [(t.backend, t.options["model"], t.tags) for t in (one, two)] == [
        ("codex", "small", ("d",)),
        ("claude", "small", ("d",)),
    ]
    assert "model" in one.droppable
    assert "approval" in one.droppable


@pytest.mark.parametrize(("default", "own"), [
    ("approval", "approval_mode"), ("approval_mode", "approval"),
    ("sandbox", "sandbox_mode"), ("sandbox_mode", "sandbox"),
])  # fmt: skip
def test_a_task_goes_before_the_defaults_whatever_each_calls_it(default: str, own: str):
    values = ("none", "auto") if "approval" in own else ("full", "read-only")
    plan = plan_of(f"""
        defaults: {{{default}: {values[0]}}}
        tasks: [{{prompt: x, {own}: {values[1]}}}]
    """)
    assert plan.tasks[0].options == {own.removesuffix("_mode"): values[1]}


def test_a_prompt_goes_before_a_default_file_of_one_and_the_other_way(tmp_path: Path):
    file = tmp_path / "p.md"
    file.write_text("from the file")
    plan = plan_of(f"""
        defaults: {{prompt_file: {file}}}
        tasks: [{{prompt: own}}, {{name: b}}]
    """)
    assert prompts(plan) == ["own", "from the file"]
    plan = plan_of(f"[{{prompt_file: {file}}}, {{name: b}}]", task={"prompt": "given"})
    assert prompts(plan) == ["from the file", "given"]


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
        {"prompt": "mend {{f}}: {{tasks.r {{f}}.output}}{{f}}", "matrix": {"f": [value]}},
    ]
    if set(value) & set("{}\n"):
        with pytest.raises(ConfigError, match="cannot be part of a task's name"):
            parse.parse_plan(tasks, "t", "parallel", Defaults())
        return
    plan = parse.parse_plan(tasks, "t", "parallel", Defaults())
    assert plan.tasks[2].needs == (1,)
    said = template.render(plan.tasks[2].prompt, lambda _: "fine")
    assert said == f"mend {value}: fine{value}"


def test_a_name_of_the_matrix_may_stand_in_the_name_of_a_task():
    plan = plan_of("""
        matrix: {f: [a, b]}
        tasks:
          - {name: "r {{f}}", prompt: "review {{f}}"}
          - {name: "m {{f}}", prompt: "mend: {{ tasks.r {{ f }}.output }}"}
          - {name: "c {{f}}", prompt: check, needs: ["r {{f}}"]}
    """)
    assert [t.needs for t in plan.tasks] == [(), (), (0,), (1,), (0,), (1,)]
    assert plan.tasks[2].known == {"tasks.r a.output": 0}
    assert rendered(plan.tasks[3]) == "mend: <tasks.r b.output>"


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


# Mistakes


MISTAKES = [
    ("tasks:\n- prompt: x\n  neds: a\n", "t.yaml: line 3: tasks[0].neds: unknown key 'neds'; did you mean 'needs'?"),
    ("tasks:\n- x\n- prompt: y\n  max_turns: many\n", "t.yaml: line 4: tasks[1].max_turns: expected a whole number"),
    ("defaults:\n  max_turns: many\ntasks:\n- x\n", "t.yaml: line 2: defaults.max_turns: expected a whole number"),
    ("tasks:\n- prompt: y\n  max_turns: -3\n", "t.yaml: line 3: tasks[0].max_turns: -3 is too small; the minimum is 1"),
    ("defaults:\n  max_tokens: -1\ntasks:\n- x\n", "t.yaml: line 2: defaults.max_tokens: -1 is too small; the minimum is 1"),
    ("defaults:\n  timeout: soon\ntasks:\n- x\n", "t.yaml: line 2: defaults.timeout: invalid duration 'soon'"),
    ("defaults: {max_turns: 3}\ntasks:\n- prompt: x\n  max_turns: many\n", "t.yaml: line 4: tasks[0].max_turns"),
    ("tasks:\n- name: a\n", "line 2: tasks[0]: missing key 'prompt'"),
    ("tasks:\n- prompt: ' '\n", "line 2: tasks[0]: the prompt is empty"),
    ("tasks:\n- prompt: x\n  retries: -1\n", "line 3: tasks[0].retries: -1 is too small"),
    ("tasks:\n- prompt: x\n  timeout: 5 weeks\n", "line 3: tasks[0].timeout: invalid duration '5 weeks'"),
    ("tasks:\n- prompt: x\n  workdir: /no/such\n", "line 3: tasks[0].workdir: /no/such: no such directory"),
    ("tasks:\n- prompt: x\n  add_dir: [/no/such]\n", "line 3: tasks[0].add_dir: /no/such: no such directory"),
    ("tasks:\n- prompt_file: /no/such\n", "line 2: tasks[0].prompt_file: /no/such: No such file"),
    ("tasks:\n- prompt: x\n  schema: /no/such\n", "line 3: tasks[0].schema: /no/such"),
    ("tasks:\n- prompt: x\n  needs: 3\n", "line 3: tasks[0].needs: expected"),
    ("tasks:\n- prompt: x\n  matrix: {a: 3}\n", "line 3: tasks[0].matrix.a: expected a list"),
    ("tasks:\n- 3\n", "line 2: tasks[0]: expected keys and values, or a prompt, found 3"),
    ("tasks: [x]\nhalt: often\n", "line 2: halt: 'often' is not one of: never"),
    ("tasks: [x]\nhalt: soon,fail=0\n", "line 2: halt: 'soon,fail=0'"),
    ("tasks: [x]\non_limit: panic\n", "line 2: on_limit: 'panic' is not one of: wait"),
    ("tasks: [x]\non_limit: 'switch:'\n", "line 2: on_limit"),
    ("tasks: [x]\nmax_parallel: 0\n", "line 2: max_parallel: 0 is too small"),
    ("tasks: [x]\nmax_parallel_per_backend:\n  claude: 0\n", "line 3: max_parallel_per_backend.claude: 0 is too small"),
    ("tasks: [x]\nbudget:\n  cost: -1\n", "line 3: budget.cost: -1"),
    ("tasks: [x]\nmax_paralel: 2\n", "line 2: max_paralel: unknown key 'max_paralel'; did you mean 'max_parallel'?"),
    ("tasks: []\n", "there are no tasks"),
    ("", "there are no tasks"),
    ("steps: [x]\n", "there are no tasks; use clinvk chain for `steps:`"),
    ("tasks: [x]\ntasks: [y]\n", "line 2: duplicate key 'tasks'"),
    ("tasks: [\n", "t.yaml: line"),
    ("just a sentence", "expected keys and values"),
    ("[{name: one, prompt: x}, {prompt: x, needs: [noe]}]", "tasks[1]: needs: there is no task 'noe'; did you mean 'one'?"),
    ("[{name: one, prompt: x}, {prompt: 'see {{tasks.oen.output}}'}]", "did you mean 'one'?"),
    ("[{name: one, prompt: x}, {prompt: 'see {{tasks.one.otput}}'}]", "unknown name {{tasks.one.otput}}; did you mean {{tasks.one.output}}?"),
    ("matrix: {file: [a]}\ntasks: ['read {{fiel}}']", "t.yaml: line 2: tasks[0]: unknown name {{fiel}}; did you mean {{file}}?"),
    ("matrix: {file: [a]}\ntasks:\n- name: see {{file}}\n  prompt: |\n   read\n   {{fiel}}", "line 4: tasks[0] 'see a': unknown name {{fiel}}; did you mean {{file}}?"),
    ("tasks:\n- prompt: x\n- name: two\n  prompt: y\n  needs: [1, noe]", "line 5: tasks[1].needs[0]: expected text"),
    ("tasks:\n- prompt: x\n- name: two\n  prompt: y\n  needs: [noe]", "t.yaml: line 5: tasks[1] 'two': needs: there is no task 'noe'"),
    ("tasks:\n- {name: a, prompt: x}\n- {name: me, prompt: y, needs: me}", "line 3: tasks[1] 'me': needs: 'me' refers to itself"),
    ("tasks:\n- x\n- {name: a, prompt: x, needs: b}\n- {name: b, prompt: x, needs: a}", "t.yaml: line 3: tasks[1] 'a': the tasks wait for each other: 'a' needs 'b' needs 'a'"),
    ("[{name: a, prompt: x}, 'mend {{tasks.a.error}}']", "{{tasks.a.error}} is always empty: '2' is only run when 'a' has succeeded"),
    ("[{name: me, prompt: '{{tasks.me.output}}'}]", "'me' refers to itself"),
    ("[{name: a, prompt: x}, {name: a, prompt: y}, 'see {{tasks.a.output}}']", "there are 2 tasks named 'a'"),
    ("['{{previous}}', {prompt: '{{previous}} {{tasks.1.output}}'}]", "nothing comes before"),
]  # fmt: skip


def test_a_mistake_is_told_with_its_place():
    for text, said in MISTAKES:
        assert said in mistake(text), text


def test_a_hint_lists_what_could_have_been_named():
    with pytest.raises(ConfigError) as caught:
        plan_of("file,lang,prompt\na,b,{{x}}\n", "t.csv")
    assert (caught.value.hint or "").startswith("available: {{file}}, {{lang}}; ")


@pytest.mark.parametrize(("text", "said"), [
    ('{\n "tasks": [\n  {"prompt": "x",\n   "modle": "m"}\n ]\n}', "t.json: line 4: tasks[0].modle: unknown key 'modle'; did you mean 'model'?"),
    ('{"tasks": [\n', "t.json: not JSON: "),
    ('{"tasks": ["x"],\n "max_parallel": "3"}', "t.json: line 2: max_parallel: expected a whole number, found '3'"),
])  # fmt: skip
def test_a_mistake_in_json_is_told_with_its_place(text: str, said: str):
    assert said in mistake(text, "t.json")


@pytest.mark.parametrize(("path", "text", "said"), [
    ("t.jsonl", '{"prompt": "x"}\n{"prompt"', "t.jsonl: line 2: not JSON"),
    ("t.jsonl", '{"prompt": "x"}\n{"promt": "y"}', "tasks[1].promt: unknown key"),
    ("t.csv", "prompt,name\na,b\nc\n", "t.csv: line 3: expected 2 columns"),
    ("t.csv", "prompt,name\na,b,c\n", "t.csv: line 2: expected 2 columns"),
    ("t.csv", 'prompt\n"a"b"\n', "t.csv: line 2"),
    ("t.csv", "prompt,max_turns\na,²\n", "tasks[0].max_turns: expected a whole number"),
    ("t.csv", "", "there are no tasks"),
    ("t.csv", "file\na.py\n", "missing key 'prompt'"),
    ("t.txt", "\n\n", "there are no tasks"),
])  # fmt: skip
def test_a_mistake_in_lines_is_told_with_its_place(path: str, text: str, said: str):
    assert said in mistake(text, path)


@pytest.mark.parametrize(("text", "said", "hint"), [
    ("file,lang\na.py,en\n", "t.csv: tasks[0]: missing key 'prompt'; the columns are: 'file', 'lang'", "--prompt '… {{file}} {{lang}}'"),
    ("name,file\na,b\n", "the columns are: 'name', 'file'", "--prompt '… {{file}}'"),
    ("prompt;file\na;b\n", "the columns are: 'prompt;file'", "columns are separated by commas, not by ';'"),
    ("prompt,name\na,b\n,c\n", "tasks[1]: the prompt is empty", "fill the column 'prompt'"),
])  # fmt: skip
def test_a_table_without_a_prompt_is_told_with_its_columns(text: str, said: str, hint: str):
    with pytest.raises(ConfigError) as caught:
        plan_of(text, "t.csv")
    assert said in str(caught.value)
    assert hint in (caught.value.hint or "")


@pytest.mark.parametrize("path", ["t.yaml", "t.json", None])
def test_what_is_nested_without_end_is_refused(path: str | None):
    assert "nested" in mistake("[" * 100_000, path)


def test_no_key_of_a_file_is_taken_for_columns():
    assert "unknown key" in mistake('{"tasks": [{"prompt": "x", "\\u0000columns": 5}]}', "t.json")


def test_a_prompt_and_a_file_of_one_exclude_each_other(tmp_path: Path):
    assert "cannot be used together" in mistake(f"[{{prompt: x, prompt_file: {tmp_path}/p}}]")


def test_a_schema_has_to_be_json(tmp_path: Path):
    (tmp_path / "s.json").write_text("{")
    assert "not JSON" in mistake(f"[{{prompt: x, schema: {tmp_path}/s.json}}]")


# What a task needs of the outside


def check(home: Home, text: str, **env: str) -> preflight.PreflightReport:
    env = {**home.env, **env}
    return preflight.check_plan(
        plan_of(text), keep(Dispatcher(loading.load(env), env=env)).selector
    )


def test_a_variable_is_looked_up_when_a_task_is_started(home: Home):
    checked = check(home, "[{prompt: x, backend: echo, env: {A: 'Bearer ${TOK}', B: plain, C: '${ON}'}}]",
                    TOK="t0p-secret", ON="1")  # fmt: skip
    assert checked.tasks[0].env == {"A": "Bearer t0p-secret", "B": "plain", "C": "1"}
    assert checked.tasks[0].secrets == ("t0p-secret",)


def test_a_variable_that_is_not_set_is_a_mistake(home: Home):
    with pytest.raises(ConfigError, match=r"tasks\[0\]: env.A: \$NOPE is not set"):
        check(home, "[{prompt: x, backend: echo, env: {A: '${NOPE}'}}]")


@pytest.mark.parametrize(("key", "value"), [
    ("A", "ghp_0123456789abcdefghijABCDEFGHIJ012345"),
    ("MY_API_KEY", "q8Zr4tV1x9Lk2Pw7"),
    ("PGPASSWORD", "q8Zr4tV1x9Lk2Pw7"),
])  # fmt: skip
def test_a_secret_that_is_written_down_is_refused(home: Home, key: str, value: str):
    with pytest.raises(ConfigError, match="looks like a secret") as caught:
        check(home, f"[{{prompt: x, backend: echo, env: {{{key}: {value}}}}}]")
    assert value not in f"{caught.value} {caught.value.hint}"
    assert f"${{{key}}}" in (caught.value.hint or "")


def test_a_cap_of_none_at_once_is_refused(home: Home):
    home.config("parallel: {max_parallel_per_backend: {echo: 0}}")
    loaded = loading.load(home.env)
    plan = plan_of(
        "[{prompt: x, backend: echo}]",
        max_parallel_per_backend=loaded.config.parallel.max_parallel_per_backend,
    )
    with pytest.raises(ConfigError, match="echo: 0 is too small"):
        preflight.check_plan(plan, keep(Dispatcher(loaded, env=home.env)).selector)


def test_an_option_that_was_said_of_the_task_alone_is_not_dropped(home: Home):
    home.backend("fake", options={"model": ["--model", "$value"]})
    with pytest.raises(ConfigError, match="fake has no option 'add_dir'"):
        check(home, "[{prompt: x, backend: fake, add_dir: /}]")
    checked = check(
        home, "{defaults: {add_dir: /}, tasks: [{prompt: x, backend: fake, max_turns: 3}]}"
    )
    assert checked.tasks[0].options == {}
    assert len(checked.notices) == 2


def test_approval_and_sandbox_are_never_dropped_and_told_of_where_they_were_said(home: Home):
    home.backend("fake", options={"approval": {"auto": ["--yes"]}})
    for key, value in (("sandbox", "read-only"), ("approval", "none")):
        with pytest.raises(ConfigError) as caught:
            check(home, f"{{defaults: {{{key}: {value}}}, tasks: [{{prompt: x, backend: fake}}]}}")
        assert str(caught.value).startswith(f"t.yaml: defaults.{key}: fake cannot enforce {key}")
        assert f"a task can override it with {key}: default" in (caught.value.hint or "")
    text = "[{prompt: x, backend: fake, lenient: true, sandbox: read-only}]"
    with pytest.raises(ConfigError, match=r"t.yaml: tasks\[0\]: fake cannot enforce sandbox"):
        check(home, text)
    text = "{defaults: {sandbox: read-only}, tasks: [{prompt: x, backend: fake, sandbox: default}]}"
    assert check(home, text).tasks[0].options == {"sandbox": "default"}


@pytest.mark.parametrize(("flags", "said"), [
    (["--approval", "foo"], "clinvk: --approval: 'foo' is not one of: default, auto"),
    (["--sandbox", "read-only"], "clinvk: --sandbox: fake cannot enforce sandbox 'read-only'"),
    (["-w", "/no/such"], "clinvk: --workdir: /no/such: no such directory"),
    (["--prompt", "see {{tasks.a.output}}"], "clinvk: --prompt: {{tasks.a.output}}: there is no task 'a'"),
    (["--tag", "{{fiel}}"], "clinvk: --tag[0]: unknown name {{fiel}}; did you mean {{file}}?"),
])  # fmt: skip
def test_a_mistake_in_a_flag_is_told_of_the_flag(
    clinvk: CommandLine, home: Home, flags: list[str], said: str
):
    home.backend("fake", options={})
    (home.work / "t.yaml").write_text("{matrix: {file: [a]}, tasks: [{backend: fake}]}")
    prompt = [] if flags[0] == "--prompt" else ["--prompt", "x"]
    done = clinvk("parallel", "t.yaml", *prompt, *flags)
    assert (done.returncode, said in done.stderr) == (3, True), done.stderr
    assert "such a file" not in done.stderr


def test_a_mistake_is_told_of_the_defaults_and_of_the_task_that_stands_above_them():
    text = "defaults:\n  prompt: 'see {{tasks.x.output}}'\n  approval: foo\ntasks:\n- {approval: auto}\n"
    assert "t.yaml: line 2: tasks[0]: {{tasks.x.output}}: there is no task 'x'" in mistake(text)
    text = "defaults:\n  approval: foo\ntasks: [x]\n"
    assert "line 2: defaults.approval: 'foo' is not one of" in mistake(text)
    text = "defaults: {approval: foo}\ntasks:\n- prompt: x\n  approval_mode: bar\n"
    assert "line 4: tasks[0].approval_mode: 'bar' is not one of" in mistake(text)


def test_an_unknown_backend_is_named_with_its_place(clinvk: CommandLine):
    done = clinvk("parallel", stdin="[{prompt: x, backend: clade}]")
    assert done.returncode == 2
    assert "stdin: tasks[0]: unknown backend 'clade'" in done.stderr
    done = clinvk("parallel", stdin="[{name: mine, prompt: x, backend: clade}]")
    assert "stdin: tasks[0] 'mine': unknown backend 'clade'" in done.stderr


@pytest.mark.parametrize("text", ["tasks: [", "tasks: [{promt: x}]", "", "\xff"])
def test_a_bad_file_exits_with_3_and_leaves_nothing(clinvk: CommandLine, home: Home, text: str):
    (home.work / "t.yaml").write_bytes(text.encode("latin-1"))
    done = clinvk("parallel", "-f", "t.yaml", "--json")
    told = json.loads(done.stdout)
    assert (done.returncode, told["exit_code"], told["results"]) == (3, 3, [])
    assert told["error"]["message"].startswith("t.yaml: ")
    assert done.stderr.startswith("clinvk: t.yaml: ")
    assert not home.path.exists()


def test_a_file_that_is_not_there_exits_with_3(clinvk: CommandLine):
    done = clinvk("parallel", "no.yaml")
    assert done.returncode == 3
    assert "no.yaml: No such file" in done.stderr
