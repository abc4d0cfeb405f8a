"""`kill -9` at each point of creating, committing and removing worktrees, and disks that are full."""

import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from msgspec.structs import replace

from clinvk.errors import ClinvkError
from clinvk.worktrees.create import Place
from clinvk.worktrees.git import GitError
from clinvk.worktrees.remove import remove_worktree
from clinvk.worktrees.result import current_result
from tests.conftest import write_program
from tests.needs import need
from tests.small_disk import fill_bytes
from tests.test_full_disk import make_room
from tests.test_worktree_input import ENV, Job
from tests.test_worktrees import git, new_repository

pytestmark = pytest.mark.once

need("git")

# What a task does: create its worktree, work in it, commit it, remove it. It can be repeated.
WORK = """
import json, os, sys
from pathlib import Path
from clinvk.model.plan import Plan
from clinvk.worktrees.create import Place, create_worktree, finish_worktree
from clinvk.worktrees.remove import remove_worktree
from clinvk.worktrees.result import current_result, save_result

home, plan = Path(sys.argv[1]), Plan.from_json(json.loads(Path(sys.argv[2]).read_text()))
place = Place(home, "r1", plan.tasks[0].worktree, dict(os.environ))
if "result" not in sys.argv:
    record = finish_worktree(place, create_worktree(place, lambda _: None))
    (place.path / "a").write_text("2")
    (place.path / "new").write_text("n")
    save_result(place, record, 1)
remove_worktree(place)
"""

# Git that kills the program that started it, before or after its Nth command.
KILLER = """#!/bin/sh
n=$(($(cat "$COUNT" 2>/dev/null || echo 0) + 1)); echo $n > "$COUNT"
[ "$n" = "$KILL_BEFORE" ] && { kill -9 $PPID; exit 1; }
PATH=${PATH#*:}
if [ "$n" = "$KILL_AFTER" ]; then git "$@"; kill -9 $PPID; exit 1; fi
exec git "$@"
"""


# All points with CLINVK_ALL_POINTS in the environment; otherwise these, which take a sixth of the time.
STRIDE, FIRST = (1, (1, 1)) if "CLINVK_ALL_POINTS" in os.environ else (6, (1, 4))


def test_a_kill_at_any_point_loses_nothing_and_the_next_try_recovers(tmp_path: Path):
    repo = new_repository(tmp_path / "repo", a="1")
    task = Job(repo, tmp_path / "home")
    (tmp_path / "plan.json").write_text(json.dumps(task.plan.to_json()))
    write_program(tmp_path / "bin" / "git", KILLER)
    count = tmp_path / "count"
    path = f"{tmp_path}/bin:{ENV['PATH']}"
    head, tries = git(repo, "rev-parse", "HEAD"), 0
    for when, first in zip(("KILL_BEFORE", "KILL_AFTER"), FIRST, strict=True):
        for number in range(first, 200, STRIDE):
            count.unlink(missing_ok=True)
            code = run_forked(tmp_path, {"COUNT": str(count), when: str(number), "PATH": path})
            tries += 1
            saved = current_result(task.place)  # the next command, whatever it is
            assert run_forked(tmp_path, {"PATH": ENV["PATH"]}) == 0, (when, number)
            refs = git(repo, "for-each-ref", "--format=%(refname)", "refs/clinvk").split()
            last = max(refs, key=lambda ref: int(ref.rpartition("/")[2]))
            assert git(repo, "show", f"{last}:new") == "n", (when, number)
            if saved is not None and saved.result.is_changed:
                assert saved.result.ref in refs
            assert git(repo, "worktree", "list", "--porcelain").count("worktree ") == 1
            assert list((tmp_path / "home" / "worktrees").glob("r1*")) == [], (when, number)
            assert (git(repo, "status", "--short"), git(repo, "rev-parse", "HEAD")) == ("", head)
            git(repo, "update-ref", "--stdin", input="".join(f"delete {ref}\n" for ref in refs))
            if code == 0:
                break
    assert tries >= 5


@pytest.mark.parametrize("is_home_full", [True, False])
def test_a_full_disk_is_an_error_and_the_next_try_works(
    disk: Path, tmp_path: Path, is_home_full: bool
):
    where = tmp_path if is_home_full else disk
    repo = new_repository(where / "repo", a="1")
    (repo / "b").write_bytes(os.urandom(600_000))
    git(repo, "add", ".")
    git(repo, "commit", "-qm", "b")
    task = Job(repo, disk / "home" if is_home_full else tmp_path / "home")
    if is_home_full:
        (disk / "home").mkdir()
        fill_bytes(disk)
        with pytest.raises(ClinvkError, match="a worktree needs") as early:
            task.begin()
        assert "free some space" in str(early.value.hint)
        # It becomes full while the files are written.
        task.place.wanted = replace(task.place.wanted, size=None)
        os.truncate(disk / "filler", (disk / "filler").stat().st_size - 300_000)
        with pytest.raises(ClinvkError, match="No space left"):
            task.begin()
        assert git(repo, "worktree", "list", "--porcelain").count("worktree ") == 1
        assert not task.place.path.exists()
        make_room(disk)
        assert (task.begin() / "a").read_text() == "1"
        return
    (task.begin() / "a").write_bytes(os.urandom(900_000))
    fill_bytes(disk)
    with pytest.raises(GitError) as raised:
        task.save()
    assert raised.value.hint == "free some space, and try again"
    with pytest.raises(ClinvkError):
        remove_worktree(task.place)
    assert (task.place.path / "a").stat().st_size == 900_000  # nothing was deleted
    make_room(disk)
    assert git(repo, "cat-file", "-s", f"{task.save().result.ref}:a") == "900000"


def test_many_worktrees_at_once_are_all_complete(tmp_path: Path):
    files = {f"f{n}": str(n) for n in range(50)}
    repo = new_repository(tmp_path / "repo", **files)
    found = [Job(repo, tmp_path / "home") for _ in range(16)]
    for number, task in enumerate(found):
        wanted = replace(task.place.wanted, slug=f"t{number}", directory=f"t{number}")
        task.place = Place(tmp_path / "home", "r1", wanted, ENV)

    def work(number: int) -> str:
        task = found[number]
        (task.begin() / f"f{number}").write_text("changed")
        saved = task.save().result
        remove_worktree(task.place)
        return git(repo, "ls-tree", saved.commit)

    with ThreadPoolExecutor(16) as pool:
        trees = list(pool.map(work, range(16)))
    start = set(git(repo, "ls-tree", "HEAD").splitlines())
    for tree in trees:
        lines = set(tree.splitlines())
        assert len(lines) == len(start)
        assert len(lines - start) == 1
    assert len(set(trees)) == len(trees)


def run_forked(folder: Path, env: dict[str, str]) -> int:
    """Run WORK in a fork of this process; its exit code, negative for a signal."""
    pid = os.fork()
    if pid == 0:
        try:
            os.environ.clear()
            os.environ.update(ENV | env)
            sys.argv = ["work", str(folder / "home"), str(folder / "plan.json")]
            with open(os.devnull, "w") as null:
                os.dup2(null.fileno(), 2)
            exec(compile(WORK, "work", "exec"), {"__name__": "work"})
            os._exit(0)
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
