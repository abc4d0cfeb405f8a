"""`clinvk doctor`, and what made-up CLIs do when they are asked for their version."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import anyio
import pytest

from clinvk import Dispatcher, NotInstalledError, UsageError, aprobe_backends, probe_backends
from clinvk.backend import probe
from clinvk.backend.catalog import Catalog
from clinvk.config import loading
from tests.conftest import CommandLine, Home, is_alive, pid_in


def examined(home: Home) -> probe.BackendStatus:
    where = (Catalog(home.path), "fake", loading.load(home.env), os.environ)
    return anyio.run(probe.probe_backend, *where)


def test_a_program_that_does_not_answer_is_ended_with_all_that_it_started(
    home: Home, ended: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
):
    left, out = ended("left"), ended("out")
    home.backend("fake", f"sleep 333 & echo $! >{left}\nsetsid sleep 333 & echo $! >{out}\nwait\n")
    for seconds in (1, 8, 60):  # a busy machine takes long to begin
        monkeypatch.setattr(probe, "VERSION_TIMEOUT", seconds)
        found = examined(home)
        if out.exists():
            break
    assert (found.state, found.version) == ("broken", None)
    assert found.advice in [f"no answer to --version within {n}" for n in ("1 s", "8 s", "60 s")]
    assert not is_alive(pid_in(left))
    assert not is_alive(pid_in(out))


def test_what_a_version_leaves_behind_is_ended_and_not_waited_for(
    home: Home, clinvk: CommandLine, ended: Callable[[str], Path]
):
    left = ended("left")
    home.backend("fake", f"sleep 333 & echo $! >{left}\necho fake 1.2.3\n")
    began = time.monotonic()
    backends = clinvk.json("doctor", "--json")["backends"]
    assert time.monotonic() - began < 120
    (found,) = (b for b in backends if b["name"] == "fake")
    assert (found["state"], found["version"]) == ("installed", "fake 1.2.3")
    assert not is_alive(pid_in(left))


def test_a_version_that_fails_or_cannot_be_started_is_broken(home: Home):
    home.backend("fake", "exit 3\n")
    assert examined(home).advice == "--version exits with code 3"
    program = home.backend("fake", "#!/no/such/interpreter -x\n")
    found = examined(home)
    assert found.state == "broken"
    assert found.advice is not None
    assert found.advice.startswith(f"{program}: cannot be started: '/no/such/interpreter'")


def test_a_program_that_may_not_be_executed_is_told_as_such(home: Home, clinvk: CommandLine):
    program = home.backend("fake", "echo 1.0\n")
    program.chmod(0o644)
    found = examined(home)
    assert found.state == "broken"
    assert found.advice is not None
    assert f"chmod +x {program}" in found.advice
    done = clinvk("-b", "fake", "hi")
    assert done.returncode == 2
    assert f"the program {program} cannot be executed" in done.stderr
    assert f"hint: make it executable: chmod +x {program}" in done.stderr


def test_a_file_that_may_be_a_login_which_gemini_refuses_is_not_called_good(home: Home):
    folder = home.path.parent / "bin"
    folder.mkdir()
    (folder / "gemini").write_text("#!/bin/sh\necho 0.61.0\n")
    (folder / "gemini").chmod(0o755)
    env = {**home.env, "PATH": f"{folder}:{home.env['PATH']}"}
    env.pop("GEMINI_API_KEY", None)

    def login(**more: str) -> tuple[str, str]:
        where = (Catalog(home.path), "gemini", loading.load(env), {**env, **more})
        found = anyio.run(probe.probe_backend, *where)
        return found.login or "", found.advice or ""

    assert login()[0] == "no"
    file = Path(env["HOME"]) / ".gemini" / "oauth_creds.json"
    file.parent.mkdir(parents=True)
    file.write_text("{}")
    state, advice = login()
    assert state == "unknown"
    assert "personal Google account" in advice
    assert "GEMINI_API_KEY" in advice
    assert login(GEMINI_API_KEY="made-up") == ("yes", "")


# From Python


@pytest.mark.anyio
async def test_backends_are_probed_from_python_as_doctor_does(home: Home, clinvk: CommandLine):
    home.backend("fake", "echo fake 1.2.3\n")
    home.backend("bad", "exit 3\n")
    home.manifest("torn", "name: [\n")
    home.config("backends: {gemini: {enabled: false}}\n")
    with Dispatcher(loading.load(home.env), env=home.env) as dispatcher:
        found = await aprobe_backends(dispatcher=dispatcher)
    states = {backend.name: backend.state for backend in found}
    assert states["fake"] == states["echo"] == "installed"
    assert (states["bad"], states["torn"], states["gemini"]) == (
        "broken", "broken manifest", "disabled",
    )  # fmt: skip
    assert [b.to_json() for b in found] == clinvk.json("doctor", "--json")["backends"]
    assert [b.name for b in found if b.ok] == ["echo", "fake"]


@pytest.mark.anyio
async def test_backends_that_are_named_are_probed_in_that_order(home: Home):
    home.backend("fake", "echo fake 1.2.3\n")
    with Dispatcher(loading.load(home.env), env=home.env) as dispatcher:
        found = await aprobe_backends("fake", "echo", "fake", dispatcher=dispatcher)
        assert [b.name for b in found] == ["fake", "echo", "fake"]
        with pytest.raises(NotInstalledError, match="unknown backend 'nope'"):
            await aprobe_backends("echo", "nope", dispatcher=dispatcher)
        with pytest.raises(UsageError):
            probe_backends("echo", dispatcher=dispatcher)


def test_backends_are_probed_at_the_same_time_and_what_they_leave_is_ended(
    home: Home, ended: Callable[[str], Path]
):
    """Each waits until the other one has been started."""
    left = {name: ended(name) for name in ("one", "two")}
    for name, other in (("one", "two"), ("two", "one")):
        wait = f"while [ ! -e {left[other]} ]; do sleep 0.05; done"
        home.backend(name, f"sleep 333 & echo $! >{left[name]}\n{wait}\necho {name} 1.0\n")
    with Dispatcher(loading.load(home.env), env=home.env) as dispatcher:
        found = probe_backends("one", "two", dispatcher=dispatcher)
    assert [b.version for b in found] == ["one 1.0", "two 1.0"]
    assert not any(is_alive(pid_in(path)) for path in left.values())
