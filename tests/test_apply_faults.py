"""An apply that is killed, or cannot be completed, changes nothing; the next command finishes it."""

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from clinvk.errors import ClinvkError
from clinvk.worktrees.results.landing import landing as landings
from tests.applied_runs import Applying, Repository, line, make_run, write, write_all
from tests.conftest import PROJECT, CommandLine, Home, wait_for
from tests.small_disk import fill_bytes

pytestmark = pytest.mark.once

EARLIER = {"GIT_COMMITTER_DATE": "2026-01-01T00:00:00Z"}


def trees(state: dict) -> dict:
    """The state without the ids of commits and their order, which depend on their time."""
    return {**state, "commits": sorted(commit.split()[1] for commit in state["commits"])}


@pytest.mark.parametrize(("how", "step"), [("commit", 9), ("branch", 2)])
def test_an_apply_that_is_killed_at_any_point_is_undone_or_completed_by_the_next_one(
    how: str, step: int
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.apply_faults", how, str(step)],
        cwd=PROJECT, capture_output=True, text=True, check=True, timeout=200,
    )  # fmt: skip
    first, *points = map(json.loads, done.stdout.splitlines())
    last = points[-1]["after"]
    assert trees(last) != trees(first["before"])
    told = {"undone": 0, "complete": 0}
    for point in points:
        assert trees(point["after"]) == trees(last), point
        assert (point["records"], point["leftovers"]) == (2, []), point
        for word in told:
            told[word] += word in point["said"]
        if not point["said"]:  # nothing had to be recovered
            assert trees(point["killed"]) in (trees(first["before"]), trees(last)), point
    assert told["undone"]
    assert told["complete"] or how == "commit"


def test_a_commit_whose_clinvk_was_killed_is_waited_for_and_then_undone(
    apply: Applying,
    repository: Repository,
    tmp_path: Path,
) -> None:
    folder = apply.run({"one": repository.result(line(1, "x"))})
    hook = repository.root / ".git/hooks/pre-commit"
    hook.write_text(
        f"#!/bin/sh\n[ -e {tmp_path}/hooked ] && exit 0\ntouch {tmp_path}/hooked\n"
        f"kill -9 $(ps -o ppid= $PPID)\nsleep 1\necho late >> {tmp_path}/hooked\n"
    )
    hook.chmod(0o755)
    before = repository.state()
    pid = os.fork()
    if pid == 0:
        apply(folder, how="commit")
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    assert os.WTERMSIG(status) == 9
    hook.chmod(0o644)
    assert apply.preview(folder, how="branch", branch="x").ok
    assert "was interrupted" in apply.told[-1]
    apply(folder, how="branch", branch="result")
    assert (tmp_path / "hooked").read_text() == "late\n"  # it was waited for
    assert "its changes were undone" in apply.told[-1]
    state = repository.state()
    assert {k: state[k] for k in ("files", "index", "head", "locks")} == {
        k: before[k] for k in ("files", "index", "head", "locks")
    }


