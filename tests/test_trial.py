"""`clinvk backends try` runs the checklist with the CLI, and says what held."""

from typing import Any

import pytest

import clinvk as package
from clinvk.config import loading
from tests.conftest import CommandLine, Home, python
from tests.stores import keep

# A CLI whose model does what the prompts of the checklist ask; `bad` are the mistakes it makes.
MODEL = """
import json, os, re, sys, time, uuid
bad = {bad!r}
def say(**line):
    print(json.dumps(line), flush=True)
prompt = sys.stdin.read()
args = sys.argv[1:]
home = os.path.expanduser("~/.mine")
os.makedirs(home, exist_ok=True)
id = args[args.index("--resume") + 1] if "--resume" in args else uuid.uuid4().hex
path = os.path.join(home, id)
old = open(path).read() if os.path.exists(path) and "forget" not in bad else ""
if "--ephemeral" not in args or "keep" in bad:
    open(path, "a").write(prompt)
say(type="start", id=id, model="m")
def answer():
    if found := re.search(r"Remember the word (\\w+)", prompt):
        return "ready"
    if "Which word" in prompt:
        return (re.search(r"Remember the word (\\w+)", old) or ["", "no idea"])[1]
    if found := re.search(r"@(\\S+)", prompt):
        return open(found[1]).read() if "@" in bad else "unknown"
    if prompt.startswith(("/", "-")) and "commands" in bad:
        return "usage: mine"
    if found := re.search(r"from 1 to (\\d+), one", prompt):
        return "\\n".join(str(i) for i in range(1, int(found[1]) + (0 if "cut" in bad else 1)))
    if "Count from 1" in prompt:
        for i in range(600):
            say(type="delta", text=f"{{i}} ")
            time.sleep(0.1)
    return re.search(r"Reply only with: (\\w+)", prompt)[1]
say(type="end", text=answer(), usage={{"input": 100, "output": 10}}, cost=0.01, id=id)
"""
KEYS: dict[str, Any] = {
    "argv": {"run": ["$options"], "resume": ["--resume", "$native_id", "$options"]},
    "ephemeral": {"argv": ["--ephemeral"]},
}
ALL = ["prompt", "second turn", "@", "/", "-", "large answer", "interrupt", "timeout", "ephemeral"]


def states(trial: dict[str, Any]) -> dict[str, str]:
    return {check["name"]: check["state"] for check in trial["checks"]}


def install(home: Home, *bad: str) -> None:
    home.backend("mine", python(MODEL.format(bad=bad)), **KEYS)


def test_a_cli_that_does_everything_right_holds(clinvk: CommandLine, home: Home):
    install(home)
    trial = clinvk.json("backends", "try", "mine", "--yes", "--json")
    assert states(trial) == dict.fromkeys(ALL, "held"), trial
    assert trial["ok"] is True
    assert trial["prompts"] == 10
    assert trial["usage"]["total"] >= 800
    assert home.ids() == [], "its sessions are in no store"


def test_each_mistake_is_found_by_its_check(clinvk: CommandLine, home: Home):
    install(home, "forget", "@", "commands", "cut", "keep")
    args = [
        word for name in ALL if name not in ("interrupt", "timeout") for word in ("--only", name)
    ]
    done = clinvk("backends", "try", "mine", "--yes", *args)
    assert done.returncode == 1
    found = dict(line.split("  ", 1) for line in done.stdout.splitlines()[:-1])
    found = {name: text.split()[0] for name, text in found.items()}
    assert found == {
        "prompt": "held", "second turn": "failed", "@": "failed", "/": "failed", "-": "failed",
        "large answer": "unclear", "ephemeral": "failed",
    }  # fmt: skip


def test_the_cost_is_shown_and_nothing_runs_without_consent(clinvk: CommandLine, home: Home):
    home.backend("mine", 'echo x >"$HOME/called"', **KEYS)
    done = clinvk("backends", "try", "mine")
    assert done.returncode == 1
    assert "10 prompts; roughly 150,000 tokens in" in done.stderr
    assert "pass --yes" in done.stderr
    assert not (home.path.parent / "user" / "called").exists()
    done = clinvk("backends", "try", "mine", "--yes", "--only", "large")
    assert "unknown check 'large'" in done.stderr
    assert clinvk("backends", "try", "none", "--yes").returncode == 2


@pytest.mark.anyio
async def test_a_trial_can_be_run_from_python(home: Home):
    home.backend("mine", "cat >/dev/null; echo not logged in >&2; exit 1", **KEYS)
    seen: list[package.Check] = []
    dispatcher = keep(package.Dispatcher(loading.load(home.env), env=home.env))
    trial = await package.atry_backend(
        "mine", only=["second turn", "/"], on_check=seen.append, dispatcher=dispatcher
    )
    assert trial.checks == seen
    assert [(check.name, check.state) for check in seen] == [
        ("prompt", "failed"), ("second turn", "skipped"), ("/", "failed"),
    ]  # fmt: skip
    assert "not logged in" in seen[0].detail
    assert not trial.ok
