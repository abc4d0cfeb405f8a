"""Sixty tasks of claude, codex and gemini on three workers, each with a home of its own, as another
machine has it. One worker is killed in the middle, and the run is resumed; later, conversations are
continued where they are."""

import json
import re
import signal
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.bound import bound
from tests.forked import Server
from tests.models import Models
from tests.real.conftest import Home, new_home
from tests.real.test_parallel import KEPT, by_name, in_state
from tests.real.test_reversible_work import call
from tests.real.user import BACKENDS, CLINVK, User, result, wait_for
from tests.stores import RedisServer

pytestmark = pytest.mark.real

LONG = 300  # seconds; for a machine that is very busy
NODES = ("north", "south", "west")
Task = dict[str, Any]


@dataclass
class Machine:
    """One that runs tasks, one of each CLI at a time."""

    name: str
    user: User  # in whose name the worker runs
    url: str
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        words = ["--name", self.name, "--backends", ",".join(BACKENDS), "--lease", "30s"]
        with self.log.open("w") as log:
            self.process = bound(subprocess.Popen(
                [*CLINVK, "worker", "--cluster", self.url, *words], env=self.user.environment(),
                cwd=self.home, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True,
            ))  # fmt: skip
        wait_for(lambda: "ready" in self.said or self.process.poll() is not None)  # type: ignore[union-attr]
        assert self.process.poll() is None, self.said

    def kill(self) -> None:
        assert self.process
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        assert self.process
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(LONG) == 0, self.said

    def close(self) -> None:
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
            wait_for(lambda: not self.user.processes())  # the supervisor ends them

    @property
    def home(self) -> Path:
        return self.user.home.path

    @property
    def log(self) -> Path:
        return self.home / "worker.log"

    @property
    def said(self) -> str:
        return self.log.read_text()


@dataclass
class Desk:
    """Where runs are submitted: it has clinvk and a repository, and the workers have the CLIs."""

    user: User
    url: str
    machines: dict[str, Machine]
    remote: Path
    tasks: list[Task] = field(default_factory=list)

    @property
    def outside(self) -> Path:
        """A directory that all see, outside of all working trees."""
        return self.remote.parent / "outside"

    @property
    def shared(self) -> Path:
        """A directory that all share, and where tasks run in place."""
        return self.remote.parent / "shared"

    def asked(self, name: str) -> int:
        """How often a model was asked by a task, on whichever machine."""
        return sum(request.last.startswith(f"{name}:") for request in self.user.asked)

    def is_held(self, name: str) -> bool:
        """Whether its tool waits, or the model does before it calls one."""
        return (self.outside / f"here-{name}").exists() or (
            "codex" in name and self.asked(name) > 0
        )

    def run(self, *words: str, code: int = 0) -> dict[str, Any]:
        """What a command of the run prints, as JSON."""
        with self.user.running(*words, "--json", "--cluster", self.url) as clinvk:
            stdout, stderr = clinvk.communicate(timeout=LONG)
        assert clinvk.returncode == code, (stdout, stderr)
        found: dict[str, Any] = json.loads(stdout)
        return found

    def sessions(self) -> dict[str, dict[str, Any]]:
        """Those in Redis."""
        words = ("sessions", "list", "--storage-backend", self.url, "--json")
        found = json.loads(self.user.run(*words).stdout)["sessions"]
        return {session["id"]: session for session in found}

    def having(self, session: dict[str, Any]) -> list[str]:
        """The nodes whose CLI has its native session."""
        pattern = KEPT[session["backend"]].format(session["native_id"])
        return [name for name, each in self.machines.items() if any(each.home.glob(pattern))]

    def git(self, *words: str) -> str:
        argv = ["git", "-C", str(self.user.home.project), *words]
        done = subprocess.run(argv, env=self.user.environment(), capture_output=True, text=True, check=False)  # fmt: skip
        assert done.returncode == 0, (words, done.stderr)
        return done.stdout


@pytest.fixture
def desk(
    home: Home, models: Models, loaded_clinvk: Server, tmp_path: Path, own_server: RedisServer
) -> Iterator[Desk]:
    user = User(home, models, "claude", loaded_clinvk).trusting
    remote = tmp_path / "remote.git"
    for name in ("outside", "shared"):
        (tmp_path / name).mkdir()
    machines = {}
    for name in NODES:
        there = new_home(tmp_path / name, tmp_path / name, models.url)
        configure(there.path, f"{{shared: ['{tmp_path / 'shared'}']}}")
        machines[name] = Machine(name, User(there, models, "claude", loaded_clinvk).trusting, own_server.url)  # fmt: skip
    made = Desk(user, own_server.url, machines, remote)
    configure(home.path, f"{{git: 'file://{remote}', shared: ['{made.shared}']}}")
    subprocess.run(["git", "init", "--quiet", "--bare", str(remote)], check=True)
    (home.project / "file").write_text("one\n")
    made.git("config", "user.name", "user")
    made.git("config", "user.email", "user@localhost")
    made.git("add", ".")
    made.git("commit", "-qm", "start")
    with ExitStack() as stack:
        for machine in machines.values():
            stack.callback(machine.close)
            machine.start()
        yield made


