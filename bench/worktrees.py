"""What a task's worktree costs, against plain git; many at once; and `kill -9` at each point."""

from __future__ import annotations

import os
import random
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

from clinvk.model.plan import Plan, Task, Worktree, with_keys
from clinvk.worktrees.create import Place, create_worktree, finish_worktree
from clinvk.worktrees.prepare import prepare_plan
from clinvk.worktrees.remove import remove_worktree
from clinvk.worktrees.result import save_result

FILES, CHANGED = 5_000, 20
AT_ONCE = 100
GOAL = 1.5
ENV = {
    "PATH": os.environ["PATH"], "HOME": "/nonexistent", "GIT_CONFIG_GLOBAL": "/dev/null",
    **{f"GIT_{role}_{part}": "bench@localhost" for role in ("AUTHOR", "COMMITTER")
       for part in ("NAME", "EMAIL")},
}  # fmt: skip


class Cost(NamedTuple):
    wall: float  # seconds
    cpu: float  # seconds, of all processes


def main(rounds: int = 15, at_once: int = AT_ONCE) -> None:
    print(f"worktrees: create, commit and remove one of a repository of {FILES:,} files, against "
          f"git worktree add, commit, worktree remove: wall <= {GOAL} x; {at_once} at once: none fails, "
          "each tree as expected")  # fmt: skip
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        repo = new_repository(folder / "repo")
        places = place_of(repo, folder / "home", "one", [f"t{n}" for n in range(rounds)])
        seen: dict[str, list[Cost]] = {"git": [], "clinvk": []}
        for number in range(rounds):
            pair: list[tuple[str, Callable[[], None]]] = [
                ("git", partial(with_git, repo, folder / f"plain-{number}")),
                ("clinvk", partial(with_clinvk, places[number])),
            ]
            random.shuffle(pair)  # neither is always the one with warm caches
            for name, work in pair:
                seen[name].append(measured(work))
        reference = seen["git"]
        for name, costs in seen.items():
            wall, cpu = (ratio(costs, reference, part) for part in (0, 1))
            middle = statistics.median(cost.wall for cost in costs)
            print(f"{name:<7} wall {middle:6.3f} s {wall}   CPU {cpu}")
        many(repo, folder / "many", at_once)


def with_git(repo: Path, path: Path) -> None:
    git(repo, "worktree", "add", "-q", "--detach", str(path), "HEAD")
    change(path)
    git(path, "add", "-A")
    git(path, "commit", "-q", "-m", "change")
    git(repo, "worktree", "remove", str(path))


def measured(work: Callable[[], None]) -> Cost:
    began, before = time.perf_counter(), os.times()
    work()
    after = os.times()
    return Cost(time.perf_counter() - began, sum(after[:4]) - sum(before[:4]))


def ratio(costs: list[Cost], reference: list[Cost], part: int) -> str:
    """The ratio of the medians, and of the fastest."""
    middle = statistics.median(c[part] for c in costs) / statistics.median(
        c[part] for c in reference
    )
    fastest = min(c[part] for c in costs) / min(c[part] for c in reference)
    return f"{middle:4.2f} x (fastest {fastest:4.2f} x)"


def with_clinvk(place: Place) -> None:
    record = finish_worktree(place, create_worktree(place, print))
    change(place.path)
    save_result(place, record, 1)
    remove_worktree(place)


def many(repo: Path, home: Path, count: int) -> None:
    places = place_of(repo, home, "many", [f"t{n}" for n in range(count)])
    before = set(git(repo, "ls-tree", "-r", "HEAD").splitlines())

    def work(number: int) -> None:
        place = places[number]
        record = finish_worktree(place, create_worktree(place, print))
        (place.path / "d0" / "f0").write_text(f"of task {number}\n")
        ref = save_result(place, record, 1).result.ref
        remove_worktree(place)
        tree = set(git(repo, "ls-tree", "-r", ref).splitlines())
        text = git(repo, "show", f"{ref}:d0/f0")
        if len(tree - before) != 1 or len(before - tree) != 1 or text != f"of task {number}\n":
            raise AssertionError(f"the tree of {ref} is not what was written")

    began = time.perf_counter()
    with ThreadPoolExecutor(count) as pool:
        failed = [
            e for e in (f.exception() for f in [pool.submit(work, n) for n in range(count)]) if e
        ]
    seconds = time.perf_counter() - began
    git(repo, "fsck", "--no-dangling")
    left = git(repo, "worktree", "list", "--porcelain").count("worktree ") - 1
    print(f"{count} at once: {len(failed)} failed, {left} worktrees left, {seconds:.1f} s")
    for error in failed[:3]:
        print(f"  {error!r}")


def place_of(repo: Path, home: Path, run: str, names: list[str]) -> list[Place]:
    tasks = tuple(Task(name=n, prompt="p", cwd=str(repo), worktree=Worktree()) for n in names)
    plan = prepare_plan(with_keys(Plan(kind="parallel", tasks=tasks)), ENV, print)
    return [Place(home, run, task.worktree, ENV) for task in plan.tasks if task.worktree]


def new_repository(folder: Path) -> Path:
    folder.mkdir()
    git(folder, "init", "-q", "-b", "main")
    for number in range(FILES):
        path = folder / f"d{number // 50}" / f"f{number}"
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"line of file {number}\n" * 40)
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", "start")
    return folder


def change(folder: Path) -> None:
    for number in range(0, FILES, FILES // CHANGED):
        (folder / f"d{number // 50}" / f"f{number}").write_text("changed\n")


def git(folder: Path, *words: str) -> str:
    argv = ["git", "-C", str(folder), *words]
    return subprocess.run(argv, capture_output=True, text=True, env=ENV, check=True).stdout
