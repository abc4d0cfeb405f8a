"""The results of loops: a loop that has reached its goal is applied as one."""

import json
from typing import Any

import pytest

from tests.applied_runs import Repository, write_all
from tests.conftest import START, CommandLine, Home
from tests.needs import need

need("git")

COUNT = 'echo "$(cat n)x" > n'
# Each round fails with other words: a check that fails alike ends the loop.
CHECK = "grep xxx n || { cat n; exit 1; }"
END = {"name": "end", "prompt": "echo e > e"}


@pytest.fixture
def repository(home: Home) -> Repository:
    """With a CLI that runs its prompt as a shell script."""
    home.backend("shell", f'{START}sh -c "$(cat)" >&2\necho \'{{"type":"end","text":"done"}}\'\n')
    return Repository(home.work, {"n": "\n"})


def chain(home: Home, *later: dict[str, Any], most: int = 5) -> tuple[str, ...]:
    """A chain that counts up in rounds until there are three of them, all in one worktree."""
    steps = [{"name": "fix", "prompt": COUNT, "check": CHECK}, *later]
    repeat = {"steps": ["fix"], "until": "check", "max": most}
    # Not in the repository: it would be untracked there.
    path = home.path / "chain.json"
    path.write_text(
        json.dumps({"defaults": {"backend": "shell"}, "steps": steps, "repeat": repeat})
    )
    return "chain", str(path), "--worktree"


def test_a_loop_is_applied_as_one_result_that_of_its_last_round(
    clinvk: CommandLine, home: Home, repository: Repository
):
    done = clinvk(*chain(home, END))
    assert done.returncode == 0, done.stderr
    assert "2 results are not applied" in done.stderr
    assert len(clinvk.json("runs", "diff", "--json")["tasks"]) == 4
    dry = clinvk("runs", "apply", "--dry-run", "--commit", "--check", CHECK)
    assert [line[:5] for line in dry.stdout.splitlines()[:2]] == ["✓ fix", "✓ end"], dry.stdout

    done = clinvk("runs", "apply", "--commit", "--check", CHECK)
    assert done.returncode == 0, done.stdout
    assert "✓ fix#3: 1 file, +1 -1 in 3 rounds (" in done.stdout
    assert "Applied 2 tasks" in done.stdout
    assert (home.work / "n").read_text() == "xxx\n"
    log = repository.git("log", "--reverse", "--format=%s", f"{repository.base}..")
    assert log.splitlines() == [f"fix#3: {COUNT}", "end: echo e > e"]
    assert "fix#1" not in done.stdout + done.stderr
    diff = clinvk("runs", "diff", "last", "fix#1").stdout
    assert "+x\n" in diff
    assert "b/e" not in diff

    assert "2 applied" in clinvk("runs", "list").stdout
    shown = clinvk("runs", "show")
    assert "fix#1: applied 20" in shown.stdout
    assert "not applied" not in shown.stderr
    again = clinvk.json("runs", "apply", "--json")
    assert [(t["name"], t["state"]) for t in again["tasks"]] == [
        ("fix#3", "already applied"), ("end", "already applied"),
    ]  # fmt: skip


def test_a_round_is_applied_by_itself_if_it_is_named(
    clinvk: CommandLine, home: Home, repository: Repository
):
    assert clinvk(*chain(home)).returncode == 0
    done = clinvk.json("runs", "apply", "last", "fix#1", "--commit", "--json")
    assert [(t["name"], t["state"]) for t in done["tasks"]] == [("fix#1", "applied")]
    assert (home.work / "n").read_text() == "x\n"
    done = clinvk.json("runs", "apply", "--json")
    assert [(t["name"], t["state"]) for t in done["tasks"]] == [("fix#3", "applied")]
    assert (home.work / "n").read_text() == "xxx\n"


def test_the_rounds_of_a_loop_that_missed_its_goal_are_applied_only_if_named(
    clinvk: CommandLine, home: Home, repository: Repository
):
    done = clinvk(*chain(home, most=2))
    assert done.returncode == 65
    assert "not applied" not in done.stderr
    done = clinvk("runs", "apply")
    assert done.returncode == 0
    text = " ".join(done.stdout.split())
    (run,) = (path.name for path in (home.path / "runs").iterdir())
    anyway = f"to apply it anyway: clinvk runs apply {run}"
    assert f"– fix#1: skipped: its loop did not reach its goal; {anyway} 'fix#1'" in text
    assert f"– fix#2: skipped: its state is failed; {anyway} 'fix#1' 'fix#2'" in text
    assert "Nothing to apply." in text
    assert repository.status() == ""
    assert clinvk("runs", "apply", "last", "fix#1", "fix#2").returncode == 0
    assert (home.work / "n").read_text() == "xx\n"


