"""Files of tasks: their formats, and what they say of all tasks."""

import json
from pathlib import Path

import pytest
import yaml

from clinvk.config import loading
from clinvk.dispatch.dispatcher import Dispatcher
from clinvk.errors import ConfigError
from clinvk.model.plan import Budget, Halt, Limits, Plan
from clinvk.plans import preflight
from tests.conftest import CommandLine, Home
from tests.stores import keep
from tests.taskfiles import mistake, names, plan_of, prompts

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
