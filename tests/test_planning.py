"""`--planning`: a turn that makes a plan and changes nothing."""

import pytest

from clinvk.backend.permissions import INSTRUCTION
from tests.conftest import ANSWER, CommandLine, Home

MODE = {"sandbox": {"full": ["--full"]}, "planning": ["--mode", "plan"]}


def settings(clinvk: CommandLine, *words: str) -> tuple[list[str], dict, str]:
    found = clinvk.json("--dry-run", "-o", "json", *words, "build it")
    values = {name: (one["value"], one["from"]) for name, one in found["settings"].items()}
    return found["command"], values, found["prompt"]


def test_the_cli_is_in_its_plan_mode(clinvk: CommandLine, home: Home) -> None:
    home.backend("plans", options={**MODE, "approval": {"auto": ["--auto"]}})
    path = home.config("backends: {plans: {approval_mode: auto, sandbox_mode: full}}")

    command, values, prompt = settings(clinvk, "-b", "plans", "--planning")

    assert path.exists()
    assert command[1:] == ["run", "--mode", "plan"]
    assert values == {"planning": (True, "command line")}
    assert prompt == f"{INSTRUCTION}build it"


def test_a_cli_without_a_plan_mode_is_in_its_read_only_sandbox(
    clinvk: CommandLine, home: Home
) -> None:
    home.backend("reads")
    home.config("backends: {reads: {approval_mode: none, sandbox_mode: full, allowed_tools: [x]}}")

    command, values, prompt = settings(clinvk, "-b", "reads", "--planning")

    assert command[1:] == ["run", "--ro"]
    assert values == {
        "planning": (True, "command line"),
        "sandbox": ("read-only", "planning"),
    }
    assert prompt.startswith(INSTRUCTION)


def test_the_next_turn_of_the_session_may_change_something(clinvk: CommandLine, home: Home) -> None:
    home.backend("reads")
    clinvk("-b", "reads", "--planning", "--session", "s", "build it")
    clinvk("-b", "reads", "--approval", "auto", "--session", "t", "hello")

    assert home.record("s")["options"] == {}
    assert settings(clinvk, "--session", "s")[0][1:] == ["resume", "native-1"]
    assert settings(clinvk, "--session", "t")[0][-1] == "--auto"
    assert settings(clinvk, "--session", "t", "--planning")[0][-1] == "--ro"
    assert home.transcript("s")[0]["content"] == "build it"


@pytest.mark.parametrize("lenient", [[], ["--lenient"]])
def test_a_backend_that_can_do_neither_is_refused(
    clinvk: CommandLine, home: Home, lenient: list[str]
) -> None:
    home.backend("bold", options={})

    done = clinvk("-b", "bold", "--planning", *lenient, "build it")

    assert done.returncode == 1
    assert done.stderr.startswith(
        "clinvk: bold does not support --planning: it has no plan mode, and no read-only sandbox"
    )
    assert home.ids() == []


@pytest.mark.parametrize(
    "more",
    [
        ["--approval", "auto"],
        ["--approval", "none"],
        ["--sandbox", "workspace"],
        ["--allowed-tools", "Bash"],
    ],
)
def test_what_permits_a_change_contradicts_it(clinvk: CommandLine, more: list[str]) -> None:
    done = clinvk("-b", "echo", "--planning", *more, "build it")

    assert done.returncode == 1
    assert f"--planning and {' '.join(more)} cannot be used together" in done.stderr
    assert clinvk("-b", "echo", "--planning", "--sandbox", "read-only", "x").returncode == 0
    assert clinvk("-b", "echo", "--planning", "--approval", "always", "x").returncode == 0


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("tasks: [{backend: reads, prompt: x, planning: true, approval: auto}]", "approval auto"),
        (
            "tasks: [{backend: reads, prompt: x, planning: true, allowed_tools: [a, b]}]",
            "allowed_tools a b",
        ),
        ("tasks: [{backend: bold, prompt: x, planning: true, lenient: true}]", "no plan mode"),
        ("tasks: [{backend: reads, prompt: x, planning: maybe}]", "planning"),
        (
            "defaults: {approval: auto, planning: true}\ntasks: [{backend: reads, prompt: x}]",
            "approval",
        ),
        ("defaults: {approval: auto}\ntasks: [{backend: reads, prompt: x, planning: true}]", None),
    ],
)
def test_a_task_is_checked_before_anything_runs(
    clinvk: CommandLine, home: Home, text: str, problem: str | None
) -> None:
    home.backend("reads", "printf '%s ' \"$@\" >args\n" + ANSWER)
    home.backend("bold", options={})
    (home.work / "tasks.yaml").write_text(text)

    done = clinvk("parallel", "tasks.yaml")

    assert done.returncode == (3 if problem else 0), done.stderr
    assert problem is None or problem in done.stderr
    if problem is None:
        assert (home.work / "args").read_text() == "run --ro "


@pytest.mark.parametrize(
    ("flags", "code"),
    [(["--planning"], 0), (["--planning", "--approval", "auto"], 3)],
)
def test_flags_for_all_tasks_override_the_file(
    clinvk: CommandLine, home: Home, flags: list[str], code: int
) -> None:
    home.backend("reads", "printf '%s ' \"$@\" >args\n" + ANSWER)
    (home.work / "t.yaml").write_text(
        "defaults: {approval: auto}\ntasks: [{backend: reads, prompt: x}]\n"
    )

    done = clinvk("parallel", "t.yaml", *flags)

    assert done.returncode == code
    assert (home.work / "args").exists() is (code == 0)