def test_a_review_in_each_round_is_part_of_the_result(
    clinvk: CommandLine, home: Home, repository: Repository
):
    steps = [
        {"name": "fix", "prompt": COUNT, "check": CHECK},
        {"name": "review", "prompt": "echo seen >> seen"},
    ]
    repeat = {"steps": ["fix", "review"], "until": "check", "max": 4}
    data = {"defaults": {"backend": "shell"}, "steps": steps, "repeat": repeat}
    (home.path / "chain.json").write_text(json.dumps(data))
    done = clinvk("chain", str(home.path / "chain.json"), "--worktree")
    assert done.returncode == 0, done.stderr
    assert "1 result is not applied" in done.stderr
    done = clinvk.json("runs", "apply", "--json")
    assert [(t["name"], t["state"], t["files"], t["rounds"]) for t in done["tasks"]] == [
        ("review#3", "applied", 2, 3)
    ]
    assert (home.work / "seen").read_text() == "seen\n" * 3


def test_only_what_is_in_no_result_is_an_unsaved_change_and_belongs_to_the_last_step(
    clinvk: CommandLine, home: Home, repository: Repository
):
    """The steps share a worktree."""
    assert clinvk(*chain(home, END)).returncode == 0
    (folder,) = (home.path / "worktrees").glob("r*/chain")
    (folder / "later").write_text("later\n")
    done = clinvk("runs", "apply", "--commit")
    assert done.returncode == 0, done.stderr
    run = folder.parent.name
    ref = f"refs/clinvk/{run}/end/2"
    assert "the worktree of task 'end' had changes that are not part" in done.stderr
    assert ref in done.stderr
    assert repository.git("diff", "--name-only", f"refs/clinvk/{run}/end/1", ref) == "later"
    for name in ("fix-1", "fix-2", "fix-3"):
        refs = repository.git("for-each-ref", "--format=%(refname)", f"refs/clinvk/{run}/{name}")
        assert refs == f"refs/clinvk/{run}/{name}/1"


def test_a_step_after_a_loop_that_fails_the_check_is_not_applied_without_it(
    clinvk: CommandLine, home: Home, repository: Repository
):
    assert clinvk(*chain(home, END)).returncode == 0
    done = clinvk.json("runs", "apply", "--check", "! grep x n", "--json")
    assert [(t["name"], t["state"]) for t in done["tasks"]] == [
        ("fix#3", "check failed"), ("end", "skipped"),
    ]  # fmt: skip
    assert done["tasks"][1]["why"] == "it is built on task 'fix#3', which was not applied"
    assert repository.status() == ""


def test_a_dropped_loop_is_one_line_with_all_that_is_lost(
    clinvk: CommandLine, home: Home, repository: Repository
):
    assert clinvk(*chain(home, {"name": "look", "prompt": "true"})).returncode == 0
    [tree] = (home.path / "worktrees").glob("*/chain")
    write_all(tree, {"left.txt": "by hand\n"})
    asked = clinvk("runs", "drop").stderr.splitlines()
    assert asked[:2] == ["fix: 3 rounds, 1 file, +3 -3, not applied", "look: no changes"]
    found = clinvk("runs", "drop", "--yes").stdout.splitlines()
    assert [line.partition("; undo")[0] for line in found] == [
        "Dropped fix: 3 rounds, 1 file, +3 -3, not applied",
        "Dropped look: 1 file, +1 -0, not applied",
    ]
    undo = [line.rpartition(" ")[2] for line in found]
    assert repository.git("show", f"{undo[0]}:n") == "xxx"
    assert repository.git("show", f"{undo[1]}:left.txt") == "by hand"
    assert not tree.exists()
    assert "no results to drop" in clinvk("runs", "drop", "--yes").stderr


def test_the_json_of_a_dropped_loop_has_each_round(
    clinvk: CommandLine, home: Home, repository: Repository
):
    assert clinvk(*chain(home)).returncode == 0
    one = clinvk("runs", "drop", "last", "fix#2", "--yes").stdout
    assert one.startswith("Dropped fix#2: 1 file, +1 -1, not applied; undo: git branch NAME ")
    found = clinvk.json("runs", "drop", "--yes", "--json")["dropped"]
    assert [(t["name"], t["files"], t["insertions"]) for t in found] == [
        ("fix#1", 1, 1), ("fix#3", 1, 1)]  # fmt: skip
    assert all(t["undo"] == f"git branch NAME {t['commit']}" for t in found)
