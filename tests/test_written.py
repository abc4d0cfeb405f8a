"""What a task file means to its author, and YAML 1.1 reads differently, stays as it is written."""

import json
import subprocess
from pathlib import Path

import pytest

from clinvk.config import editing, keys, loading
from clinvk.errors import ConfigError
from clinvk.text import yaml
from tests.conftest import CommandLine
from tests.needs import need
from tests.taskfiles import mistake, plan_of, prompts

WORDS = [
    "no",
    "True",
    "3.10",
    "12:30",
    "010",
    "1_000",
    "0x1F",
    "2026-11-21",
    "1e3",
    ".5",
    "=",
    "-0",
]


@pytest.mark.parametrize(
    "text",
    [
        "- {prompt: 'x {{a}}', matrix: {a: [%s]}, env: {A: '{{a}}'}}",
        "# a list, after a comment\n- prompt: 'x {{a}}'\n  matrix:\n    a: [%s]\n  env: {A: '{{a}}'}",
        "matrix: {a: [%s]}\ndefaults: {env: {A: '{{a}}'}}\ntasks: ['x {{a}}']",
        "x-m: &m {a: [%s]}\nx-t: &t {matrix: {<<: *m}}\ntasks: [{<<: *t, prompt: 'x {{a}}', env: {A: '{{a}}'}}]",
    ],
)
def test_a_matrix_has_the_words_that_are_written(text: str):
    tasks = plan_of(text % ", ".join(WORDS)).tasks
    assert [task.prompt for task in tasks] == [f"x {word}" for word in WORDS]
    assert [task.env["A"] for task in tasks] == WORDS


def test_an_environment_has_the_words_that_are_written():
    pairs = ", ".join(f"V{i}: {word}" for i, word in enumerate(WORDS))
    (task,) = plan_of(f"- {{prompt: x, name: 1.10, env: {{{pairs}, NO: on, 010: x}}}}").tasks
    assert list(task.env.values()) == [*WORDS, "on", "x"]
    assert list(task.env)[-2:] == ["NO", "010"]
    assert task.name == "1.10"


def test_json_keeps_the_spelling_of_numbers_where_they_are_texts():
    task = '{"prompt": "x {{a}}", "matrix": {"a": [3.10, 1e2, 2.5]}, "env": {"A": 1.10}, "meta": {"n": 1.10}}'
    for text, path in (
        (task, "t.jsonl"),
        (f'{{"tasks": [{task}]}}', "t.json"),
        (f"[{task}]", "t.json"),
    ):
        plan = plan_of(text, path)
        assert prompts(plan) == ["x 3.10", "x 1e2", "x 2.5"]
        assert plan.tasks[0].env == {"A": "1.10"}
        assert plan.tasks[0].meta == {"n": 1.1}


def test_metadata_has_the_values_that_json_would_write_in_the_same_way():
    meta = (
        plan_of(
            "- {prompt: x, meta: {a: 3.1, b: 3.10, c: 12, d: 012, e: true, f: yes, g: ~, h: [1:30]}}"
        )
        .tasks[0]
        .meta
    )
    assert meta == {
        "a": 3.1, "b": "3.10", "c": 12, "d": "012", "e": True, "f": "yes", "g": None, "h": ["1:30"],
    }  # fmt: skip


def test_a_part_that_is_shared_keeps_its_types_elsewhere():
    (task,) = plan_of("- {prompt: x, max_turns: &n 3, env: {N: *n}}").tasks
    assert (task.options, task.env) == ({"max_turns": 3}, {"N": "3"})


def test_a_duration_is_not_a_number_of_base_60():
    assert plan_of("- {prompt: x, timeout: 90}").tasks[0].timeout == 90
    assert plan_of("- {prompt: x, timeout: 0}").tasks[0].timeout is None
    assert "invalid duration '1:30'" in mistake("- {prompt: x, timeout: 1:30}")