def test_what_a_user_has_written_since_the_crash_is_left_alone(
    apply: Applying,
    repository: Repository,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = apply.run(
        {"one": repository.result(line(1, "x"), write("b.txt", "B"), write("n", "n"))}
    )

    def die(self: object) -> None:
        os._exit(9)

    pid = os.fork()
    if pid == 0:
        monkeypatch.setattr(landings.Landing, "_refresh_index", die)
        apply(folder)
    os.waitpid(pid, 0)
    assert (repository.root / ".git/index.lock").exists()
    write_all(repository.root, {"b.txt": "mine\n", "n": "mine too\n"})
    with pytest.raises(ClinvkError, match=r"uncommitted changes in b\.txt; untracked .* n"):
        apply(folder)
    assert "changed meanwhile, and left as they are: b.txt, n" in apply.told[-1]
    assert repository.status() == " M b.txt\n?? n"
    assert (repository.root / "b.txt").read_text() == "mine\n"


def test_two_applies_at_once_wait_for_each_other(
    apply: Applying,
    repository: Repository,
) -> None:
    folder = apply.run({f"t{n}": repository.result(write(f"file{n}", f"{n}\n")) for n in range(4)})
    threads = [threading.Thread(target=apply, args=(folder, f"t{n}")) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert repository.status().splitlines() == [f"A  file{n}" for n in range(4)]
    assert apply.told == []


def test_a_branch_that_moves_meanwhile_is_not_overwritten(
    apply: Applying,
    repository: Repository,
) -> None:
    folder = apply.run({"one": repository.result(line(1, "x"), "First", line(2, "y"), "Second")})
    other = repository.git("commit-tree", "HEAD^{tree}", "-p", "HEAD", "-m", "other", env=EARLIER)
    hook = repository.root / ".git/hooks/post-commit"
    hook.write_text(f"#!/bin/sh\ngit update-ref refs/heads/main {other}\n")
    hook.chmod(0o755)
    with pytest.raises(ClinvkError, match="has moved meanwhile; nothing was applied"):
        apply(folder, how="commit")
    assert (repository.head, repository.status()) == (other, "")


def test_a_full_disk_changes_nothing(
    tmp_path: Path,
    disk: Path,
) -> None:
    repository = Repository(disk / "repo", {"a.txt": "a\n" * 10, "b.txt": "b\n"})
    apply = Applying(tmp_path / "clinvk", repository)
    folder = apply.run({"one": repository.result(write("a.txt", "A\n" * 20_000), write("c", "c"))})
    before = repository.state()
    fill_bytes(disk)
    with pytest.raises(ClinvkError, match="No space left on device"):
        apply(folder)
    with pytest.raises(ClinvkError, match="No space left on device"):
        apply(folder, how="commit")
    (disk / "filler").unlink()
    assert repository.state() == before
    apply(folder)
    assert repository.status() == "M  a.txt\nA  c"


def test_an_apply_that_cannot_be_recorded_is_recorded_by_the_next_one(
    tmp_path: Path,
    disk: Path,
    repository: Repository,
) -> None:
    apply = Applying(disk / "clinvk", repository)
    folder = apply.run({"one": repository.result(line(1, "x"))})
    fill_bytes(disk)
    with pytest.raises(ClinvkError, match="No space left on device"):
        apply(folder)
    assert repository.status() == "M  a.txt"
    (disk / "filler").unlink()
    assert apply(folder).tasks[0].state == "already applied"
    assert "it was complete" in apply.told[-1]
    wait_for(lambda: not (repository.root / ".git/clinvk/apply.json").exists())


def test_an_apply_that_was_killed_is_named_with_the_command_that_recovers(
    clinvk: CommandLine, home: Home, tmp_path: Path
) -> None:
    repository = Repository(tmp_path / "repository", {"a.txt": "1\n"})
    folder = make_run(home.path, repository, {"one": repository.result(line(1, "x"))})
    hook = repository.root / ".git/hooks/pre-commit"
    hook.write_text("#!/bin/sh\nkill -9 $(ps -o ppid= $PPID)\n")
    hook.chmod(0o755)
    identity = {f"GIT_{role}_{what}": "a@b" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}  # fmt: skip
    killed = subprocess.run(
        [sys.executable, "-m", "clinvk", "runs", "apply", "--commit"],
        cwd=repository.root, env=home.env | identity, capture_output=True, check=False,
    )  # fmt: skip
    assert killed.returncode == -signal.SIGKILL, killed
    hook.unlink()
    told = f"cd {repository.root} && clinvk runs apply {folder.id}"
    wait_for(lambda: told in unwrapped(clinvk("runs", "show").stderr), "the end of git", 60)
    assert told in unwrapped(clinvk("runs", "list").stderr)
    assert told in unwrapped(clinvk("doctor").stdout)
    (about,) = json.loads(clinvk("runs", "list", "--json").stdout)["runs"]
    assert about["apply_interrupted"] == str(repository.root)
    assert json.loads(clinvk("runs", "show", "--json").stdout)["apply_interrupted"] == str(repository.root)  # fmt: skip
    applies = json.loads(clinvk("doctor", "--json").stdout)["interrupted_applies"]
    assert applies == [{"run": folder.id, "root": str(repository.root)}]

    again = clinvk("runs", "apply", cwd=repository.root)
    assert again.returncode == 0, again.stderr
    assert "its changes were undone" in again.stderr
    assert told not in unwrapped(clinvk("runs", "show").stderr + clinvk("doctor").stdout)
    assert not (folder.path / "applying.json").exists()


def unwrapped(text: str) -> str:
    return " ".join(text.split())
