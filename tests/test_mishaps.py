"""One bad value, or one task's bad luck, is that task's alone; what can be seen before, is."""

import json
import os
import subprocess
from collections.abc import Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from clinvk.api import tasks as fanout
from clinvk.backend.catalog import Catalog
from clinvk.backend.command_line import check_arguments
from clinvk.backend.reading.parse import parse_manifest
from clinvk.config import loading
from clinvk.dispatch.dispatcher import Dispatcher
from clinvk.errors import ClinvkError, ConfigError, UsageError
from clinvk.model.request import Request
from clinvk.runs.folder import RunStore
from tests.conftest import END, PROTOCOL, READ, START, CommandLine, Home, say
from tests.needs import lack, need, need_root
from tests.stores import keep

NUL, HALF = "NUL character", "a lone surrogate"
# Starts no program of its own, so that a limit of processes is met by clinvk.
ANSWER = "while read -r line; do :; done\n" + START + END


@pytest.fixture
def fake(home: Home) -> Home:
    home.config("default_backend: fake\n")
    home.backend("fake", ANSWER)
    return home


def dispatcher(home: Home) -> Dispatcher:
    return keep(Dispatcher(loading.load(home.env), env=home.env))


# Values that no program can be given.

BAD = [
    ("model", "a\0b", NUL), ("workdir", "a\ud800", HALF),
    ("workdir", "a\0b", NUL), ("prompt_file", "a\0b", NUL), ("schema", "a\0b", NUL),
    ("add_dir", ["a\0b"], NUL), ("system_prompt", "a\0b", NUL), ("allowed_tools", "a\0", NUL),
    ("args", ["--x", "a\0b"], NUL), ("extra", ["\0"], NUL), ("options", {"effort": "\0"}, NUL),
    ("backend", "fa\0ke", NUL), ("env", {"A": "x\0"}, NUL), ("env", {"A=B": "x"}, "'='"),
    ("env", {"": "x"}, "without a name"), ("env", {"A\0": "x"}, NUL), ("env", {"A\ud800": "x"}, HALF),
]  # fmt: skip


@pytest.mark.parametrize(("key", "value", "said"), BAD)
def test_a_value_that_no_program_can_be_given_is_found_before_the_run(
    fake: Home, key: str, value: Any, said: str
):
    task = {"prompt": "x", key: value}
    if key == "prompt_file":
        del task["prompt"]
    for tasks in ([{"prompt": "fine"}, task], {"defaults": {key: value}, "tasks": ["fine"]}):
        path = fake.work / "tasks.json"
        path.write_text(json.dumps(tasks, indent=1))
        if isinstance(tasks, dict) and key.startswith("prompt"):
            continue
        with pytest.raises(ConfigError) as caught:
            fanout.parallel(path, dispatcher=dispatcher(fake))
        assert said in str(caught.value)
        place = f"tasks[1].{key}" if isinstance(tasks, list) else f"defaults.{key}"
        assert "tasks.json: line " in str(caught.value)
        assert place in str(caught.value)
    assert not (fake.path / "runs").exists()


@pytest.mark.parametrize(
    "change",
    [
        {"options": {"model": "a\0"}}, {"args": ("\0",)}, {"env": {"A": "\0"}}, {"env": {"": "x"}},
        {"env": {"A=B": "x"}}, {"env": {"A\0": "x"}}, {"cwd": Path("/tmp/\0")}, {"session": "a\0"},
        {"options": {"add_dir": ["\0"]}}, {"options": {"add_dir": ["\ud800"]}},
    ],
)  # fmt: skip
def test_a_request_that_no_program_can_be_given_is_a_usage_error(fake: Home, change: Any):
    request = Request(**{"prompt": "x", "backend": "fake", "cwd": fake.work, **change})
    with pytest.raises(UsageError) as caught:
        dispatcher(fake).plan(request)
    assert NUL in str(caught.value) or HALF in str(caught.value) or "variable" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('backends: {fake: {model: "a\\0"}}', f"backends.fake.model: a {NUL}"),
        ('backends: {fake: {extra_flags: ["\\0"]}}', "backends.fake.extra_flags[0]"),
        ('backends: {fake: {env: {"A=B": x}}}', "backends.fake.env.A=B: a variable's name"),
        ('backends: {fake: {env: {"": x}}}', "a variable without a name"),
    ],
)
def test_a_configuration_that_no_program_can_be_given_is_rejected(fake: Home, text: str, said: str):
    fake.config(text + "\n")
    with pytest.raises(ConfigError) as caught:
        loading.load(fake.env)
    assert said in str(caught.value)
    assert "config.yaml: line 1" in str(caught.value)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ('env: {A: "\\0"}', "env.A"), ('env: {"A=B": x}', "env.A=B"), ('command: "x\\0"', "command"),
        ('options: {model: ["\\0"]}', "options.model[0]"), ('ephemeral: {argv: ["\\0"]}', "argv[0]"),
        ('prompt: {escape: [{match: a, replace: "\\0"}]}', "replace"),
    ],
)  # fmt: skip
def test_a_manifest_that_no_program_can_be_given_is_rejected(more: str, said: str):
    command = "" if "command" in more else "command: x, "
    with pytest.raises(ConfigError) as caught:
        parse_manifest(f"{{name: x, {command}argv: {{run: []}}, {more}}}", Path("x.yaml"))
    assert said in str(caught.value)


