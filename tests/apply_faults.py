"""`python -m tests.apply_faults HOW`: apply a result again and again, each time killed at a later point.

A point is something that clinvk is about to do: start a command, write, rename, link or remove a
file. Python announces each one to an audit hook, which ends the process there with SIGKILL. Prints
one JSON object for each point: what the user's files were afterwards, and after the next command.
"""

import json
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from clinvk.runs.folder import RunStore
from clinvk.worktrees.results import apply as applying
from clinvk.worktrees.results.applied import Ask
from tests.applied_runs import Repository, make_run, write_all

EVENTS = ("subprocess.Popen", "os.rename", "os.link", "os.remove", "os.rmdir", "os.mkdir", "open")
FILES = {"a": "a\n", "b": "b\n", "x": "x\n", "dir/c": "c\n", "mine": "mine\n"}


def edit(tree: Path) -> None:
    write_all(
        tree,
        {"a": "A\n", "new/f": "f\n", "x/inside": "1\n"} if (tree / "x").is_dir() else {"a": "A\n"},
    )
    (tree / "dir/c").unlink()


def become_directory(tree: Path) -> None:
    (tree / "x").unlink()
    write_all(tree, {"x/inside": "1\n", "new/f": "f\n"})


def make(folder: Path) -> None:
    repository = Repository(folder / "repo", FILES)
    one = repository.result(edit, "of the agent", become_directory)
    two = repository.result(lambda tree: write_all(tree, {"b": "B\n"}))
    make_run(folder / "home", repository, {"one": one, "two": two})
    write_all(repository.root, {"mine": "not committed\n", "untracked": "u\n"})


class Faults:
    def __init__(self, folder: Path, how: str) -> None:
        self.folder = folder
        self.template = folder.with_name("template")
        self.how = how
        make(folder)
        shutil.copytree(folder, self.template, symlinks=True)
        self.before = self.state()

    def reset(self) -> None:
        shutil.rmtree(self.folder)
        shutil.copytree(self.template, self.folder, symlinks=True)

    def repository(self) -> Repository:
        made = Repository.__new__(Repository)
        made.root = self.folder / "repo"
        return made

    def state(self) -> dict[str, Any]:
        found = self.repository().state()
        found["commits"] = self.repository().git("log", "--format=%s %T", "--branches").splitlines()
        del found["refs"], found["head"]
        found["files"] = {name: repr(content) for name, content in found["files"].items()}
        return found

    def run(self, point: int | None) -> tuple[bool, str]:
        """Apply in a process of its own, which is killed at this point; whether it was, and what it
        was about to do."""
        reading, writing = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(reading)
            self._apply(point, writing)
        os.close(writing)
        with os.fdopen(reading) as pipe:
            said = pipe.read()
        _, status = os.waitpid(pid, 0)
        return os.WIFSIGNALED(status), said

    def _apply(self, point: int | None, pipe: int) -> None:
        said: list[str] = []
        try:
            if point is not None:
                sys.addaudithook(killer(point, pipe, str(self.folder)))
            folder = RunStore(self.folder / "home").find("last")
            ask = Ask(
                how=self.how,
                branch="new" if self.how == "branch" else None,
                here=self.folder / "repo",
            )
            applying.apply(folder, ask, os.environ, home=self.folder / "home", notify=said.append)
        except BaseException as error:  # noqa: BLE001 - reported by the parent
            said.append(f"{type(error).__name__}: {error}")
        os.write(pipe, "\n".join(said).encode())
        os._exit(0)

    def records(self) -> int:
        path = next((self.folder / "home/runs").iterdir()) / "taken.jsonl"
        return len(path.read_text().splitlines()) if path.exists() else 0

    def leftovers(self) -> list[str]:
        found = (self.folder / "repo/.git/clinvk").glob("*")
        return sorted(p.name for p in found if not p.name.endswith(".lock"))


def killer(point: int, pipe: int, folder: str) -> Callable[[str, tuple[Any, ...]], None]:
    left = point
    note = f"{folder}/repo/.git/clinvk/apply.json"

    def hook(event: str, args: tuple[Any, ...]) -> None:
        nonlocal left
        if event not in EVENTS:
            return
        if event == "open" and not (
            isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR)
        ):
            return
        # A command that is started earlier changes nothing.
        if not (os.path.exists(note) if event == "subprocess.Popen" else folder in str(args[0])):
            return
        if left:
            left -= 1
            return
        what = " ".join(args[1][:12]) if event == "subprocess.Popen" else f"{args[0]}"
        os.write(pipe, f"{event} {what}".encode())
        os.kill(os.getpid(), signal.SIGKILL)

    return hook


def main(how: str, step: int) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        faults = Faults(Path(scratch) / "work", how)
        print(json.dumps({"before": faults.before}), flush=True)
        for point in range(0, 10_000, step):
            was_killed, where = faults.run(point)
            killed = faults.state()
            _, said = faults.run(None)
            result = {
                "point": point, "where": where, "killed": killed, "said": said, "after": faults.state(),
                "records": faults.records(), "leftovers": faults.leftovers(),
            }  # fmt: skip
            print(json.dumps(result), flush=True)
            if not was_killed:
                return
            faults.reset()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 1)
