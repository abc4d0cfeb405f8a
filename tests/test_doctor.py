"""`clinvk doctor`, and what made-up CLIs do when they are asked for their version."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from clinvk.backend.catalog import Catalog
from clinvk.cmd import doctor
from clinvk.config import schema
from tests.conftest import CommandLine, Home, is_alive, pid_in


def examined(home: Home) -> doctor.BackendStatus:
    return doctor.probe_backend(Catalog(home.path), "fake", schema.load(home.env))


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "VERSION_TIMEOUT", 1)


@pytest.mark.usefixtures("impatient")
def test_a_program_that_does_not_answer_is_ended_with_all_that_it_started(
    home: Home, ended: Callable[[str], Path]
):
    left, out = ended("left"), ended("out")
    home.backend("fake", f"sleep 333 & echo $! >{left}\nsetsid sleep 333 & echo $! >{out}\nwait\n")
    found = examined(home)
    assert (found.state, found.version) == ("broken", None)
    assert found.advice == "it did not answer --version within 1 s"
    assert not is_alive(pid_in(left))
    assert not is_alive(pid_in(out))


def test_what_a_version_leaves_behind_is_ended_and_not_waited_for(
    home: Home, clinvk: CommandLine, ended: Callable[[str], Path]
):
    left = ended("left")
    home.backend("fake", f"sleep 333 & echo $! >{left}\necho fake 1.2.3\n")
    began = time.monotonic()
    backends = clinvk.json("doctor", "--json")["backends"]
    assert time.monotonic() - began < 15
    (found,) = (b for b in backends if b["name"] == "fake")
    assert (found["state"], found["version"]) == ("installed", "fake 1.2.3")
    assert not is_alive(pid_in(left))


def test_a_version_that_fails_or_cannot_be_started_is_broken(home: Home):
    home.backend("fake", "exit 3\n")
    assert examined(home).advice == "--version ends with code 3"
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