def test_a_command_line_that_is_not_utf8_still_reaches_the_program(fake: Home):
    folder = os.fsencode(fake.work) + b"/caf\xe9"
    os.mkdir(folder)
    request = Request(prompt="x", backend="fake", cwd=Path(os.fsdecode(folder)))
    assert dispatcher(fake).plan(request).command.cwd == Path(os.fsdecode(folder))


# What a single task raises.


@pytest.fixture
def unlucky(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], None]:
    """Makes the task `bad` meet what no one has thought of."""
    stream = Dispatcher.stream

    def meets(raised: BaseException) -> None:
        @asynccontextmanager
        async def raising(self: Dispatcher, request: Request, *args: Any) -> Any:
            if request.prompt == "bad":
                raise raised
            async with stream(self, request, *args) as run:
                yield run

        monkeypatch.setattr(Dispatcher, "stream", raising)

    return meets


@pytest.mark.parametrize(
    "raised",
    [
        OSError(5, "Input/output error"), ValueError("embedded null byte"), MemoryError(),
        RuntimeError("can't start new thread"), KeyError("x"), RecursionError("too deep"),
        ExceptionGroup("several", [ValueError("x"), OSError(24, "Too many open files")]),
        ClinvkError("of ours", "a hint"),
    ],
    ids=lambda e: type(e).__name__,
)  # fmt: skip
@pytest.mark.parametrize("kept", [True, False])
def test_whatever_a_task_raises_fails_that_task_alone(
    fake: Home, unlucky: Callable[[BaseException], None], raised: Exception, kept: bool
):
    unlucky(raised)
    fake.backend("fake", ANSWER, ephemeral={"argv": []})
    tasks = ["a", "bad", "b", {"prompt": "{{tasks.2.output}}", "needs": "2"}]
    result = fanout.parallel(
        tasks, dispatcher=dispatcher(fake), workdir=fake.work, ephemeral=not kept
    )
    assert [o.state for o in result.results] == ["done", "failed", "done", "skipped"]
    error = result.results[1].error
    assert error
    assert error.message
    assert error.hint
    if kept:
        assert result.id
        stands = RunStore(fake.path).find(result.id).result()
        assert (stands.state, stands.results[1].error.message) == ("failed", error.message)  # type: ignore[union-attr]


def test_an_answer_that_cannot_be_an_argument_fails_the_task_that_would_be_given_it(home: Home):
    home.backend("first", READ + START + say(type="end", text="a\0b"))
    argument = {"argv": {"run": ["run", "$options", "--", "$prompt"]}}
    home.backend("second", START + END, **{**PROTOCOL, **argument})
    tasks = [
        {"id": "1", "prompt": "x", "backend": "first"},
        {"prompt": "{{tasks.1.output}}", "backend": "second"},
        {"prompt": "y", "backend": "second"},
    ]
    result = fanout.parallel(tasks, dispatcher=dispatcher(home), workdir=home.work)
    assert [o.state for o in result.results] == ["done", "failed", "done"]
    error = result.results[1].error
    assert error
    assert "the prompt has a NUL character" in error.message


# Limits of the system.


def tasks_of(home: Home, count: int) -> str:
    (home.work / "t.txt").write_text("".join(f"task {i}\n" for i in range(count)))
    return "t.txt"


def limited(limit: str, clinvk: CommandLine, *args: str, before: tuple[str, ...] = ()) -> Any:
    script = f'ulimit {limit}; exec "$@"'
    return subprocess.run(
        [*before, "bash", "-c", script, "bash", *clinvk.program, *args],
        env=clinvk.home.env, cwd=clinvk.home.work, capture_output=True, text=True, timeout=240,
        check=False,
    )  # fmt: skip


def test_as_many_tasks_run_at_a_time_as_files_can_be_open(fake: Home, clinvk: CommandLine):
    done = limited("-n 256", clinvk, "parallel", tasks_of(fake, 300), "-j", "100", "--json")
    assert done.returncode == 0, done.stderr
    assert {r["state"] for r in json.loads(done.stdout)["results"]} == {"done"}
    assert done.stderr.count("256 open files (ulimit -n)") == 1


UNBOUNDED = """
import sys
from clinvk.engine import capacity
capacity.room = lambda: None  # as if nobody had counted
from clinvk.cmd.main import main
sys.exit(main(sys.argv[1:]))
"""


