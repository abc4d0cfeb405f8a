"""Repositories with Git LFS: worktrees have the files, results the pointers."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest

from tests.conftest import CommandLine, Home
from tests.needs import need
from tests.test_worktrees import git, new_repository, shell  # noqa: F401 - a fixture

need("git")


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    need("git-lfs")
    repo = new_repository(tmp_path / "repo", a="one\n")
    git(repo, "config", "user.name", "user")
    git(repo, "config", "user.email", "user@localhost")
    git(repo, "lfs", "install", "--local")
    git(repo, "lfs", "track", "*.bin")
    (repo / "old.bin").write_bytes(b"old" * 10_000)
    git(repo, "add", ".")
    git(repo, "commit", "-q", "-m", "with a large file")
    return repo


def pointer(content: bytes) -> str:
    oid = hashlib.sha256(content).hexdigest()
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{oid}\nsize {len(content)}"


def run(clinvk: CommandLine, folder: Path, *scripts: str) -> None:
    """Each script in a worktree of its own."""
    tasks = [{"prompt": script, "name": f"t{n}"} for n, script in enumerate(scripts, start=1)]
    file = folder.parent / "tasks.json"
    file.write_text(json.dumps({"tasks": tasks, "defaults": {"backend": "shell"}}))
    done = clinvk("parallel", str(file), "--worktree", cwd=folder)
    assert done.returncode == 0, done
    assert "has 1 file in Git LFS: each worktree gets a copy of the contents" in done.stderr


@pytest.mark.usefixtures("shell")
def test_what_a_task_changes_in_lfs_is_applied_as_it_is(clinvk: CommandLine, repo: Path):
    run(
        clinvk,
        repo,
        "printf new > new.bin; printf more >> old.bin",
        "echo two > a; cp old.bin seen",
    )
    stat = json.loads(clinvk("runs", "diff", "last", "t1", "--json", cwd=repo).stdout)["tasks"][0]
    assert {file["path"] for file in stat["files"]} == {"new.bin", "old.bin"}
    assert "+size 30004" in stat["patch"]
    assert git(repo, "status", "--short") == ""

    done = clinvk("runs", "apply", "--commit", cwd=repo)

    assert done.returncode == 0, done
    changed = b"old" * 10_000 + b"more"
    assert (repo / "old.bin").read_bytes() == changed
    assert (repo / "new.bin").read_bytes() == b"new"
    assert (repo / "seen").read_bytes() == b"old" * 10_000
    assert git(repo, "show", "HEAD:old.bin") == pointer(changed)
    assert git(repo, "show", "HEAD:new.bin") == pointer(b"new")
    assert git(repo, "status", "--short") == ""
    git(repo, "lfs", "fsck")
    assert clinvk("runs", "clean", cwd=repo).returncode == 0
    assert git(repo, "worktree", "list", "--porcelain").count("worktree ") == 1


@pytest.mark.usefixtures("shell")
def test_a_content_that_is_missing_here_is_named_and_nothing_is_changed(
    clinvk: CommandLine, home: Home, repo: Path
):
    run(clinvk, repo, "printf new > new.bin")
    oid = hashlib.sha256(b"new").hexdigest()
    there = repo / ".git" / "lfs" / "objects" / oid[:2] / oid[2:4] / oid
    kept = home.path.parent / "kept"
    shutil.move(there, kept)

    failed = clinvk("runs", "apply", cwd=repo)

    assert failed.returncode == 1, failed
    assert "git read-tree: Error downloading object: new.bin" in failed.stderr
    assert "git lfs fetch" in failed.stderr
    assert git(repo, "status", "--short") == ""
    shutil.move(kept, there)
    assert clinvk("runs", "apply", cwd=repo).returncode == 0
    assert (repo / "new.bin").read_bytes() == b"new"
