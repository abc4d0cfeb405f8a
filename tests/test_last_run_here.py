"""`last` of `runs diff`, `apply` and `drop`: the newest run of the repository of the directory."""

import json
import os
from pathlib import Path

import pytest

import clinvk as clinvk_package
from clinvk.cmd.options.completions import complete_results
from clinvk.errors import SessionError
from clinvk.runs.folder import RunFolder
from tests.applied_runs import FILES, Repository, line, make_run
from tests.conftest import CommandLine, Home
from tests.needs import need
from tests.terminals import Terminal, ending


@pytest.fixture
def mine(home: Home) -> tuple[Repository, RunFolder]:
    """A repository with a run; the newest run is one of another repository."""
    need("git")
    repository = Repository(home.work / "mine", FILES)
    return repository, make_run(home.path, repository, {"one": repository.result(line(1, "one"))})


@pytest.fixture
def other(home: Home, mine: tuple[Repository, RunFolder]) -> tuple[Repository, RunFolder]:
    repository = Repository(home.work / "other", FILES)
    folder = make_run(home.path, repository, {"two": repository.result(line(1, "two"))})
    written = mine[1].path / "plan.json"
    os.utime(written, ns=(0, written.stat().st_mtime_ns - 10**9))  # the other one is newer
    return repository, folder


@pytest.mark.parametrize("named", [(), ("last",)])
def test_the_last_run_is_that_of_this_repository(
    mine: tuple[Repository, RunFolder],
    other: tuple[Repository, RunFolder],
    clinvk: CommandLine,
    named: tuple[str, ...],
):
    repository, folder = mine
    below, before = repository.root / "dir", other[0].state()
    assert "+one" in clinvk("runs", "diff", *named, cwd=below).stdout
    assert "Applied 1 task" in clinvk("runs", "apply", *named, cwd=below).stdout
    dropped = clinvk("runs", "drop", *named, *["--yes"], "--json", cwd=below).stdout
    assert json.loads(dropped)["run"] == folder.id
    assert other[0].state() == before


def test_a_directory_without_a_run_names_the_newest_one(
    home: Home,
    mine: tuple[Repository, RunFolder],
    other: tuple[Repository, RunFolder],
    clinvk: CommandLine,
):
    third = Repository(home.work / "third", FILES)
    for command in ("diff", "apply", "drop"):
        done = clinvk("runs", command, cwd=third.root)
        assert done.returncode == 4
        assert f"no run in the repository {third.root} yet" in done.stderr
        assert f"{other[1].id}, of {other[0].root}" in done.stderr
        assert f"name it: {other[1].id}" in done.stderr
    outside = home.path.parent / "outside"
    outside.mkdir()
    done = clinvk("runs", "apply", cwd=outside)
    assert "is in no git repository" in done.stderr
    assert done.returncode == 4
    # By its id, a run can be looked at from anywhere.
    assert "+two" in clinvk("runs", "diff", other[1].id, cwd=outside).stdout


def test_a_repository_that_was_moved_keeps_its_last_run(
    home: Home,
    mine: tuple[Repository, RunFolder],
    other: tuple[Repository, RunFolder],
    clinvk: CommandLine,
):
    moved = home.work / "moved"
    mine[0].root.rename(moved)
    assert "+one" in clinvk("runs", "diff", cwd=moved).stdout


def test_python_and_completion_mean_the_same_run(
    home: Home,
    mine: tuple[Repository, RunFolder],
    other: tuple[Repository, RunFolder],
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setenv("CLINVK_HOME", str(home.path))
    root: Path = mine[0].root
    assert [d.name for d in clinvk_package.run_diff(directory=root)] == ["one"]
    assert clinvk_package.apply_run("last", directory=root).run == mine[1].id
    assert [d.name for d in clinvk_package.drop_run("last", directory=root)] == ["one"]
    with pytest.raises(SessionError, match="is in no git repository"):
        clinvk_package.run_diff(directory="/")

    class Context:
        params: dict[str, str] = {}  # noqa: RUF012 - never changed

    monkeypatch.chdir(root)
    assert complete_results(Context(), "") == [("one", "one")]  # type: ignore[arg-type]


def test_a_terminal_is_told_which_run_it_is(
    mine: tuple[Repository, RunFolder], other: tuple[Repository, RunFolder], terminal: Terminal
):
    repository, folder = mine
    for words in (("diff", "--stat"), ("apply", "--dry-run")):
        shown, code = ending(
            terminal("runs", *words, cwd=repository.root, GIT_PAGER="cat", width=300)
        )
        assert code == 0, shown
        assert f"run {folder.id} of " in shown