def configure(home: Path, cluster: str) -> None:
    (home / ".clinvk").mkdir()
    (home / ".clinvk" / "config.yaml").write_text(f"cluster: {cluster}\n")


def sixty_tasks(desk: Desk) -> list[Task]:
    """Twenty for each CLI, in the order in which they start. In the middle, three of each wait: as
    many as there are workers, so that one of them is on each."""
    tasks: list[Task] = []

    def add(name: str, backend: str, prompt: str, **keys: Any) -> str:
        tasks.append({"name": name, "backend": backend, "prompt": f"{name}: {prompt}", **keys})
        return name

    shared = str(desk.shared)
    following = dict(zip(BACKENDS, (*BACKENDS[1:], BACKENDS[0]), strict=True))
    for n in range(6):
        for backend in BACKENDS:
            add(f"plain-{backend}-{n}", backend, "hello", workdir=shared)
    for n in range(4):
        for backend in BACKENDS:
            name = f"made-{backend}-{n}"
            add(name, backend, call(backend, f"echo made >> {name}"))
    for n in range(3):
        for backend in BACKENDS:
            add(f"first-{backend}-{n}", backend, "begin", workdir=shared)
    for n in range(3):
        for backend in BACKENDS:
            name = f"held-{backend}-{n}"
            here, go = desk.outside / f"here-{name}", desk.outside / "go"
            if backend == "codex":  # which waits ten seconds for a tool, but longer for the model
                before, wait = f"<<until {go}>>", ""
            else:
                before, wait = "", f"while [ -e {here} ] && [ ! -e {go} ]; do sleep 0.1; done"
            add(name, backend, before + call(backend, f"echo made >> {name}; touch {here}; {wait}"))
    for n in range(3):
        for backend in BACKENDS:
            of = f"first-{following[backend]}-{n}"
            add(f"second-{backend}-{n}", backend, f"of {{{{tasks.{of}.output}}}}", workdir=shared)
    for backend in BACKENDS:
        needs = [f"held-{backend}-{n}" for n in range(3)]
        add(f"after-{backend}", backend, "the end", needs=needs, workdir=shared)
    return tasks


@pytest.mark.timeout(4 * LONG)
def test_sixty_tasks_of_three_clis_on_three_workers_survive_the_loss_of_one(desk: Desk):
    desk.tasks = sixty_tasks(desk)
    assert Counter(task["backend"] for task in desk.tasks) == dict.fromkeys(BACKENDS, 20)
    file = desk.outside / "tasks.json"
    file.write_text(json.dumps({"tasks": desk.tasks, "defaults": {"approval_mode": "none"}}))

    lost = killed_in_the_middle(desk, file)
    restarted(desk.machines["north"])
    finished = desk.run("runs", "resume", "--rerun-indeterminate")
    outcomes = by_name(finished)
    assert in_state(finished, "done") == outcomes.keys(), failures(outcomes)
    check_asked(desk, lost)
    check_nodes(desk, outcomes, lost)
    check_files(desk, outcomes, lost)
    check_continued(desk, outcomes)
    for machine in desk.machines.values():
        machine.stop()
    for each in (desk, *desk.machines.values()):
        assert each.user.processes() == []


def killed_in_the_middle(desk: Desk, file: Path) -> set[str]:
    """The tasks that the killed worker was running."""
    held = {task["name"] for task in desk.tasks if task["name"].startswith("held")}
    north = desk.machines["north"]
    words = ("parallel", str(file), "--json", "--cluster", desk.url)
    with desk.user.running(*words) as clinvk:

        def are_held() -> bool:
            if clinvk.poll() is not None:
                raise AssertionError(f"it has ended: {clinvk.communicate()}")
            return all(desk.is_held(name) for name in held)

        def nodes() -> dict[str, Any]:
            shown = by_name(json.loads(desk.user.run("runs", "show", "--json").stdout))
            return {name: shown[name].get("node") for name in held}

        wait_for(are_held, LONG)
        wait_for(lambda: all(nodes().values()))  # they are known a moment later
        there = {name for name, node in nodes().items() if node == "north"}
        assert sorted(name.split("-")[1] for name in there) == list(BACKENDS)
        north.kill()
        wait_for(lambda: not north.user.processes())  # neither its own nor those of the CLIs
        (desk.outside / "go").touch()
        stdout, stderr = clinvk.communicate(timeout=LONG)
    assert clinvk.returncode == 1, stderr
    found = json.loads(stdout)
    outcomes = by_name(found)
    assert in_state(found, "indeterminate") == there, failures(outcomes)
    after = {f"after-{backend}" for backend in BACKENDS}
    assert in_state(found, "skipped") == after
    assert in_state(found, "done") == outcomes.keys() - there - after, failures(outcomes)
    for name in there:
        assert "the worker north was lost" in outcomes[name]["error"]["message"]
        assert desk.asked(name) == 1
    return there


