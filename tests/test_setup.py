"""What `make` sets up: the locks, the environments, and what is said of missing programs."""

import os
import re
import shutil
import subprocess
import sys
import threading
import time
import tomllib
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests import clis
from tests.conftest import PROJECT, CommandLine, Home, write_program
from tests.needs import need

pytestmark = pytest.mark.once

# Locks

LOCKS = {"base": [], "test": ["test"], "dev": ["dev"], "docs": ["docs"]}
PLATFORMS = [
    {"python_version": minor, "python_full_version": f"{minor}.9", "sys_platform": system,
     "platform_system": system.capitalize(), "platform_machine": machine, "os_name": "posix",
     "implementation_name": "cpython", "platform_python_implementation": "CPython"}
    for minor in ("3.11", "3.12", "3.13")
    for system, machine in (("linux", "x86_64"), ("linux", "aarch64"), ("darwin", "arm64"))
]  # fmt: skip


def entries(name: str) -> list[tuple[Requirement, list[str]]]:
    """Each requirement of a lock, with its hashes."""
    text = (PROJECT / "requirements" / f"{name}.txt").read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.lstrip().startswith("#")]
    split = [re.split(r"\s+--hash=", line) for line in lines]
    return [(Requirement(requirement), hashes) for requirement, *hashes in split]


def versions(name: str, platform: dict[str, str]) -> dict[str, Version]:
    """What a lock installs there."""
    found: dict[str, Version] = {}
    for entry, _ in entries(name):
        if entry.marker is None or entry.marker.evaluate(platform):
            assert entry.name not in found, f"{name}.txt has two versions of {entry.name}"
            (pin,) = entry.specifier
            assert pin.operator == "=="
            found[canonicalize_name(entry.name)] = Version(pin.version)
    return found


def wanted(extras: list[str]) -> list[Requirement]:
    """What pyproject.toml asks for, by way of extras of its own too."""
    data: dict[str, Any] = tomllib.loads((PROJECT / "pyproject.toml").read_text())
    project = data["project"]
    found = [*map(Requirement, project["dependencies"] + data["build-system"]["requires"])]
    for extra in extras:
        for requirement in map(Requirement, project["optional-dependencies"][extra]):
            own = requirement.name == "clinvk"
            found += wanted(sorted(requirement.extras)) if own else [requirement]
    return found


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_has_hashes_and_no_place_of_one_machine(name: str):
    text = (PROJECT / "requirements" / f"{name}.txt").read_text()
    assert entries(name)
    assert [str(entry) for entry, hashes in entries(name) if not hashes] == []
    assert all(
        re.fullmatch("sha256:[0-9a-f]{64}", h) for _, hashes in entries(name) for h in hashes
    )
    assert "://" not in text
    assert " @ " not in text
    assert [line for line in text.splitlines() if re.match(r"\s*(-(?!-hash=)|[./~])", line)] == []


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_installs_what_pyproject_asks_for(name: str):
    for platform in PLATFORMS:
        locked = versions(name, platform)
        for requirement in wanted(LOCKS[name]):
            version = locked.get(canonicalize_name(requirement.name))
            assert version is not None, f"{name}.txt lacks {requirement.name}: run `make lock`"
            assert version in requirement.specifier, (
                f"{name}.txt has {requirement.name} {version}, and pyproject.toml asks for "
                f"{requirement.specifier}: run `make lock`"
            )


def test_all_locks_have_the_same_versions():
    for platform in PLATFORMS:
        everything: dict[str, Version] = {}
        for name in LOCKS:
            for package, version in versions(name, platform).items():
                assert everything.setdefault(package, version) == version, (name, package)


def test_each_lock_has_all_of_the_one_before():
    for platform in PLATFORMS:
        base, test, dev, docs = (set(versions(name, platform)) for name in LOCKS)
        assert base <= test <= dev
        assert base <= docs


# Environments


def make(*args: str, cwd: Path = PROJECT, **env: str) -> "subprocess.CompletedProcess[str]":
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in ("PYTHON", "VENV", "MAKEFLAGS", "MAKELEVEL", "MFLAGS")
    }
    return subprocess.run(
        [need("make"), *args], cwd=cwd, env={**kept, **env}, capture_output=True, text=True,
        timeout=60, check=False,
    )  # fmt: skip


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """As much of one as `make` needs to say what it would do; its environment is complete."""
    folder = tmp_path / "checkout"
    (folder / "requirements").mkdir(parents=True)
    (folder / "Makefile").write_bytes((PROJECT / "Makefile").read_bytes())
    for name in ("pyproject.toml", *(f"requirements/{name}.txt" for name in LOCKS)):
        (folder / name).touch()
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / ".venv"], check=True)
    version = ".".join(map(str, sys.version_info[:3]))
    (folder / ".venv" / ".made-for").write_text(f"{sys.base_prefix} {version} {folder}\n")
    for stamp in (".base", ".test", ".dev", ".docs"):
        (folder / ".venv" / stamp).touch()
    return folder