@pytest.mark.parametrize(
    ("text", "line", "word"),
    [
        ("tasks:\n- prompt: Fix issue #123 and PR #7\n", 2, "#123"),
        ("tasks:\n- a\n- Review PR #42 and merge it\n", 3, "#42"),
        ("- prompt: a\n  system_prompt: See \t#rules\n", 2, "#rules"),
        ("- prompt: Fix the\n    long issue #{{n}}\n", 2, "#{{n}}"),
        ("- {prompt: 'a', title: b #1\n  }\n", 1, "#1"),
        ("# é\r\n- a\r\n- 文字 😀 #1\r\n", 3, "#1"),
        ("- #12 is a task\n", 1, "#12"),
        ("- name: x\n  prompt: #12 is one\n", 2, "#12"),
        ("defaults:\n  append_system_prompt: a #1\ntasks: [x]\n", 2, "#1"),
        ("- prompt: '{{a}}'\n  matrix:\n    a:\n    - fix #1\n", 4, "#1"),
        ("- prompt: a\n  env:\n    A: fix #1\n", 3, "#1"),
        ("- prompt: a\n  meta: {k: [{a: b}, \n  c #1\n  ]}\n", 3, "#1"),
        ("- prompt: Fix issue\n    #123 now\n", 2, "#123"),
        ("- prompt: Fix\n    the issue\n    #123\n  backend: echo\n", 3, "#123"),
        ("tasks:\r\n- Review PR\r\n  #42 now\r\n- b\r\n", 3, "#42"),
    ],
)  # fmt: skip
def test_a_comment_that_would_cut_a_text_is_refused(text: str, line: int, word: str):
    assert f"t.yaml: line {line}: {word!r} begins a comment" in mistake(text)


def test_other_comments_and_number_signs_are_fine():
    text = """\
        # first
        tasks:  #---
        - prompt: one # a comment
          max_turns: 3 #three
          backend: echo #or claude
        - "two #2" #quoted
        - C# and [x](#anchor)
        - |
          four #4
        - prompt: five
          #backend: echo
          # max_turns: 3
        #- six
        - prompt: seven
            # as in six
          backend: echo
            #or claude
        """
    assert prompts(plan_of(text)) == [
        "one", "two #2", "C# and [x](#anchor)", "four #4\n", "five", "seven",
    ]  # fmt: skip


def test_a_comment_does_not_cut_a_setting(tmp_path: Path):
    config = tmp_path / "config.yaml"
    config.write_text(
        "default_backend: echo # fine\nbackends:\n  claude:\n    system_prompt: See PR #4\n"
    )
    with pytest.raises(ConfigError, match="line 4: '#4' begins a comment"):
        loading.load({"CLINVK_HOME": str(tmp_path)})
    config.write_text("backends:\n  claude:\n    system_prompt: See\n      #4\n")
    with pytest.raises(ConfigError, match="line 4: '#4' begins a comment"):
        loading.load({"CLINVK_HOME": str(tmp_path)})
    assert keys.parse_value("backends.claude.system_prompt", "See PR #4 # now") == "See PR #4 # now"
    assert keys.parse_value("session.default_tags", '["a #1"]') == ["a #1"]


def test_shared_parts_and_merges_with_overrides():
    text = """\
        x-common: &c {backend: echo, meta: {x-y: 1}}
        defaults: {x-d: &d [a, b], tags: *d}
        tasks:
        - {<<: *c, prompt: a, x-note: 1}
        - {prompt: b, meta: {p: &a {k: 1}, q: &b {<<: *a, k: 2}}}
        - {prompt: c, meta: {<<: *b, k: 3}}
        """
    one, two, three = plan_of(text).tasks
    assert (one.backend, one.tags, one.meta) == ("echo", ("a", "b"), {"x-y": 1})
    assert (two.meta, three.meta) == ({"p": {"k": 1}, "q": {"k": 2}}, {"k": 3})
    assert prompts(plan_of('{"x-a": 1, "prompt": "p"}\n', "t.jsonl")) == ["p"]
    assert "duplicate key 'k'" in mistake("- {prompt: a, meta: {b: [{k: 1, k: 2}]}}")
    assert "duplicate key 'k'" in mistake("x-a: &a {k: 1, k: 2}\ntasks: [{prompt: a, meta: *a}]")