def restarted(machine: Machine) -> None:
    """As soon as nobody takes it for the one that was killed."""

    def is_started() -> bool:
        try:
            machine.start()
        except AssertionError:
            assert "there is a worker named 'north' already" in machine.said
            return False
        return True

    wait_for(is_started, LONG)


def failures(outcomes: dict[str, dict[str, Any]]) -> dict[str, Any]:
    return {n: (o["state"], o["error"]) for n, o in outcomes.items() if o["state"] != "done"}


def check_asked(desk: Desk, lost: set[str]) -> None:
    """No task was started a second time, but for those that were lost."""
    for task in desk.tasks:
        name = task["name"]
        turns = 2 if "<<tool" in task["prompt"] else 1  # for a tool, and with its result
        assert desk.asked(name) == turns + (name in lost), name


def check_nodes(desk: Desk, outcomes: dict[str, dict[str, Any]], lost: set[str]) -> None:
    """The table says where each task has run; its native session is there and nowhere else, and its
    session is in Redis."""
    table = desk.user.run("runs", "show").stdout
    head, *rows = table[table.index("TASK") :].splitlines()[: len(outcomes) + 1]
    assert re.split(r"\s{2,}", head.strip())[-1] == "NODE", head
    assert {row.split()[0]: row.split()[-1] for row in rows} == {
        name: outcome["node"] for name, outcome in outcomes.items()
    }
    sessions = desk.sessions()
    for name, outcome in outcomes.items():
        assert outcome["attempts"] == 1 + (name in lost)
        session = sessions[outcome["session_id"]]
        assert desk.having(session) == [outcome["node"]], (name, session)
    assert {outcome["node"] for outcome in outcomes.values()} == set(NODES)
    assert not list((desk.user.home.path / ".clinvk").glob("sessions/*"))


def check_files(desk: Desk, outcomes: dict[str, dict[str, Any]], lost: set[str]) -> None:
    """What tasks have written is here, and nothing of it in the user's working tree."""
    for name, outcome in outcomes.items():
        if name.startswith(("made", "held")):
            made = desk.git("show", f"{outcome['worktree']['ref']}:{name}")
            # On the same node, a task goes on in the worktree that it was killed in.
            assert made == "made\n" or (name in lost and made == "made\nmade\n")
        else:
            assert not outcome.get("worktree")
    assert desk.git("status", "--porcelain") == ""
    applied = desk.user.run("runs", "apply", "--commit")
    assert applied.returncode == 0, applied.stderr
    files = desk.git("ls-tree", "-r", "--name-only", "HEAD").split()
    assert set(files) == {"file", *(n for n in outcomes if n.startswith(("made", "held")))}


def check_continued(desk: Desk, outcomes: dict[str, dict[str, Any]]) -> None:
    """A later step of a chain runs on the worker whose CLI has the conversation. On that machine, a
    session of a task can be resumed; on another one it is replayed."""
    steps = [{"prompt": word, "workdir": str(desk.shared)} for word in ("first", "second")]
    file = desk.outside / "chain.json"
    file.write_text(json.dumps({"steps": steps, "pass_session": True}))
    for backend in BACKENDS:
        first, second = desk.run("chain", str(file), "-b", backend)["results"]
        assert second["output"].startswith("answer 2 to: second | began with: first")
        assert (second["session_id"], second["node"]) == (first["session_id"], first["node"])
        assert desk.having(desk.sessions()[second["session_id"]]) == [second["node"]]

    for backend in BACKENDS:
        outcome = outcomes[f"plain-{backend}-0"]
        there = desk.machines[outcome["node"]].user
        words = ("resume", outcome["session_id"], "and now?", "--storage-backend", desk.url)
        told = result(there.run(*words, "-o", "json"))
        assert told["content"].startswith("answer 2 to: and now? | began with: plain")
    elsewhere = next(m for name, m in desk.machines.items() if name != outcome["node"])
    gone = result(elsewhere.user.run(*words, "-o", "json"), 4)
    assert "--replay" in gone["error"]["hint"]
    replayed = result(elsewhere.user.run(*words, "--replay", "-o", "json"))
    assert "plain" in desk.user.asked[-1].users[-1]
    assert replayed["native_id"] != told["native_id"]
