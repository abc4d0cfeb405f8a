"""Thirty tasks of claude, codex and gemini in worktrees of their own: some checked, two in conflict.
clinvk is killed twice in the middle; the run is resumed, shown, applied, and cleaned up."""

import json
import os
import signal
import subprocess
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.forked import Server
from tests.models import Models
from tests.real.conftest import Home
from tests.real.user import BACKENDS, SHELLS, User, wait_for

pytestmark = pytest.mark.real

LONG = 300  # seconds; for a machine that is very busy
FIXING = "Your work was checked"  # so begins the prompt of a second round
LINES = "".join(f"line {n}\n" for n in range(30))
IDENTITY = "-c user.name=agent -c user.email=agent"  # gemini takes @name for a file


@pytest.fixture
def user(home: Home, models: Models, loaded_clinvk: Server) -> User:
    """Somebody who has all three, and lets them do everything unasked."""
    return User(home, models, "claude", loaded_clinvk).trusting


@dataclass
class Work:
    """The tasks, in the order in which they start; as many run at once as are held in each half."""

    user: User
    tasks: list[dict[str, Any]] = field(default_factory=list)
    # What has to be true of a task that is held in the middle, by the number of the half.
    held: list[dict[str, Callable[[], Any]]] = field(default_factory=lambda: [{}, {}])

    @property
    def outside(self) -> Path:
        """A folder outside of all working trees."""
        folder = self.user.home.path / "outside"
        folder.mkdir(exist_ok=True)
        return folder

    def add(self, backend: str, name: str, command: str, before: str = "", **keys: Any) -> str:
        """A task whose model runs the command."""
        full = f"{name}-{backend}"
        prompt = f"{full}: {before}{call(backend, command.replace('NAME', full))}"
        keys = {k: v.replace("NAME", full) if isinstance(v, str) else v for k, v in keys.items()}
        self.tasks.append({"name": full, "backend": backend, "prompt": prompt, **keys})
        return full

    def add_fixed(self, backend: str, name: str, before: str = "", after: str = "") -> str:
        """A task whose check fails, and prints what makes the model fix it."""
        full = f"{name}-{backend}"
        fix = before + call(backend, f"echo fixed >> made-NAME{after}".replace("NAME", full))
        return self.add(backend, name, "echo made >> made-NAME", check=self.check(full, fix))

    def check(self, name: str, fix: str, file: str = "made-NAME", word: str = "fixed") -> str:
        (self.outside / f"fix-{name}").write_text(fix)
        return f"grep -q {word} {file} || {{ cat {self.outside}/fix-{name}; exit 1; }}"

    def hold(self, half: int, name: str, is_held: Callable[[], Any]) -> None:
        self.held[half][name] = is_held

    def gate(self, half: int) -> str:
        """A directive by which the model says nothing until the half is over. gemini would not wait
        for longer than a minute."""
        return f"<<until {self.outside / f'go-{half}'}>>"

    def waiting(self, what: object) -> str:
        """A command that waits until that is over, and says that it does; not longer than the test."""
        here, go = self.outside / "here-NAME", self.outside / f"go-{what}"
        return f"touch {here}; while [ -e {here} ] && [ ! -e {go} ]; do sleep 0.1; done"

    def is_here(self, name: str) -> bool:
        return (self.outside / f"here-{name}").exists()

    def go(self, what: object) -> None:
        (self.outside / f"go-{what}").touch()

    def is_held(self, half: int) -> bool:
        return all(is_held() for is_held in self.held[half].values())

    def asked(self, name: str) -> int:
        """How often the model was asked by a task, in its first turn."""
        return sum(r.last.startswith(f"{name}:") for r in self.user.asked)

    def asked_to_fix(self, name: str) -> int:
        return sum(r.last.startswith(FIXING) and f"made-{name} " in r.last for r in self.user.asked)

    # Kinds of tasks that are held in the middle.

    def hold_question(self, half: int, backend: str) -> None:
        """The model does not answer."""
        name = self.add(backend, f"unanswered{half}", "echo made >> made-NAME", self.gate(half))
        self.hold(half, name, lambda: self.asked(name))

    def hold_tool(self, half: int, backend: str) -> None:
        """The tool has changed a file, and runs."""
        name = self.add(backend, f"working{half}", f"echo made >> made-NAME; {self.waiting(half)}")
        self.hold(half, name, lambda: self.is_here(name))

    def hold_commit(self, half: int, backend: str) -> None:
        """The tool has committed, and runs."""
        commit = f"echo made >> made-NAME; git add .; git {IDENTITY} commit -qm 'of NAME'"
        name = self.add(backend, f"committing{half}", f"{commit}; {self.waiting(half)}")
        self.hold(half, name, lambda: self.is_here(name))

    def hold_fix(self, half: int, backend: str) -> None:
        """The tool runs in the second round."""
        name = self.add_fixed(backend, f"repairing{half}", after=f"; {self.waiting(half)}")
        self.hold(half, name, lambda: self.is_here(name))

    def hold_round(self, half: int, backend: str) -> None:
        """The model does not answer in the second round."""
        name = self.add_fixed(backend, f"fixing{half}", self.gate(half))
        self.hold(half, name, lambda: self.asked_to_fix(name))

    def hold_check(self, half: int, backend: str) -> None:
        """The check runs."""
        name = self.add(
            backend, f"checking{half}", "echo made >> made-NAME", check=self.waiting("checks")
        )
        self.hold(half, name, lambda: self.is_here(name))


