"""The fakes for users who test their scripts: no process, or a made-up CLI."""

import math
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import anyio
import pytest

import clinvk
from clinvk import store as clinvk_store
from clinvk.backend.catalog import Catalog, read_manifest
from clinvk.backend.reading.expressions import check_expressions
from clinvk.backend.selection import BackendSelector
from clinvk.config import loading
from clinvk.config.paths import backend_names
from clinvk.dispatch.dispatcher import Dispatcher
from clinvk.engine.driven_run import DrivenRun
from clinvk.engine.run_context import RunContext
from clinvk.errors import UsageError
from clinvk.model.events import Delta, Denied, Event, Notice, Text, Thinking, Tool, ToolResult
from clinvk.model.plan import Plan, Rules, Task
from clinvk.model.request import Request
from clinvk.model.result import Denial, Failure
from clinvk.model.usage import Usage
from clinvk.runs.folder import RunStore
from clinvk.testing import STATUS, FakeExecutor, Reply, fake_backend, temporary_home
from tests.conftest import CommandLine, Home
from tests.stores import keep

BUILT_IN = backend_names(Path(os.devnull))


def given(home: Home, fake: FakeExecutor, **more: Any) -> dict[str, Any]:
    dispatcher = keep(Dispatcher(loading.load(home.env), env=home.env))
    return {"dispatcher": dispatcher, "executor": fake, "backend": "echo", **more}


# The executor


def test_tasks_are_answered_without_a_process_and_kept_as_always(home: Home):
    fake = FakeExecutor({"a": "yes", "named": Failure("server", "overloaded")})
    tasks = ["a", {"name": "named", "prompt": "b"}, {"prompt": "c", "needs": "named"}]
    result = clinvk.parallel(tasks, **given(home, fake))
    assert [o.state for o in result.results] == ["done", "failed", "skipped"]
    assert (result.results[0].output, result.results[0].backend) == ("yes", "echo")
    assert [r.prompt for r in fake.requests] == ["a", "b"]
    kept = RunStore(home.path).find(result.id).result()
    assert kept.counts == {"done": 1, "failed": 1, "skipped": 1}
    assert not (home.path / "echo").exists()


def test_steps_name_what_was_answered_before_them(home: Home):
    fake = FakeExecutor()
    result = clinvk.chain(["a", "{{previous}}b", "{{previous}}c"], **given(home, fake))
    assert [o.output for o in result.results] == ["a", "ab", "abc"]


def test_a_comparison_is_answered_too(home: Home):
    fake = FakeExecutor(lambda request: f"{request.backend} {request.options.get('model')}")
    asked = given(home, fake)
    del asked["backend"]
    compared = clinvk.compare("p", ["echo:a", "echo:b"], **asked)
    assert set(compared.answers.values()) == {"echo a", "echo b"}


def test_a_run_can_be_resumed_with_a_fake_executor(home: Home):
    first = clinvk.parallel(["a"], **given(home, FakeExecutor(Failure("backend", "no"))))
    asked = given(home, FakeExecutor("yes"))
    del asked["backend"]
    again = clinvk.resume_run(first.id, retry_failed=True, **asked)
    assert [o.output for o in again.results] == ["yes"]


def test_answers_in_a_list_are_given_in_order_and_the_last_one_again(home: Home):
    fake = FakeExecutor(["1", Reply(text="2")])
    result = clinvk.parallel(["a", "b", "c"], **given(home, fake, max_parallel=1))
    assert [o.output for o in result.results] == ["1", "2", "2"]


def test_a_prompt_without_an_answer_fails_and_says_so(home: Home):
    result = clinvk.parallel(["a"], **given(home, FakeExecutor({"b": "x"})))
    assert "no answer to 'a'" in result.results[0].error.message


def test_an_answer_that_cannot_be_one_fails_and_says_so(home: Home):
    wrong: Any = lambda _: 3  # noqa: E731
    result = clinvk.parallel(["a"], **given(home, FakeExecutor(wrong)))
    assert "cannot answer with int" in result.results[0].error.message
    with pytest.raises(UsageError, match=r"answers\['a'\] is empty"):
        fake_backend(home.path, answers={"a": []})