def test_make_alone_lists_every_command():
    done = make()
    assert done.returncode == 0, done.stderr
    (phony,) = re.findall(r"(?m)^\.PHONY: (.*)", (PROJECT / "Makefile").read_text())
    assert re.findall(r"(?m)^  make (\S+)", done.stdout) == phony.removesuffix(" FORCE").split()


def test_make_install_uses_uv_or_pipx_and_says_so_without(checkout: Path, tmp_path: Path):
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("sh", "sed", "cat", "python3"):
        (programs / name).symlink_to(shutil.which(name) or name)
    done = make("install", cwd=checkout, PATH=str(programs))
    assert done.returncode != 0
    assert "make install needs uv or pipx" in done.stderr
    for name, words in (("pipx", "install --force ."), ("uv", "tool install --force .")):
        write_program(programs / name, f'#!{programs}/sh\necho {name} "$@"\n')
        assert make("install", cwd=checkout, PATH=str(programs)).stdout == f"{name} {words}\n"


def test_a_complete_environment_is_used_as_it_is(checkout: Path):
    for args in ([], [f"PYTHON={sys.executable}"], ["PYTHON=.venv/bin/python"]):
        done = make("-n", "demo", *args, cwd=checkout)
        assert "docs/demo.sh" in done.stdout
        assert "venv .venv" not in done.stdout, args
        assert "pip install" not in done.stdout


def test_another_python_gets_a_new_environment(checkout: Path, tmp_path: Path):
    other = tmp_path / "other" / "bin" / "python3"
    write_program(other, f'#!/bin/sh\nexec {sys.executable} -c "import sys; sys.base_prefix = \'/other\'; exec(sys.argv[1])" "$2"\n')  # fmt: skip
    done = make("-n", "demo", f"PYTHON={other}", cwd=checkout)
    assert "rm -rf .venv\n" in done.stdout
    assert "--require-hashes -r requirements/base.txt" in done.stdout


def test_a_copied_checkout_does_not_use_the_environment_of_the_first(checkout: Path):
    copy = checkout.rename(checkout.with_name("copy"))
    assert "rm -rf .venv\n" in make("-n", "demo", cwd=copy).stdout


def test_an_environment_whose_python_is_gone_is_rebuilt(checkout: Path):
    for link in (checkout / ".venv" / "bin").glob("python*"):
        link.unlink()
        link.symlink_to("/no/such/python")
    (checkout / ".venv" / ".made-for").write_text("/no/such 3.11.0 here\n")
    done = make("-n", "demo", cwd=checkout)
    assert "rm -rf .venv\n" in done.stdout


def test_a_changed_lock_is_installed(checkout: Path):
    later = time.time() + 5
    os.utime(checkout / "requirements" / "test.txt", (later, later))
    assert "requirements/test.txt" in make("-n", "test", cwd=checkout).stdout
    assert "requirements/test.txt" not in make("-n", "demo", cwd=checkout).stdout


def test_a_python_that_is_too_old_is_refused(checkout: Path, tmp_path: Path):
    old = tmp_path / "python3"
    write_program(old, "#!/bin/sh\ncase $2 in *print*) echo /old 3.9.1 here;; *) exit 1;; esac\n")
    done = make("demo", f"PYTHON={old}", cwd=checkout)
    assert done.returncode != 0
    assert "clinvk needs Python 3.11 or later" in done.stderr
    assert (checkout / ".venv" / ".base").exists()


def test_no_directory_that_is_not_an_environment_is_removed(checkout: Path):
    (checkout / "mine").mkdir()
    (checkout / "mine" / "letter").write_text("dear")
    done = make("demo", "VENV=mine", cwd=checkout)
    assert done.returncode != 0
    assert "mine is not a virtual environment" in done.stderr
    assert (checkout / "mine" / "letter").exists()


# Programs that are not there

MISSING = """
import pytest
from tests.needs import lack, need

@pytest.mark.parametrize("n", range(3))
def test_server(n): need("no-such-server")
def test_screen(): need("no-such-screen")
def test_root(): pytest.skip("only root can do this")
def test_passes(): assert need("sh").startswith("/")
"""