def test_a_cell_may_be_as_long_as_a_prompt():
    import csv

    before = csv.field_size_limit()
    assert [len(p) for p in prompts(plan_of(f"prompt,name\n{'x' * 900_000},a\n", "t.csv"))] == [
        900_000
    ]
    assert csv.field_size_limit() == before


def test_a_configuration_with_a_byte_order_mark_is_read(tmp_path: Path):
    (tmp_path / "config.yaml").write_bytes(b"\xef\xbb\xbfdefault_backend: echo\r\n")
    loaded = loading.load({"CLINVK_HOME": str(tmp_path)})
    assert loaded.config.default_backend == "echo"
    editing.change_settings(tmp_path / "config.yaml", {"default_backend": "claude"})
    assert loading.load({"CLINVK_HOME": str(tmp_path)}).config.default_backend == "claude"


def test_the_plain_reader_leaves_such_comments_to_the_other_one():
    for text in (
        "a: b #1",
        "a: #1",
        "a:\n- b #x",
        "a: [b] #x",
        "a: b\n  #x",
        "a:\n  b: c\n    #x\n",
    ):
        assert yaml.load(text) == yaml.load("%YAML 1.1\n---\n" + text)


@pytest.mark.parametrize(
    ("line", "name"),
    [
        (r'"caf\303\251.py"', "café.py"),
        (r'"a\tb \"q\" \\ \346\226\207.py"', 'a\tb "q" \\ 文.py'),
        (r'"\\303\\251"', r'"\\303\\251"'),  # a text with backslashes
        (r'"say \"hi\""', r'"say \"hi\""'),
        (r'"broken \377"', r'"broken \377"'),
        (r'"caf\303\251.py" and more', r'"caf\303\251.py" and more'),
        (r'"\000"', r'"\000"'),
        ('"', '"'),
    ],
)
def test_a_name_that_git_quotes_is_read_as_the_name(line: str, name: str):
    assert prompts(plan_of(f"{line}\r\nplain.py\n", None, "lines")) == [name, "plain.py"]


def test_a_quoted_name_without_octal_escapes_is_known_by_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    assert prompts(plan_of(r'"a\"b"', None, "lines")) == [r'"a\"b"']
    (tmp_path / 'a"b').touch()
    assert prompts(plan_of(r'"a\"b"', None, "lines")) == ['a"b']


def test_names_of_git_become_tasks(clinvk: CommandLine, tmp_path: Path):
    need("git")
    names = ["café.py", 'quo"te.py', "new\nline.py", "plain.py", "文字 1.py"]
    for name in names:
        (tmp_path / name).touch()
    subprocess.run(["git", "init", "-q", "."], cwd=tmp_path, check=True)
    subprocess.run(["git", "add", "."], cwd=tmp_path, check=True)
    for flags, args in (([], []), (["-z"], ["-0"]), (["-z"], ["--null", "--format", "lines"])):
        listed = subprocess.run(
            ["git", "ls-files", *flags], cwd=tmp_path, check=True, stdout=subprocess.PIPE
        ).stdout
        run = clinvk(
            "parallel", *args, "-b", "echo", "--prompt", "Review {{line}}", "-o", "json",
            stdin=listed.decode(), cwd=tmp_path,
        )  # fmt: skip
        assert run.returncode == 0, run.stderr
        outputs = [
            task["output"].partition("You said: ")[2] for task in json.loads(run.stdout)["results"]
        ]
        assert sorted(outputs) == sorted(
            f"Review {' '.join(name.split())}"
            for name in names  # echo quotes on one line
        )


def test_nul_characters_without_their_flag_are_an_error(clinvk: CommandLine):
    run = clinvk("parallel", "-b", "echo", "--prompt", "x {{line}}", stdin="a\0b\0")
    assert run.returncode == 3
    assert "line 1: it contains a NUL character; use -0" in run.stderr
    run = clinvk("parallel", "-0", "--format", "csv", "-b", "echo", stdin="a\0b\0")
    assert run.returncode == 1
    assert "-0 reads lines, not csv" in run.stderr