def call(backend: str, command: str) -> str:
    """What makes the model run a command."""
    name, argument = SHELLS[backend]
    arguments: dict[str, Any] = {argument: command}
    if backend == "claude":
        arguments["timeout"] = 2000 * LONG
    return f"<<tool {name} {json.dumps(arguments)}>>"


def work_of(user: User) -> Work:
    work = Work(user)
    for backend in BACKENDS:
        work.add(backend, "plain", "echo made >> made-NAME")
        work.add_fixed(backend, "fixed")
    work.hold_tool(0, "claude")
    work.hold_commit(0, "claude")
    work.hold_question(0, "codex")
    work.hold_round(0, "codex")
    work.hold_commit(0, "gemini")
    work.hold_fix(0, "gemini")
    for number, backend in enumerate(BACKENDS, start=1):
        edit = f"sed -i 's/^line {9 * number}$/changed by NAME/' shared.txt"
        work.add(backend, "editing", f"{edit}; echo made >> made-NAME")
        work.add_fixed(backend, "fixed-too")
    work.hold_check(1, "claude")
    work.hold_round(1, "claude")
    work.hold_check(1, "codex")
    work.hold_question(1, "codex")
    work.hold_tool(1, "gemini")
    work.hold_fix(1, "gemini")
    for backend in BACKENDS:
        commit = f"git {IDENTITY} commit -qam 'of NAME'; echo made >> made-NAME"
        work.add(backend, "commits", f"sed -i s/of-{backend}/changed/ of-{backend}.txt; {commit}")
    work.add("gemini", "removes", "rm old.txt; echo made >> made-NAME")
    work.add("claude", "left", f"{change('left')}; echo made >> made-NAME")
    right = "right-codex"
    fix = call("codex", "sed -i s/wrong/right/ contended.txt")
    check = work.check(right, fix, "contended.txt", "right")
    work.add("codex", "right", f"{change('wrong')}; echo made >> made-NAME", check=check)
    return work


def change(word: str) -> str:
    """Edits a file that another task edits, too; if both edits are in it, it keeps both."""
    return f"sed -i -e '/^[<=>]/d' -e s/^top$/{word}/ contended.txt"


@pytest.fixture
def repo(user: User) -> Path:
    """A repository with work that is not committed."""
    project = user.home.project
    files = {"shared.txt": LINES, "contended.txt": "above\n\ntop\n\nbelow\n", "old.txt": "old\n",
             "mine.txt": "mine\n", "staged.txt": "staged\n"}  # fmt: skip
    files |= {f"of-{backend}.txt": f"of-{backend}\n" for backend in BACKENDS}
    for name, text in files.items():
        (project / name).write_text(text)
    git(user, "config", "user.name", "user")
    git(user, "config", "user.email", "user@localhost")
    git(user, "add", ".")
    git(user, "commit", "-q", "-m", "start")
    (project / "mine.txt").write_text("not committed\n")
    (project / "untracked.txt").write_text("untracked\n")
    (project / "staged.txt").write_text("changed\n")
    git(user, "add", "staged.txt")
    return project


