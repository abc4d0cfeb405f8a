"""What the tests of the core share: a home of its own, the real command line, and made-up CLIs."""

import gc
import importlib
import json
import os
import shlex
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from hypothesis import HealthCheck, settings

from tests import needs
from tests.applied_runs import apply, repository  # noqa: F401 - fixtures
from tests.bound import bound
from tests.everywhere import runs_on, shared_cluster  # noqa: F401 - fixtures
from tests.forked import Server
from tests.small_disk import disk  # noqa: F401 - a fixture
from tests.stores import close_all, own_server, redis_server, redis_url  # noqa: F401 - fixtures
from tests.terminals import terminal  # noqa: F401 - a fixture
from tests.tmux import tmux  # noqa: F401 - a fixture

# Who started us may be deaf to a hang-up, as under nohup, and what we start would inherit that.
signal.signal(signal.SIGHUP, signal.SIG_DFL)

TESTS = Path(__file__).parent
FAKES = TESTS / "fakes"
# Started in the background by a shell, we would be deaf to Ctrl-C, and so would all that we start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

PROJECT = TESTS.parent
# Other tests run at the same time, so that the time that an example takes says nothing.
settings.register_profile(
    "busy", settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("busy")
BASH = "/bin/bash"

# What every made-up CLI speaks, unless its test says otherwise.
PROTOCOL: dict[str, Any] = {
    "argv": {"run": ["run", "$options"], "resume": ["resume", "$native_id", "$options"]},
    "options": {
        "model": ["--model", "$value"],
        "max_turns": ["--max-turns", "$value"],
        "add_dir": ["--add-dir", "$value"],
        "system_prompt": ["--system", "$file"],
        "schema": ["--schema", "$file"],
        "allowed_tools": ["--tools", "$value"],
        "approval": {"auto": ["--auto"], "none": ["--yolo"]},
        "sandbox": {"read-only": ["--ro"], "full": ["--full"]},
    },
    "events": [
        {
            "when": "type == 'start'",
            "emit": "started",
            "set": {"native_id": "id", "model": "model"},
        },
        {"when": "type == 'delta'", "emit": "delta", "set": {"text": "text"}},
        {"when": "type == 'text'", "emit": "text", "set": {"text": "text"}},
        {"when": "type == 'thinking'", "emit": "thinking", "set": {"text": "text"}},
        {
            "when": "type == 'tool'",
            "emit": "tool",
            "set": {"id": "id", "name": "name", "input": "input"},
        },
        {
            "when": "type == 'denied'",
            "emit": "denied",
            "set": {"name": "name", "reason": "reason"},
        },
        {"when": "type == 'notice'", "emit": "notice", "set": {"message": "message"}},
        {
            "when": "type == 'end' && error",
            "emit": "failed",
            "set": {"native_id": "id", "message": "error", "status": "status", "usage": "usage"},
        },
        {
            "when": "type == 'end'",
            "emit": "finished",
            "set": {
                "native_id": "id",
                "text": "text",
                "usage": "usage",
                "usage_total": "usage_total",
                "cost": "cost",
                "cost_first": "cost_first",
                "cost_total": "cost_total",
                "structured": "structured",
            },
        },
    ],
    "errors": [
        {"kind": "session", "match": "no such session"},
        {"kind": "auth", "status": [401], "hint": "log in"},
        {"kind": "limit", "status": [429], "match": "usage limit"},
        {"kind": "server", "status": [500, 529]},
    ],
}


def say(*, to: str = "", **line: Any) -> str:
    """The shell command that prints one line of the protocol."""
    return f"printf '%s\\n' {shlex.quote(json.dumps(line, ensure_ascii=False))}{to}\n"


READ = "cat >/dev/null\n"
START = say(type="start", id="native-1", model="made-up-1")
END = say(type="end", text="It is done.", usage={"input": 10, "output": 5, "cached": 4})
ANSWER = READ + START + END


@dataclass
class Home:
    """A user whom the machine has not met before."""

    path: Path  # CLINVK_HOME
    work: Path  # the folder that they are in
    env: dict[str, str]
    cluster: str | None = None  # the address, if their tasks run on one
    setting: str = ""  # what their configuration says in any case

    def backend(self, name: str, script: str = ANSWER, **manifest: Any) -> Path:
        """Register a made-up CLI: a shell script, or Python where it says so; the program."""
        program = self.path.parent / "fakes" / name
        write_program(program, script)
        data = {"name": name, "command": str(program), **PROTOCOL, **manifest}
        self.manifest(name, data)
        return program

    def manifest(self, name: str, data: Mapping[str, Any] | str) -> Path:
        path = self.path / "backends" / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(
            data if isinstance(data, str) else yaml.safe_dump(dict(data), sort_keys=False)
        )
        return path

    def config(self, text: str) -> Path:
        path = self.path / "config.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text) + (f"\n{self.setting}" if self.setting else ""))
        return path

    def ids(self) -> list[str]:
        return sorted(p.stem for p in (self.path / "sessions").glob("*.json"))

    def record(self, id_: str | None = None) -> dict[str, Any]:
        """The record of a session; of the only one, where none is named."""
        if id_ is None:
            (id_,) = self.ids()
        return json.loads((self.path / "sessions" / f"{id_}.json").read_text())

    def transcript(self, id_: str | None = None) -> list[dict[str, Any]]:
        if id_ is None:
            (id_,) = self.ids()
        path = self.path / "transcripts" / f"{id_}.jsonl"
        return [json.loads(line) for line in path.read_bytes().split(b"\n") if line]


def patient(home: Home, *args: str) -> subprocess.Popen[str]:
    """`clinvk ARGS`, which waits a long time for a program that it has asked to end."""
    program = "from clinvk.process import marker; marker.PATIENCE = 200; from clinvk.__main__ import main; main()"
    return subprocess.Popen(
        [sys.executable, "-c", program, *args], env=home.env, cwd=home.work, text=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        start_new_session=True,
    )  # fmt: skip


def signal_to_the_end(process: subprocess.Popen[Any], number: signal.Signals) -> None:
    """Send a second signal, and again if it has arrived together with the first."""
    for seconds in (5, 5, 60):
        process.send_signal(number)
        try:
            process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            if seconds == 60:
                raise
        else:
            return


def write_program(path: Path, script: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    first = "" if script.startswith("#!") else f"#!{BASH}\n"
    path.write_text(first + script)
    path.chmod(0o755)


def python(script: str) -> str:
    """A Python program, as the text of an executable file."""
    return f"#!{sys.executable} -SE\n" + textwrap.dedent(script)


@pytest.fixture
def home(tmp_path: Path, runs_on: Any) -> Home:  # noqa: F811 - the fixture
    work = tmp_path / "work"
    work.mkdir()
    (tmp_path / "user").mkdir()
    (tmp_path / "tmp").mkdir()
    path = tmp_path / "clinvk"
    env = {
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "HOME": str(tmp_path / "user"),
        "CLINVK_HOME": str(path),
        "TMPDIR": str(tmp_path / "tmp"),
        "LANG": "C.UTF-8",
        "PYTHONPATH": str(PROJECT),
        "TERM": "dumb",
        "GIT_CONFIG_NOSYSTEM": "1",
    }
    made = Home(path, work, env)
    if runs_on is not None:
        runs_on.attach(made)
    return made


@pytest.fixture
def backend(home: Home) -> Callable[..., Path]:
    return home.backend


# A file system in memory: clinvk has what it writes written to the disk at once, and the tests would
# wait for that more than for anything else.
MEMORY = Path("/dev/shm")
ROOM = 2 << 30  # bytes


def pytest_configure(config: pytest.Config) -> None:
    """Keep the directories of tests in memory, unless some other place was asked for."""
    chosen = config.getoption("basetemp") or os.environ.get("TMPDIR")
    if not chosen and MEMORY.is_dir() and os.access(MEMORY, os.W_OK):
        state = os.statvfs(MEMORY)
        if state.f_bavail * state.f_frsize >= ROOM and not state.f_flag & os.ST_NOEXEC:
            os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(MEMORY))


def pytest_sessionstart(session: pytest.Session) -> None:
    """Share the work of preparing the modules of the tests among the workers.

    It is kept in `__pycache__`, so that a worker finds done what another has done already. Without
    this, all workers would prepare all modules at the same time, in the same order.
    """
    worker = getattr(session.config, "workerinput", None)
    if worker and not sys.dont_write_bytecode:
        number = int(worker["workerid"].removeprefix("gw"))
        for path in sorted(TESTS.rglob("test_*.py"))[number :: worker["workercount"]]:
            importlib.import_module(".".join(path.relative_to(PROJECT).with_suffix("").parts))


def pytest_collection_finish(session: pytest.Session) -> None:
    """Leave out of later garbage collections what lasts as long as the tests: all modules, 6,000 tests.

    Looking through that takes longer than many a test, and is done hundreds of times.
    """
    gc.collect()
    gc.freeze()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if line := needs.report(terminalreporter.stats.get("skipped", [])):
        terminalreporter.write_line(line)


class CommandLine:
    """`clinvk …` as a user of `home` types it."""

    def __init__(self, home: Home, server: Server | None = None) -> None:
        self.home = home
        self.server = server

    @property
    def program(self) -> list[str]:
        return [sys.executable, "-m", "clinvk"]

    def __call__(
        self,
        *args: str,
        stdin: str | None = None,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        timeout: float = 120,
    ) -> subprocess.CompletedProcess[str]:
        env = {**self.home.env, **(env or {})}
        cwd = cwd or self.home.work
        if self.server and self._is_plain(env):
            return self.server.run(args, input_=stdin, env=env, cwd=cwd, timeout=timeout)
        return subprocess.run(
            [*self.program, *args],
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            text=True,
            encoding="utf-8",
            env=env,
            cwd=cwd,
            timeout=timeout,
            check=False,
        )

    def _is_plain(self, env: Mapping[str, str]) -> bool:
        """Whether the interpreter would start in no special way."""
        plain = {"PYTHONPATH": str(PROJECT), "LANG": "C.UTF-8"}
        return plain == {
            name: value for name, value in env.items() if name.startswith(("PYTHON", "LC_", "LANG"))
        }

    def start(
        self, *args: str, env: Mapping[str, str] | None = None, cwd: Path | None = None, **more: Any
    ) -> subprocess.Popen[str]:
        settings = {
            "stdin": subprocess.DEVNULL,
            "stdout": subprocess.PIPE,
            "stderr": subprocess.PIPE,
            "text": True,
            "start_new_session": True,
            **more,
        }
        made: subprocess.Popen[str] = subprocess.Popen(
            [*self.program, *args],
            env={**self.home.env, **(env or {})},
            cwd=cwd or self.home.work,
            **settings,
        )
        return bound(made)

    def json(self, *args: str, **more: Any) -> Any:
        """What it prints, parsed; whatever the exit code."""
        done = self(*args, **more)
        try:
            return json.loads(done.stdout)
        except ValueError:
            raise AssertionError(f"no JSON: {done}") from None


@pytest.fixture(scope="session")
def loaded_clinvk() -> Iterator[Server]:
    with closing(Server()) as server:
        yield server


@pytest.fixture
def clinvk(home: Home, loaded_clinvk: Server) -> CommandLine:
    return CommandLine(home, loaded_clinvk)


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return request.param


def wait_for(condition: Callable[[], Any], what: str = "it", seconds: float = 60) -> Any:
    """What `condition` gives as soon as that is true."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.01)
    raise AssertionError(f"{what} did not happen within {seconds} s")


def at_some_pace(check: Callable[[float], None], *paces: float) -> None:
    """Pass if `check` does with one of these times, the shortest first.

    For what has to happen within a time that the test chooses: on a busy machine a shell takes seconds
    for what it does in a moment on another.
    """
    for pace in paces[:-1]:
        try:
            return check(pace)
        except AssertionError:
            continue
    return check(paces[-1])


def is_alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def pid_in(path: Path) -> int:
    """The process id that a made-up CLI writes to a file, once it is there."""
    return int(wait_for(lambda: path.exists() and path.read_text().strip(), f"{path.name}"))


@pytest.fixture
def bystander() -> Iterator[psutil.Process]:
    """A process that has nothing to do with any run."""
    with subprocess.Popen(["sleep", "300"], env={}, start_new_session=True) as process:
        yield psutil.Process(process.pid)
        process.kill()


@pytest.fixture
def ended(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Names files that made-up CLIs write their ids to; who is alive at the end is ended then."""
    files: list[Path] = []

    def named(name: str) -> Path:
        files.append(tmp_path / name)
        return files[-1]

    yield named
    for file in files:
        if file.exists() and (text := file.read_text().strip()) and is_alive(int(text)):
            os.kill(int(text), 9)


TREE = ("self", "in", "out", "bare")  # whom `stubborn.sh` starts


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[Path]:
    """A folder in which `stubborn.sh` leaves the numbers of its processes."""
    folder = tmp_path / "tree"
    folder.mkdir()
    yield folder
    for file in folder.iterdir():
        if is_alive(int(file.read_text())):
            os.kill(int(file.read_text()), 9)


def stubborn(tree: Path) -> str:
    """The script of a program with tools that do not want to end."""
    return f"exec {FAKES / 'stubborn.sh'} {tree}\n"


def living(tree: Path, names: tuple[str, ...] = TREE) -> list[str]:
    return [name for name in names if is_alive(pid_in(tree / name))]
