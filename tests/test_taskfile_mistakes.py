"""Mistakes in files of tasks, and where they are said to be."""

from pathlib import Path

import pytest

from clinvk.errors import ConfigError
from tests.taskfiles import mistake, plan_of

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
    ("[{name: a, prompt: x}, 'fix {{tasks.a.error}}']", "{{tasks.a.error}} is always empty: '2' is only run when 'a' has succeeded"),
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
