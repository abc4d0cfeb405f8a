"""What a shell completes: here by what it is given, and by bash, zsh and fish themselves."""

import os
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pexpect
import pytest

from clinvk.model.session import Session
from clinvk.store import open_store
from tests.conftest import PROJECT, CommandLine, Home, write_program
from tests.needs import need
from tests.stores import keep

pytestmark = pytest.mark.once

Complete = Callable[..., list[str]]


@pytest.fixture
def complete(clinvk: CommandLine) -> Complete:
    """The values that bash is offered for a line, which ends in what was typed of the last one."""

    def offered(line: str, shell: str = "bash") -> list[str]:
        env = {
            "bash": {"COMP_WORDS": line, "COMP_CWORD": str(len(line.split(" ")) - 1)},
            "fish": {"_TYPER_COMPLETE_ARGS": line, "_TYPER_COMPLETE_FISH_ACTION": "get-args"},
            "zsh": {"_TYPER_COMPLETE_ARGS": line},
        }[shell]
        done = clinvk(env={**env, "_CLINVK_COMPLETE": f"complete_{shell}"})
        return done.stdout.split("\n")[:-1] if done.stdout.strip() else []

    return offered


@pytest.fixture
def sessions(home: Home) -> list[str]:
    """Three sessions: one with a name, one with a generated id, and a task; the newest is last."""
    store = keep(open_store("file", home.path))
    now = datetime.now(UTC)
    ids = ["parser", "0123456789", "r123456.lint"]
    for age, id_ in enumerate(reversed(ids)):
        store.create(
            Session(id=id_, backend="claude", model=f"model-{age}", tags=("urgent", "run:r1"),
                    prompt=f"# Prompt of {id_}", task="r123456" if "." in id_ else None,
                    updated_at=now - timedelta(hours=age))
        )  # fmt: skip
    return ids


VALUES = {
    "clinvk --dr": {"--dry-run"},
    "clinvk --": {"--model", "--help", "--ephemeral", "--continue"},
    "clinvk -b echo --dr": {"--dry-run"},
    "clinvk he": {"help"},
    "clinvk config set output.fo": {"output.format"},
    "clinvk config get backends.claude.m": {"backends.claude.model"},
    "clinvk config unset default": {"default_backend"},
    "clinvk config set output.format ": {"text", "json", "stream-json"},
    "clinvk config set parallel.fail_fast t": {"true"},
    "clinvk config set default_backend ec": {"echo"},
    "clinvk help sess": {"sessions"},
    "clinvk help runs re": {"resume", "report", "retry"},
    "clinvk completion f": {"fish"},
    "clinvk sessions list --status a": {"active", "archived"},
    "clinvk sessions edit x --status p": {"paused"},
    "clinvk sessions export x --format h": {"html"},
    "clinvk sessions search --role u": {"user"},
    "clinvk parallel --on-limit switch:e": {"switch:echo"},
    "clinvk parallel --format j": {"json", "jsonl"},
    "clinvk runs list --state d": {"done", "damaged"},
    "clinvk runs report --format j": {"junit", "json"},
    "clinvk -b echo --option de": {"delay="},
}


def test_values_are_completed_where_they_are_known(complete: Complete):
    offered = {line: set(complete(line)) for line in VALUES}
    assert {line: VALUES[line] & found for line, found in offered.items()} == VALUES
    exact = [line for line in VALUES if line != "clinvk --"]
    assert {line: offered[line] for line in exact} == {line: VALUES[line] for line in exact}


def test_sessions_are_offered_the_newest_first_and_with_their_titles(
    complete: Complete, sessions: list[str]
):
    line = "clinvk sessions show "
    assert complete(line) == complete("clinvk resume ") == ["0123456789", "parser"]
    assert complete(line + "0") == ["0123456789"]
    assert complete(line + "r") == ["r123456.lint"]
    assert complete(line, "fish") == [
        "0123456789\tPrompt of 0123456789", "parser\tPrompt of parser",
    ]  # fmt: skip
    (shown,) = [text for text in complete(line + "pa", "zsh") if "parser" in text]
    assert "parser:Prompt of parser" in shown
    assert complete("clinvk resume x --tag u") == ["urgent"]
    assert complete("clinvk -m model-") == ["model-0", "model-1", "model-2"]
    assert complete("clinvk -b codex -m model-") == []