@pytest.mark.anyio
@pytest.mark.parametrize("ephemeral", [False, True])
async def test_a_run_gets_everything_that_it_needs_from_its_context(home: Home, ephemeral: bool):
    loaded, opened, markers = loading.load(home.env), [], []
    fake = FakeExecutor("the key is sk-ant-api03-" + "a1B2" * 20)

    def open_store() -> Any:
        opened.append(keep(clinvk_store.open_store("file", loaded.home)))
        return opened[-1]

    def create_executor(marker: str) -> FakeExecutor:
        markers.append(marker)
        return fake

    context = RunContext(
        selector=BackendSelector(Catalog(loaded.home), loaded, home.env),
        runs=RunStore(home.path / "elsewhere"),
        redact=True,
        env=home.env,
        open_store=open_store,
        create_executor=create_executor,
    )
    task = Task(name="a", prompt="a", key="a", backend="echo")
    rules = Rules(ephemeral=ephemeral)
    run = DrivenRun(context, Plan(kind="parallel", tasks=(task,), rules=rules))
    result = await run.run()
    assert (result.state, [r.prompt for r in fake.requests]) == ("done", ["a"])
    if ephemeral:
        assert (opened, markers) == ([], [""])
        assert not (home.path / "elsewhere").exists()
    else:
        assert markers[0]
        assert opened
        kept = run.with_outputs(RunStore(home.path / "elsewhere").find("last").result())
        assert "a1B2" not in kept.results[0].output


@pytest.mark.anyio
async def test_a_reply_that_never_ends_ends_with_the_run(home: Home):
    fake = FakeExecutor(Reply(delay=math.inf))
    asked = given(home, fake)
    plan = clinvk.plan_of(["a"], "parallel", asked["dispatcher"], {"backend": "echo"})
    run = clinvk.PlanRun(asked["dispatcher"], plan, executor=fake)
    run.observe = lambda change: run.stop("enough") if change.kind == "started" else None
    with anyio.fail_after(60):
        result = await run.run()
    assert (result.state, result.results[0].state) == ("cancelled", "cancelled")


# The backend


@pytest.fixture
def at_home(home: Home, monkeypatch: pytest.MonkeyPatch) -> Home:
    monkeypatch.setenv("CLINVK_HOME", str(home.path))
    monkeypatch.chdir(home.work)
    return home


def test_a_fake_backend_answers_and_knows_how_it_was_called(at_home: Home):
    fake = fake_backend(at_home.path, answers={"a": "yes", "*": "something"})
    assert fake.calls == []
    first = clinvk.run("a", backend="fake", model="big")
    assert (first.ok, first.text, first.error) == (True, "yes", None)
    again = clinvk.run("b", session=first.session_id)
    assert (again.text, again.native_id) == ("something", first.native_id)
    assert fake.prompts == ["a", "b"]
    assert fake.calls[0]["args"] == ["--model", "big"]
    assert fake.calls[1]["args"][:2] == ["--resume", first.native_id]
    assert fake.calls[0]["cwd"] == str(at_home.work)


def test_without_answers_a_fake_backend_repeats_the_prompt(at_home: Home):
    fake_backend(at_home.path)
    assert clinvk.run("héllo\n", backend="fake").text == "héllo\n"


@pytest.mark.parametrize("kind", [*STATUS, "backend"])
def test_a_fake_backend_fails_as_it_is_told(at_home: Home, kind: str):
    at = datetime(2050, 1, 1, tzinfo=UTC)
    fake_backend(at_home.path, answers=Failure(kind, "went wrong", retry_at=at))
    result = clinvk.run("a", backend="fake")
    assert result.error is not None
    assert (result.ok, result.error.kind, result.error.message) == (False, kind, "went wrong")
    assert result.error.retry_at == at