def test_a_task_that_finds_too_few_files_waits_for_another_to_end(
    fake: Home, clinvk: CommandLine, tmp_path: Path
):
    program = tmp_path / "unbounded.py"
    program.write_text(UNBOUNDED)
    unbounded = CommandLine(fake)
    unbounded.__class__ = type(
        "Unbounded", (CommandLine,), {"program": [clinvk.program[0], str(program)]}
    )
    # Without sessions: that an answer is saved is not tried again.
    fake.backend("fake", ANSWER, ephemeral={})
    args = (tasks_of(fake, 60), "-j", "30", "--ephemeral", "--json")
    done = limited("-n 60", unbounded, "parallel", *args)
    assert done.returncode == 0, done.stderr
    assert {r["state"] for r in json.loads(done.stdout)["results"]} == {"done"}


def test_a_task_that_can_never_be_started_fails_alone_and_with_its_reason(
    fake: Home, clinvk: CommandLine
):
    done = limited("-n 17", clinvk, "parallel", tasks_of(fake, 4), "-j", "4", "--json")
    found = json.loads(done.stdout)["results"]
    assert {r["state"] for r in found} == {"failed"}, done.stderr
    assert {r["error"]["message"].rpartition(": ")[2] for r in found} == {"Too many open files"}
    assert "ulimit -n" in found[0]["error"]["hint"]


def test_a_user_with_few_processes_runs_fewer_tasks_at_a_time(fake: Home, clinvk: CommandLine):
    need_root()
    need("setpriv")
    caps = "-all,+dac_override"  # reads our files, and is bound by the limit
    user = ("setpriv", "--reuid=64123", "--clear-groups", f"--inh-caps={caps}",
            f"--ambient-caps={caps}", f"--bounding-set={caps}")  # fmt: skip
    if subprocess.run([*user, "true"], capture_output=True, check=False).returncode:
        lack("setpriv cannot become another user here")
    for folder in (
        fake.path,
        *fake.path.parents[:-2],
    ):  # the checks of access(2) know no rights of ours
        folder.chmod(0o755)
    for folder in fake.path.parent.rglob("*"):
        folder.chmod(0o777)
    fake.path.chmod(0o777)
    done = limited(
        "-u 20", clinvk, "parallel", tasks_of(fake, 40), "-j", "20", "--json", before=user
    )
    assert done.returncode == 0, done.stderr
    assert {r["state"] for r in json.loads(done.stdout)["results"]} == {"done"}
    assert "20 processes (ulimit -u)" in done.stderr


# What is too long for a command line.


def test_a_system_prompt_that_is_too_long_for_the_command_line_is_found_before_the_run(
    fake: Home, clinvk: CommandLine
):
    options = {**PROTOCOL["options"], "system_prompt": ["-c", "instructions=$json"]}
    started = fake.path.parent / "started"
    fake.backend("fake", f"touch {started}\n{ANSWER}", options=options)
    (fake.work / "t.json").write_text(
        json.dumps([{"prompt": "a"}, {"prompt": "b", "system_prompt": "x" * 140_000}])
    )
    done = clinvk("parallel", "t.json")
    assert done.returncode == 1, done
    assert "t.json: tasks[1]: system_prompt has 140,0" in done.stderr
    assert "at most 131,071" in done.stderr
    (fake.work / "s.txt").write_text("x" * 140_000)
    request = Request(
        prompt="x", backend="fake", cwd=fake.work, options={"system_prompt": "x" * 140_000}
    )
    with pytest.raises(UsageError, match="system_prompt has 140,0"):
        dispatcher(fake).plan(request)
    with pytest.raises(UsageError, match="more than 131,071 bytes"):
        dispatcher(fake).plan(
            Request(prompt="x", backend="fake", cwd=fake.work, args=("x" * 140_000,))
        )
    with pytest.raises(UsageError, match="more than 131,071 bytes"):
        dispatcher(fake).plan(
            Request(prompt="x", backend="fake", cwd=fake.work, env={"A": "x" * 140_000})
        )
    assert not started.exists()
    assert not (fake.path / "runs").exists()


@pytest.mark.parametrize(("name", "option"), [("codex", "system_prompt"), ("claude", "schema")])
def test_what_a_cli_takes_as_an_argument_is_refused_when_it_is_too_long(name: str, option: str):
    manifest = Catalog(Path("/nowhere")).load(name)
    check_arguments(manifest, {option: "x" * 100_000})
    with pytest.raises(UsageError, match=f"{option} has 1.* {name} takes it as an argument"):
        check_arguments(manifest, {option: "x" * 140_000})


@pytest.mark.parametrize(
    ("name", "option"),
    [("claude", "system_prompt"), ("codex", "schema"), ("gemini", "system_prompt")],
)
def test_what_a_cli_takes_as_a_file_may_be_longer(name: str, option: str):
    check_arguments(Catalog(Path("/nowhere")).load(name), {option: "x" * 1_000_000})