def git(user: User, *words: str, strip: bool = True) -> str:
    argv = ["git", "-C", str(user.home.project), *words]
    done = subprocess.run(argv, env=user.environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, (words, done.stderr)
    return done.stdout.strip() if strip else done.stdout


def state(user: User) -> dict[str, Any]:
    """All that the user sees of the repository."""
    root = user.home.project
    files = {
        str(path.relative_to(root)): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file() and ".git" not in path.relative_to(root).parts
    }
    index, status = git(user, "ls-files", "--stage"), git(user, "status", "--porcelain")
    return {
        "files": files,
        "index": index,
        "status": status,
        "head": git(user, "rev-parse", "HEAD"),
    }


def journal(user: User) -> list[dict[str, Any]]:
    """Its lines; what a killed process has not finished is none."""
    (file,) = (user.home.path / ".clinvk" / "runs").glob("*/journal.jsonl")
    lines = file.read_text().splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


def names_of(work: Work, lines: list[dict[str, Any]], event: str) -> Counter[str]:
    """How often that was recorded for each task."""
    return Counter(work.tasks[line["task"]]["name"] for line in lines if line["event"] == event)


def killed(work: Work, half: int, *words: str) -> None:
    """Start clinvk, and kill it once the tasks that are held in this half are all that is left to do
    before the others can start."""
    names = [task["name"] for task in work.tasks]
    last = max(names.index(name) for name in work.held[half])
    due = set(names[: last + 1]) - work.held[0].keys() - work.held[half].keys()
    with work.user.running(*words) as clinvk:

        def is_due() -> bool:
            if clinvk.poll() is not None:
                raise AssertionError(f"it has ended: {clinvk.communicate()}")
            files = (work.user.home.path / ".clinvk" / "runs").glob("*/journal.jsonl")
            if not any(files):
                return False
            ended = names_of(work, journal(work.user), "ended").keys()
            assert not ended & work.held[half].keys()
            return due <= ended and work.is_held(half)

        wait_for(is_due, LONG)
        os.kill(clinvk.pid, signal.SIGKILL)
        clinvk.wait()
    started = names_of(work, journal(work.user), "started")
    assert started.keys() == set(names[: last + 1])
    assert set(started.values()) == {1}  # nothing was started again


def resumed(user: User, *words: str) -> dict[str, dict[str, Any]]:
    with user.running("runs", "resume", "-o", "json", *words) as clinvk:
        stdout, stderr = clinvk.communicate(timeout=LONG)
    assert stdout, stderr
    return by_name(json.loads(stdout))


def by_name(result: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {outcome["name"]: outcome for outcome in result["results"]}


def in_state(outcomes: dict[str, dict[str, Any]], wanted: str) -> set[str]:
    return {name for name, outcome in outcomes.items() if outcome["state"] == wanted}


@pytest.mark.timeout(3 * LONG)
def test_thirty_tasks_in_worktrees_survive_two_kills_and_are_applied(user: User, repo: Path):
    work = work_of(user)
    first, second = (set(held) for held in work.held)
    assert len(work.tasks) == 30
    assert len(first) == len(second) == 6
    file = work.outside / "tasks.json"
    rules = {"approval_mode": "none", "rounds": 2, "worktree": True}
    file.write_text(json.dumps({"tasks": work.tasks, "defaults": rules, "max_parallel": 6}))
    before = state(user)
    in_check = {name for name in second if name.startswith("checking")}

    killed(work, 0, "parallel", str(file))
    assert len(user.processes()) >= 6  # the CLIs have outlived it
    killed(work, 1, "runs", "resume")
    work.go("checks")
    outcomes = resumed(user)

    unknown = first | second - in_check
    assert in_state(outcomes, "indeterminate") == unknown
    assert in_state(outcomes, "done") == outcomes.keys() - unknown, failures(outcomes)
    assert user.processes() == []
    assert state(user) == before
    check_asked(work, unknown, again=False)
    # Not by asking for the same once more, either.
    assert in_state(resumed(user), "indeterminate") == unknown
    check_asked(work, unknown, again=False)

    for half in (0, 1):
        work.go(half)
    outcomes = resumed(user, "--rerun-indeterminate")

    assert in_state(outcomes, "done") == outcomes.keys(), failures(outcomes)
    assert user.processes() == []
    assert state(user) == before
    started = names_of(work, journal(user), "started")
    assert started.keys() == outcomes.keys()
    assert {name for name, times in started.items() if times > 1} == first | second
    check_asked(work, unknown, again=True)
    check_results(work, outcomes)
    check_apply(work, before)


def failures(outcomes: dict[str, dict[str, Any]]) -> dict[str, Any]:
    return {n: (o["state"], o["error"]) for n, o in outcomes.items() if o["state"] != "done"}


def check_asked(work: Work, unknown: set[str], *, again: bool) -> None:
    """No turn was begun a second time unasked: the model was asked twice in each, for a tool and with
    its result; once if it was killed before."""
    for task in work.tasks:
        name = task["name"]
        was_killed = name in unknown
        is_fixing = name.startswith(("fixing", "repairing"))
        first = 1 if was_killed and not is_fixing else 2
        fixes = (1 if was_killed else 2) if is_fixing or name.startswith("fixed") else 0
        if again and was_killed:
            first, fixes = first + 2 * (not is_fixing), fixes + 2 * is_fixing
        assert (work.asked(name), work.asked_to_fix(name)) == (first, fixes), name


def check_results(work: Work, outcomes: dict[str, dict[str, Any]]) -> None:
    """What `runs show` and `runs diff` say of each task, and what is in its ref."""
    user = work.user
    shown = json.loads(user.run("runs", "show", "--json").stdout)
    assert shown["state"] == "done"
    assert by_name(shown).keys() == outcomes.keys()
    diffs = {
        task["name"]: task
        for task in json.loads(user.run("runs", "diff", "--json").stdout)["tasks"]
    }
    for name, outcome in outcomes.items():
        worktree, checked = outcome["worktree"], outcome["check"]
        assert (
            git(user, "rev-parse", worktree["ref"]) == worktree["commit"] == diffs[name]["commit"]
        )
        made = git(user, "show", f"{worktree['ref']}:made-{name}").splitlines()
        is_fixed = name.startswith(("fix", "repairing"))
        # The tool was killed after it had changed the file, and was started again.
        is_repeated = name.startswith(("working", "committing"))
        is_fixed_again = name.startswith("repairing")
        assert made == ["made"] * (1 + is_repeated) + ["fixed"] * (is_fixed + is_fixed_again), name
        assert f"made-{name}" in {file["path"] for file in diffs[name]["files"]}
        if is_fixed or name == "right-codex":
            assert (checked["state"], checked["rounds"]) == ("passed", 1)
        if name.startswith("commit"):
            subjects = git(user, "log", "--format=%s", worktree["ref"]).splitlines()
            assert subjects.count(f"of {name}") == 1 + is_repeated, name
    assert "changed by editing-codex" in diffs["editing-codex"]["patch"]


def check_apply(work: Work, before: dict[str, Any]) -> None:
    """A conflict changes nothing; once it is resolved, everything is there, and nothing is left."""
    user = work.user
    refused = user.run("runs", "apply", "--commit")
    assert refused.returncode == 1
    assert "'right-codex' conflicts with task 'left-claude': contended.txt" in refused.stderr
    assert state(user) == before

    with user.running("runs", "apply", "--commit", "--resolve", "codex", "--json") as clinvk:
        stdout, stderr = clinvk.communicate(timeout=LONG)
    assert clinvk.returncode == 0, stderr
    assert "resolving it with codex" in stderr
    assert Counter(task["state"] for task in json.loads(stdout)["tasks"]) == {"applied": 30}

    def at_head(name: str) -> str:
        return git(user, "show", f"HEAD:{name}", strip=False)

    assert at_head("contended.txt") == "above\n\nleft\nright\n\nbelow\n"
    for number, backend in enumerate(BACKENDS, start=1):
        assert at_head("shared.txt").splitlines()[9 * number] == f"changed by editing-{backend}"
        assert at_head(f"of-{backend}.txt") == "changed\n"
    files = git(user, "ls-tree", "-r", "--name-only", "HEAD").split()
    assert {f"made-{task['name']}" for task in work.tasks} == {f for f in files if "made-" in f}
    assert "old.txt" not in files
    subjects = git(user, "log", "--format=%s").splitlines()
    own = Counter(subject for subject in subjects if subject.startswith("of "))
    expected = {f"of commits-{backend}": 1 for backend in BACKENDS}
    assert own == expected | {"of committing0-claude": 2, "of committing0-gemini": 2}
    check_kept(user, before)

    cleaned = user.run("runs", "clean", "--older-than", "0")
    assert cleaned.returncode == 0, cleaned.stderr
    assert json.loads(user.run("runs", "list", "--json").stdout)["runs"] == []
    assert git(user, "worktree", "list", "--porcelain").count("worktree ") == 1
    folder = user.home.path / ".clinvk" / "worktrees"
    assert [path for path in folder.glob("*/*") if path.is_dir()] == []
    assert git(user, "for-each-ref", "refs/clinvk") == ""
    git(user, "fsck", "--no-dangling")
    check_kept(user, before)
    assert user.processes() == []


def check_kept(user: User, before: dict[str, Any]) -> None:
    """The user's own changes are as they were."""
    after = state(user)
    for name in ("mine.txt", "untracked.txt", "staged.txt"):
        assert after["files"][name] == before["files"][name]
    assert after["status"] == before["status"]