def test_answers_come_in_order_whoever_asks(at_home: Home):
    fake_backend(at_home.path, answers={"a": [Failure("server", "x"), "2"], "*": ["3", "4"]})
    asked = ["a", "b", "a", "c", "a", "d"]
    texts = [clinvk.run(prompt, backend="fake").text for prompt in asked]
    assert texts == ["", "3", "2", "4", "2", "4"]


def test_a_reply_has_events_usage_cost_and_a_structured_answer(at_home: Home):
    events: tuple[Event, ...] = (
        Thinking(text="?"), Delta(text="a"), Text(text="ab"), Tool(id="t", name="ls", input={"x": 1}),
        ToolResult(id="t", ok=True, output="o"), Denied(name="rm", reason="no"), Notice(message="n"),
    )  # fmt: skip
    reply = Reply(
        text="[1]",
        events=events,
        usage=Usage(input=3, output=4),
        cost=0.5,
        structured=[1],
        delay=0.1,
    )
    fake_backend(at_home.path, answers=reply)
    with Dispatcher() as dispatcher:
        seen: list[Event] = []

        async def ask() -> clinvk.Result:
            request = Request(prompt="p", backend="fake", options={"schema": {"type": "array"}})
            async with dispatcher.stream(request) as run:
                seen.extend([event async for event in run])
            return run.result

        result = anyio.run(ask)
    shown = [type(event) for event in seen[1:-1]]
    assert shown == [type(event) for event in events]
    assert [e.to_json() for e in seen[1:-1]] == [e.to_json() for e in events]
    assert (result.usage, result.cost, result.structured) == (reply.usage, 0.5, [1])
    assert result.denied == (Denial("rm", None, "no"),)


@pytest.mark.parametrize("name", [*BUILT_IN, "mine"])
def test_a_fake_backend_has_a_valid_manifest_with_the_options_of_the_one_it_replaces(
    tmp_path: Path, name: str
):
    fake = fake_backend(tmp_path, name)
    manifest = read_manifest(fake.manifest)
    check_expressions(manifest)
    real = Catalog(Path(os.devnull)).load(name if name in BUILT_IN else "echo")
    assert set(manifest.options) == set(real.options)


def test_a_fake_backend_takes_the_place_of_a_real_one_on_the_command_line_too(
    home: Home, clinvk: CommandLine
):
    fake = fake_backend(home.path, "claude", answers="I am not Claude.")
    done = clinvk("-b", "claude", "-m", "opus", "--approval", "auto", "hello")
    assert (done.returncode, done.stdout, done.stderr) == (0, "I am not Claude.\n", "")
    done = clinvk("parallel", "--json", stdin='["a", "b"]')
    assert done.returncode == 0, done.stderr
    assert sorted(fake.prompts) == ["a", "b", "hello"]


@pytest.mark.parametrize(("answer", "said"), [
    (Failure("timeout", "x"), "cannot fail with the kind 'timeout'"),
    (ValueError("x"), "cannot answer with ValueError"),
])  # fmt: skip
def test_what_a_program_cannot_answer_is_rejected(tmp_path: Path, answer: Any, said: str):
    with pytest.raises(UsageError, match=said):
        fake_backend(tmp_path, answers=answer)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("before", [None, "/somewhere"])
def test_a_temporary_home_is_in_force_until_its_end(
    monkeypatch: pytest.MonkeyPatch, before: str | None
):
    monkeypatch.delenv("CLINVK_HOME", raising=False)
    if before:
        monkeypatch.setenv("CLINVK_HOME", before)
    with temporary_home() as folder:
        fake_backend(folder, answers="yes")
        assert clinvk.run("a", backend="fake").text == "yes"
        assert (folder / "sessions").exists()
    assert os.environ.get("CLINVK_HOME") == before
    assert not folder.exists()


def test_nothing_of_ours_imports_the_fakes_and_they_do_not_import_pytest(home: Home):
    code = "import sys, clinvk.testing; print('pytest' in sys.modules, 'anyio' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], env=home.env, capture_output=True, text=True, check=True
    )
    assert done.stdout == "False False\n"