def test_tasks_of_the_run_that_is_named_are_offered(
    complete: Complete, clinvk: CommandLine, home: Home
):
    tasks = (
        "tasks: [{prompt: x, name: Lint it}, {prompt: y, name: test}]\ndefaults: {backend: echo}"
    )
    assert clinvk("parallel", "-q", stdin=tasks).returncode == 0
    (run,) = os.listdir(home.path / "runs")
    assert complete("clinvk runs show ") == ["last", run]
    assert complete("clinvk runs show last ", "fish")[1] == "test\ttest"
    (key,) = complete(f"clinvk runs show {run} L") or complete(f"clinvk runs show {run} l")
    assert clinvk("runs", "show", run, key).returncode == 0
    assert complete(f"clinvk runs retry {run} te") == ["test"]


def test_a_configuration_that_is_invalid_offers_nothing_and_says_nothing(
    clinvk: CommandLine, home: Home
):
    home.config("x: [\n")
    for line, word in (("clinvk resume ", 2), ("clinvk -m ", 2), ("clinvk --option ", 2)):
        env = {"_CLINVK_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(word)}
        done = clinvk(env=env)
        assert (done.stdout.strip(), done.stderr) == ("", ""), line


HOSTILE = r"""\$(touch ran) \" <(touch ran) [/b] it's a:b"""


@pytest.fixture
def shell_env(clinvk: CommandLine, home: Home) -> dict[str, str]:
    """The environment of a shell that finds `clinvk` on its PATH."""
    program = home.path.parent / "bin" / "clinvk"
    write_program(program, f'exec {" ".join(clinvk.program)} "$@"\n')
    return {**home.env, "PATH": f"{program.parent}:{home.env['PATH']}", "PYTHONPATH": str(PROJECT)}


@pytest.mark.parametrize("shell", ["bash", "fish"])
def test_the_shell_itself_completes(
    clinvk: CommandLine, shell_env: dict[str, str], sessions: list[str], shell: str
):
    need(shell)
    script = clinvk("completion", shell).stdout
    if shell == "bash":
        ask = (
            "COMP_WORDS=(clinvk sessions show p); COMP_CWORD=3; _clinvk_completion clinvk\n"
            'printf "%s\\n" "${COMPREPLY[@]}"; complete -p clinvk\n'
        )
    else:
        ask = 'complete -C "clinvk sessions show p"\n'
    done = subprocess.run(
        [shell],
        input=script + ask,
        env=shell_env,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stderr == ""
    assert done.stdout.split()[0] == "parser"
    assert ("nosort" in done.stdout) == (shell == "bash")


def test_zsh_itself_completes_with_titles_the_newest_first_and_executes_none(
    home: Home, shell_env: dict[str, str], sessions: list[str]
):
    need("zsh")
    keep(open_store("file", home.path)).create(
        Session(id="zz", backend="claude", title=HOSTILE, tags=("c:\\$(touch ran)",))
    )
    child = pexpect.spawn(
        "zsh", ["-f", "-i"], cwd=str(home.work), env={**shell_env, "TERM": "dumb"},
        encoding="utf-8", dimensions=(24, 80), timeout=60,
    )  # fmt: skip
    try:
        child.sendline(
            "PROMPT=; autoload -U compinit; compinit -u -D; unsetopt zle_bracketed_paste; "
            'eval "$(clinvk completion zsh)"; print rea""dy'
        )
        child.expect_exact("ready\r\n")
        child.send("clinvk sessions show \t")
        child.expect_exact(f"zz          -- {HOSTILE}")
        child.expect_exact("0123456789  -- Prompt of 0123456789")
        child.expect_exact("parser      -- Prompt of parser")
        child.send("pa\t")
        child.expect_exact("parser ")
        child.sendcontrol("u")  # not Ctrl-C, which may discard what is typed next
        child.send("clinvk resume zz --tag c\t")
        child.expect_exact(r"c:\\\$\(touch\ ran\)")
    finally:
        child.close(force=True)
    assert os.listdir(home.work) == []


def test_brackets_in_a_title_are_no_markup(complete: Complete, home: Home):
    keep(open_store("file", home.path)).create(Session(id="zz", backend="claude", title=HOSTILE))
    assert complete("clinvk sessions show z", "fish") == [f"zz\t{HOSTILE}"]
    assert len(complete("clinvk sessions show z", "zsh")) == 1
