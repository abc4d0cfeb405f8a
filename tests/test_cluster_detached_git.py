"""Detached runs whose files come by git: driven by a worker that has only the remote, and applied in any
clone of the repository."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.clusters import SECONDS
from tests.conftest import CommandLine, Home
from tests.needs import need
from tests.stores import RedisServer
from tests.test_cluster_git import GitCluster
from tests.test_worktrees import git, new_repository

need("git")


class Desks(GitCluster):
    """A worker that drives runs, one that runs tasks, and desks with homes of their own."""

    def begin_work(self) -> None:
        for name, slots, drive in (("north", "shell=2,judge=1", 0), ("driver", "other=1", 2)):
            home = self._home(name)
            self.worker(name, env={"CLINVK_HOME": str(home)}, slots=slots, drive=drive)

    def elsewhere(self, name: str = "elsewhere") -> dict[str, str]:
        """The environment of another machine."""
        return {"CLINVK_HOME": str(self._home(name))}

    def _home(self, name: str) -> Path:
        home = self.folder / f"home-{name}"
        (home / "backends").mkdir(parents=True)
        (home / "config.yaml").write_text("default_backend: shell\n")
        for manifest in (self.home.path / "backends").iterdir():
            (home / "backends" / manifest.name).write_text(manifest.read_text())
        return home

    def submit(self, repo: Path, kind: str, data: Any, *args: str) -> str:
        words = [kind, "-f", "-", "--detach", "--cluster", self.url, *args]
        done = self.clinvk(*words, cwd=repo, stdin=json.dumps(data), timeout=SECONDS)
        assert done.returncode == 0, done
        return done.stdout.strip()

    def runs(self, cwd: Path, *args: str, **env: str) -> Any:
        return self.clinvk(
            "runs", *args, "--cluster", self.url, cwd=cwd, env=env, timeout=SECONDS * 2
        )

    def ended(self, run: str, cwd: Path, **env: str) -> Any:
        """The result of a run, once it has ended."""
        return json.loads(self.runs(cwd, "watch", run, "--json", **env).stdout)


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    return new_repository(tmp_path / "repo", a="one\n", b="two\n")


@pytest.fixture
def desks(
    home: Home, clinvk: CommandLine, tmp_path: Path, own_server: RedisServer
) -> Iterator[Desks]:
    git(tmp_path, "init", "-q", "--bare", "remote.git")
    folder = tmp_path / "desk"
    folder.mkdir()
    made = Desks(home, clinvk, folder, own_server, tmp_path / "remote.git")
    home.backend(
        "judge",
        # The same candidate both times, since the second time they are in reverse order.
        f"test $1 = run || exit 0\ncat >> {folder}/judged\necho x >> {folder}/calls\n"
        f"best=$(wc -l < {folder}/calls)\n"
        'printf \'{"type":"end","text":"{\\\\"best\\\\": %s, \\\\"why\\\\": \\\\"x\\\\"}"}\\n\' $best\n',
    )
    yield made
    made.close()


def test_a_chain_goes_on_without_the_repository_that_it_was_started_in(
    desks: Desks, repo: Path, tmp_path: Path
):
    (repo / "a").write_text("one\nmine\n")
    steps = [
        {"name": "first", "prompt": "echo 1 >> a; echo x > x"},
        {"name": "second", "prompt": "cat a x; echo 2 >> a"},
        {"prompt": "cat a; echo '{{steps.second.diff}}' | grep ^+2"},
    ]
    run = desks.submit(repo, "chain", {"steps": steps}, "--dirty", "include", "--worktree")
    before = git(repo, "for-each-ref")
    shutil.move(repo, tmp_path / "moved")
    desks.begin_work()
    told = desks.ended(run, tmp_path, **desks.elsewhere())
    assert [r["state"] for r in told["results"]] == ["done"] * 3, told
    assert told["results"][2]["output"].split() == ["one", "mine", "1", "2", "+2"]
    assert git(tmp_path / "moved", "for-each-ref") == before


def test_candidates_of_a_detached_run_are_judged_by_what_they_changed(
    desks: Desks, repo: Path, tmp_path: Path
):
    desks.begin_work()
    task = {"name": "fix", "prompt": "echo 1 > a", "candidates": 2, "judge": "judge"}
    run = desks.submit(repo, "parallel", {"tasks": [task]})
    told = desks.ended(run, tmp_path)
    decision = told["results"][-1]["decision"]
    assert (decision["best"], decision["decided_by"]) == ("fix[1]", "judge"), told
    assert (desks.folder / "judged").read_text().count("\n+1\n") == 4
