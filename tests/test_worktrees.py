"""Tasks in git worktrees of their own: created, committed to refs, found again, removed."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import START, CommandLine, Home
from tests.needs import need

need("git")


def git(folder: Path, *words: str, **more: Any) -> str:
    env = {**os.environ, "GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@b", "GIT_COMMITTER_NAME": "a",
           "GIT_COMMITTER_EMAIL": "a@b", "GIT_CONFIG_GLOBAL": "/dev/null"}  # fmt: skip
    argv = ["git", "-C", str(folder), "-c", "protocol.file.allow=always", *words]
    done = subprocess.run(argv, capture_output=True, env=env, text=True, check=True, **more)
    return done.stdout.strip()


def new_repository(folder: Path, **files: str) -> Path:
    git(folder.parent, "init", "-q", "-b", "main", str(folder))
    for name, text in files.items():
        (folder / name).write_text(text)
    git(folder, "add", ".")
    git(folder, "commit", "-q", "--allow-empty", "-m", "start")
    return folder


@pytest.fixture
def shell(home: Home) -> Home:
    """A CLI that runs its prompt as a shell script, and answers with what that printed."""
    home.backend(
        "shell",
        f'p=$(cat)\n{START}said=$(sh -c "$p" 2>&1)\n'
        'printf \'{"type":"end","text":"%s"}\\n\' "$(printf %s "$said" | tr \'\\n\' \' \')"\n',
    )
    return home


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    return new_repository(tmp_path / "repo", a="one\n", b="two\n")


def tasks(*prompts: str, **more: Any) -> str:
    entries = [{"prompt": p, "name": f"t{n}"} for n, p in enumerate(prompts, 1)]
    more.setdefault("worktree", True)
    return json.dumps({"tasks": entries, "defaults": {"backend": "shell"}, **more})


def test_each_task_has_a_worktree_and_its_result_is_a_commit_in_a_ref(
    clinvk: CommandLine, shell: Home, repo: Path
):
    base = git(repo, "rev-parse", "HEAD")
    script = tasks("echo 1 > a; pwd", "git rm -q b; echo new > c; git status --short | wc -l", "true")
    done = clinvk("parallel", "--json", cwd=repo, stdin=script)
    assert done.returncode == 0, done.stderr
    run = json.loads(done.stdout)
    first, second, third = run["results"]
    worktrees = shell.path / "worktrees" / run["id"]
    assert first["output"].strip() == str(worktrees / "t1")
    found = first["worktree"]
    assert found["ref"] == f"refs/clinvk/{run['id']}/t1/1"
    assert found["base"] == base
    assert (found["files"], found["insertions"], found["deletions"]) == (1, 1, 1)
    assert git(repo, "show", f"{found['ref']}:a") == "1"
    assert git(repo, "rev-parse", f"{found['ref']}^") == base
    assert git(repo, "ls-tree", "--name-only", second["worktree"]["ref"]).split() == ["a", "c"]
    assert third["worktree"]["commit"] == base
    # Nothing of the user's has changed.
    assert git(repo, "status", "--short") == ""
    assert git(repo, "rev-parse", "HEAD") == base
    assert git(repo, "branch", "--format=%(refname)") == "refs/heads/main"
    kept = json.loads((shell.path / "runs" / run["id"] / "plan.json").read_text())
    assert kept["tasks"][0]["worktree"]["commit"] == base
    session = shell.record(f"{run['id']}.t1")
    assert (session["cwd"], session["started_in"]) == (str(worktrees / "t1"), str(repo))