def run_missing(home: Home, **env: str) -> "subprocess.CompletedProcess[str]":
    (home.work / "conftest.py").write_text("from tests.conftest import pytest_terminal_summary")
    (home.work / "test_missing.py").write_text(MISSING)
    return subprocess.run([sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-n", "1"],
                          cwd=home.work, env={**home.env, **env}, capture_output=True, text=True,
                          timeout=180, check=False)  # fmt: skip


def test_skipped_tests_are_reported_in_one_line(home: Home):
    done = run_missing(home)
    assert done.returncode == 0, done.stdout
    (line,) = [line for line in done.stdout.splitlines() if "no-such-server" in line]
    assert line == (
        "skipped 5 tests: no-such-server is not installed (3), no-such-screen is not installed (1), "
        "only root can do this (1); install no-such-screen, no-such-server to run everything"
    )


def test_in_ci_a_missing_program_is_a_failure(home: Home):
    done = run_missing(home, CI="true")
    assert done.returncode == 1
    assert "4 failed, 1 passed, 1 skipped" in done.stdout
    assert "no-such-server is not installed, and in CI no test is skipped for that" in done.stdout


# The process that has loaded clinvk


def test_a_call_that_takes_too_long_does_not_disturb_the_next(
    clinvk: CommandLine, home: Home, ended: Callable[[str], Path]
):
    pid = ended("pid")
    home.backend("slow", f"echo $$ >{pid}.new; mv {pid}.new {pid}; exec sleep 300\n")
    for _ in range(2):
        with pytest.raises(subprocess.TimeoutExpired):
            clinvk("-b", "slow", "x", timeout=2)
        assert clinvk("-b", "nobody", "x").returncode != 0
        assert clinvk("version").returncode == 0


# npm, and networks


def run_clis(home: Home, *args: str, **env: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "tests.clis", *args], capture_output=True, text=True, timeout=90,
        env={**home.env, "CLINVK_TEST_CLIS": str(home.work / "clis"), **env}, check=False,
    )  # fmt: skip


@pytest.fixture
def bin_without_npm(tmp_path: Path) -> str:
    (tmp_path / "bin").mkdir()
    return str(tmp_path / "bin")


def test_without_npm_the_tests_go_on_but_not_in_ci(home: Home, bin_without_npm: str):
    done = run_clis(home, "--for-tests", PATH=bin_without_npm)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "npm is not installed: the tests of the real CLIs will be skipped\n"
    done = run_clis(home, "--for-tests", PATH=bin_without_npm, CI="true")
    assert (done.returncode, done.stderr) == (1, "tests.clis: npm is not installed\n")
    assert run_clis(home, PATH=bin_without_npm).returncode == 1


@pytest.fixture
def deaf_registry() -> Iterator[str]:
    """A server that refuses everything."""

    class Refusing(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(403)
            self.end_headers()

        def log_message(self, *args: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Refusing)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


def test_a_registry_that_refuses_is_told_in_one_line_and_remembered(home: Home, deaf_registry: str):
    need("npm")
    done = run_clis(home, "--for-tests", npm_config_registry=deaf_registry)
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(
        r"npm could not look up @anthropic-ai/claude-code@\S+ in its registry \(E403\): "
        r"the tests of the real CLIs will be skipped\n",
        done.stdout,
    )
    with pytest.raises(clis.InstallError, match="E403"):
        clis.install(home.work / "clis", retry_after=600)
    done = run_clis(home, "--for-tests", npm_config_registry=deaf_registry, CI="1")
    assert done.returncode == 1
    assert "E403" in done.stderr


# Stand-ins for npm, which installs hundreds of megabytes.
NPM = """#!/bin/sh
case $1 in view) echo 1.0; exit;; esac
while [ $# -gt 0 ]; do [ "$1" = --prefix ] && folder=$2; shift; done
%s
"""


@pytest.fixture
def npm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(clis, "STALLED", 3)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    write_program(tmp_path / "bin" / "node", "#!/bin/sh\necho v99.0.0\n")
    return tmp_path / "bin" / "npm"


def test_an_npm_that_stalls_is_ended(npm: Path, tmp_path: Path):
    write_program(
        npm, NPM % f"echo $$ >{tmp_path}/pid; echo 'npm error asleep' >&2; exec sleep 300"
    )
    with pytest.raises(clis.InstallError, match="made no progress") as told:
        clis.install(tmp_path / "clis")
    assert "npm error asleep" in str(told.value)
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_an_npm_that_is_slow_but_busy_is_waited_for(
    npm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(clis, "_install_llm", lambda folder: None)  # pip has its own network
    write_program(npm, NPM % "for i in 1 2 3 4; do sleep 1; echo more >>$folder/big; done")
    assert set(clis.install(tmp_path / "clis")) == {*clis.PACKAGES, "llm"}
